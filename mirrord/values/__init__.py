"""Values that people write as text: sizes, rates, networks, ports, names. Each knows the way in and the way back.

A type here is an annotation for a model's field. Going in, it takes what TOML, JSON and the command line may hold
(so numbers as text, too) and also its own value; going out to JSON it gives back the same vocabulary, so that what is
shown can be used as configuration again. A refusal is a ValueError that says what was expected.
"""

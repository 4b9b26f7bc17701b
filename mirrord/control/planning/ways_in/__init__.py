"""How each kind of source is planned: a file for each kind."""

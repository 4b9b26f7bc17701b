"""What a configuration file says, before anybody asks what it means."""

from __future__ import annotations

import re
from typing import Any

import tomli

_IN_PYTHON = re.compile(r"\('[^()]*'\,?\)")
"""A dotted key, as tomli shows it: ('mirrors', 'core')."""


def parsed(data: bytes) -> dict[str, Any]:
    """What a file says. ValueError, in words."""
    try:
        return tomli.loads(data.decode("utf-8-sig"))  # some editors write a byte order mark, which says nothing
    except UnicodeDecodeError as error:
        utf16 = "; it looks like UTF-16: save it as UTF-8" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(f"expected UTF-8, not byte {data[error.start]:#x} at {error.start}{utf16}") from None
    except ValueError as error:  # TOMLDecodeError, or a number too long for int()
        words = _IN_PYTHON.sub(lambda found: ".".join(re.findall(r"'([^']*)'", found[0])), str(error))
        words = words.replace("Invalid value", "Invalid value: text stands in quotes, a list in brackets")
        raise ValueError(f"expected TOML: {words}") from None
    except RecursionError:
        raise ValueError("expected tables and lists that are not nested so deeply") from None

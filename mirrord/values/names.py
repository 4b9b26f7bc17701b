"""Names of things, of devices and of files."""

from __future__ import annotations

import re
from typing import Annotated

from mirrord.values.written import TEXT, TEXT_OR_LIST, Written, matching, one_or_more, same, shown_by, unexpected

_NAME = re.compile(r"[^\W_][\w.-]{0,62}")  # letters of any script
GLOB = re.compile(r"[*?\[\]]")


def _device(value: object) -> str:
    """As the kernel's dev_valid_name: at most 15 bytes, no slash, colon or space, and neither "." nor ".."."""
    if isinstance(value, str) and GLOB.search(value):
        raise unexpected("the name of one device, without * ? [ and ]", value)
    return _device_or_glob(value)


def _device_or_glob(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^/:\s\0]+", value) or value in {".", ".."}:
        raise unexpected("the name of a device", value)
    limit = 64 if GLOB.search(value) else 15
    if len(value.encode()) > limit:
        raise unexpected(f"the name of a device, at most {limit} bytes", value)
    return value


LONGEST_PATH = 4095  # linux/limits.h, PATH_MAX, which counts the byte that ends it


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise unexpected('an absolute path without ".."', value)
    if len(value.encode()) > LONGEST_PATH:
        raise unexpected(f"a path of at most {LONGEST_PATH} bytes", value)
    return value


def _socket(value: object) -> str:
    if value == "":
        return ""
    path = _path(value)
    if len(path.encode()) > 107:  # sun_path, unix(7)
        raise unexpected("the path of a socket, at most 107 bytes", value)
    return path


def _required_socket(value: object) -> str:
    if value == "":
        raise unexpected("the path of a socket", value)
    return _socket(value)


def _netns(value: object) -> str:
    if isinstance(value, str) and value.startswith("/"):
        return _path(value)
    return matching(re.compile(r"(?!\.{1,2}$)[^/\0]{1,255}"), "the name or path of a network namespace")(value)


parse_name = matching(_NAME, "a name: 1 to 63 letters, digits, _, . and -, a letter or digit first")

Name = Annotated[str, Written(parse_name, same, TEXT)]
_LINE = re.compile(r"[^\x00-\x1f\x7f]{0,1024}")
Description = Annotated[str, Written(matching(_LINE, "one line of at most 1024 characters"), same, TEXT)]
Group = Annotated[str, Written(matching(re.compile(r"[^:\s\0]{0,32}"), "the name of a group"), same, TEXT)]
Pattern = Annotated[str, Written(matching(re.compile(r"[^\0]+"), "a path or a pattern of paths"), same, TEXT)]
Device = Annotated[str, Written(_device, same, TEXT)]
Devices = Annotated[tuple[str, ...], Written(one_or_more(_device_or_glob), shown_by(same), TEXT_OR_LIST)]
Path = Annotated[str, Written(_path, same, TEXT)]
_SERVER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
ServerName = Annotated[str, Written(matching(_SERVER, "the name of a host, or an address"), same, TEXT)]
Socket = Annotated[str, Written(_required_socket, same, TEXT)]
OptionalSocket = Annotated[str, Written(_socket, same, TEXT)]
Netns = Annotated[str, Written(_netns, same, TEXT)]

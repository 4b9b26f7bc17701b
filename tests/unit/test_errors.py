"""The errors' texts and codes, which people and programs read."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mirrord.cli.asker import Asker
from mirrord.errors import ConfigError, HostError, MirrordError, Problem, Refused, at_address


def test_a_problem_is_one_line_of_file_path_and_expectation() -> None:
    assert str(Problem("mirrors.a", "expected x", "/etc/m.toml")) == "/etc/m.toml: mirrors.a: expected x"
    assert str(Problem("", "cannot be read", "/etc/m.toml")) == "/etc/m.toml: cannot be read"
    assert str(Problem("mirrors.a", "expected x")) == "mirrors.a: expected x"


def test_a_config_error_tells_every_problem() -> None:
    error = ConfigError([Problem("a", "one", "f"), Problem("b", "two", "g")])
    assert str(error).splitlines() == ["f: a: one", "g: b: two"]
    assert (error.code, error.path, error.exit_status) == ("invalid_config", "a", 2)


def test_codes_and_paths() -> None:
    refused = Refused("holds the default route", "mirrors.a.sessions[0].destination")
    assert isinstance(refused, MirrordError)
    assert (refused.code, refused.exit_status) == ("refused", 1)
    assert str(refused) == "mirrors.a.sessions[0].destination: holds the default route"
    assert str(HostError("no_privilege", "needs CAP_NET_RAW")) == "needs CAP_NET_RAW"


def test_an_address_is_not_told_twice() -> None:
    with pytest.raises(OSError, match="attempting") as taken:
        socket.create_server(("192.0.2.1", 9817))
    assert at_address(taken.value) == "Cannot assign requested address"
    with pytest.raises(OSError, match="Connect call failed") as refused:
        asyncio.run(asyncio.open_connection("127.0.0.1", 1))
    assert at_address(refused.value) == "Connection refused"


def test_an_answer_that_lacks_something_is_another_versions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        Asker("", as_json=False).show({}, lambda answer, _: answer["costs"])
    assert end.value.code == 1
    assert (
        capsys.readouterr().err == "mirrorctl: the daemon did not tell 'costs': it is another version's, restart it\n"
    )

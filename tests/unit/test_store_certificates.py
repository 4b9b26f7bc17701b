"""The agent's certificate for the store: what is wrong with it is said in words. Certificates are openssl's."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from mirrord.cluster.certificates import context, out_of_time
from mirrord.cluster.errors import StoreError


def made(directory: Path, name: str, *, at: str = "", words: tuple[str, ...] = ("-noenc",)) -> tuple[str, str]:
    """A certificate for a day from a time on, and its key."""
    certificate, key = str(directory / f"{name}.pem"), str(directory / f"{name}-key.pem")
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "1")
    clock = ("faketime", at) if at else ()
    subprocess.run(
        [*clock, *command, *words, "-subj", "/O=mirrord cluster", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, env={**os.environ, "TZ": "UTC"},
    )  # fmt: skip
    return certificate, key


def test_one_that_is_out_of_time_says_so(tmp_path: Path) -> None:
    old, _ = made(tmp_path, "old", at="2020-01-01 00:00:00")
    new, _ = made(tmp_path, "new", at="2055-01-01 00:00:00")  # RFC 5280: from 2050 on in another form
    now, _ = made(tmp_path, "now")
    second = r"T00:00:0[0-5]Z"  # in which openssl came to it
    assert re.fullmatch(rf"{old} has expired, at 2020-01-02{second}", out_of_time(old))
    assert re.match(rf"{new} is valid from 2055-01-01{second} on, and here it is ", out_of_time(new))
    assert out_of_time(now) == ""
    for text in ("", "no certificate", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"):
        (tmp_path / "bad").write_text(text)
        assert out_of_time(str(tmp_path / "bad")) == ""


def test_files_that_cannot_be_used_say_which_and_why(tmp_path: Path) -> None:
    one, key = made(tmp_path, "one")
    _, other = made(tmp_path, "other")
    _, locked = made(tmp_path, "locked", words=("-passout", "pass:secret"))
    text = str(tmp_path / "text")
    Path(text).write_text("no certificate")
    context(one, one, key)
    for ca, certificate, its_key, why in (
        (one, one, other, "do not belong together"),
        (one, one, locked, "has a pass phrase"),
        (one, text, key, "cannot be read as PEM"),
        (text, one, key, "no certificate that can be read"),
        (one, one, str(tmp_path), "Is a directory"),
        (one, str(tmp_path / "none"), key, "No such file"),
    ):
        with pytest.raises(StoreError, match=why):
            context(ca, certificate, its_key)

"""A certificate authority, and certificates of it, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Pem(NamedTuple):
    """A certificate's files."""

    certificate: Path
    key: Path


class Authority:
    """Makes certificates in a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory, self._name = directory, name
        self.key, self.certificate = directory / f"{name}.key", directory / f"{name}.pem"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(self, name: str, alternative: str = "DNS:mirrord.example") -> Pem:
        """A certificate of this name, for this subject alternative name (x509v3_config(5))."""
        made = Pem(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        _openssl(
            "req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", made.key, "-out", made.certificate,
            "-CA", self.certificate, "-CAkey", self.key, "-addext", f"subjectAltName={alternative}",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)

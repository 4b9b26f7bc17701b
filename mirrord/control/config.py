"""Configuration files to one model, or to every problem in all of them.

The main file may include drop-ins; each file adds objects and keys of [daemon], and none may define what another one
has defined. Every file is read and every object examined, whatever is wrong with the others.
"""

from __future__ import annotations

import glob
import os.path
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mirrord.control.refusals import Declared, Use, refusals, warnings
from mirrord.control.supported import unsupported
from mirrord.control.validation import examine, join, nearest, parts
from mirrord.errors import ConfigError, Problem
from mirrord.model import Config, Daemon, Filter, FlowNetwork, Mirror, Model
from mirrord.values import GLOB, parse_name, unexpected

DEFAULT_PATH = "/etc/mirrord/mirrord.toml"
SECTIONS: dict[str, type[Model]] = {"flow_networks": FlowNetwork, "filters": Filter, "mirrors": Mirror}


class Loaded(NamedTuple):
    """A configuration that may run, what is doubtful in it, and where each object is defined."""

    config: Config
    warnings: list[Problem]
    origins: dict[str, str]  # by dotted path, as "mirrors.core" or "daemon.mark": the file


def load(path: str = DEFAULT_PATH) -> Loaded:
    """Read a configuration file and all that it includes.

    Raises ConfigError with every problem in every file.
    """
    return _Loader(path).load()


class _Loader:
    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.origins: dict[str, str] = {}
        self.daemon: dict[str, Any] = {}
        self.written: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.complete = True

    def load(self) -> Loaded:
        main = self._read(self.path)
        self._add(self.path, main)
        for path in self._included():
            table = self._read(path)
            daemon = table.get("daemon")
            if isinstance(daemon, dict) and daemon.pop("include", None) is not None:
                self._problem(path, "daemon.include", "only the main file may include others")
            self._add(path, table)
        objects, declared = self._examine()
        self.problems += self._located([*refusals(declared), *unsupported(declared)])
        if self.problems:
            raise ConfigError(dict.fromkeys(self.problems))
        config = Config(daemon=declared.daemon, **objects)
        return Loaded(config, self._located(warnings(declared)), self.origins)

    def _problem(self, file: str, path: str, expectation: str) -> None:
        self.problems.append(Problem(path, expectation, file))

    def _read(self, path: str) -> dict[str, Any]:
        try:
            with Path(path).open("rb") as file:
                return tomllib.load(file)
        except OSError as error:
            self._problem(path, "", f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self._problem(path, "", f"expected UTF-8, not byte {error.object[error.start]:#x} at {error.start}")
        except ValueError as error:  # TOMLDecodeError, or a number too long for int()
            self._problem(path, "", f"expected TOML: {error}")
        self.complete = False
        return {}

    def _included(self) -> Iterator[str]:
        """Paths that the main file's `include` names, each once, in the order of the patterns, sorted in each."""
        seen = {os.path.realpath(self.path)}
        patterns = self.daemon.get("include", Daemon().include)
        for pattern in patterns if isinstance(patterns, (list, tuple)) else ():
            if not isinstance(pattern, str):
                continue  # a problem of the key, told with the others
            full = str(Path(self.path).parent / pattern)
            # Path.glob takes no absolute pattern.
            for path in sorted(glob.glob(full)) if GLOB.search(pattern) else [full]:  # noqa: PTH207
                real = os.path.realpath(path)
                if real not in seen:
                    seen.add(real)
                    yield path

    def _add(self, file: str, table: dict[str, Any]) -> None:
        for section, content in table.items():
            if section != "daemon" and section not in SECTIONS:
                self._problem(file, section, f"unknown key{nearest(section, ('daemon', *SECTIONS))}")
            elif not isinstance(content, dict):
                self._problem(file, section, str(unexpected("a table", content)))
            else:
                target = self.daemon if section == "daemon" else self.written[section]
                for key, value in content.items():
                    path = join(section, key)
                    if path in self.origins:
                        self._problem(file, path, f"already defined in {self.origins[path]}")
                    else:
                        self.origins[path] = file
                        target[key] = value

    def _examine(self) -> tuple[dict[str, dict[str, Any]], Declared]:
        """Models of what was written, whole or as good as they get."""
        daemon, problems = examine(Daemon, self.daemon, "daemon")
        self.problems += self._located(problems)
        objects: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        usable: dict[str, Model] = {}
        uses: list[Use] = []
        for section, model in SECTIONS.items():
            for name, written in self.written[section].items():
                path = join(section, name)
                one, problems = examine(model, written, path)
                try:
                    parse_name(name)
                except ValueError as error:
                    problems.append(Problem(path, str(error)))
                self.problems += self._located(problems)
                if one is not None:
                    objects[section][name] = usable[path] = one
                if model is Mirror and isinstance(written, dict):
                    sessions = parts(Mirror, written, path)
                    usable |= {at: session for at, _, session in sessions if session is not None}
                    uses += _uses(path, "flow_network", written)
                    uses += [use for at, session, _ in sessions for use in _uses(at, "filter", session)]
        names = {section: frozenset(self.written[section]) for section in ("flow_networks", "filters")}
        return objects, Declared(daemon or Daemon(), usable, names, tuple(uses), self.complete)

    def _located(self, problems: list[Problem]) -> list[Problem]:
        """Tell the file of each: where the object, or the daemon's key, is defined."""
        return [problem._replace(file=self._origin(problem.path)) for problem in problems]

    def _origin(self, path: str) -> str:
        holders = (one for one in self.origins if path == one or path.startswith((f"{one}.", f"{one}[")))
        return self.origins.get(max(holders, key=len, default=""), self.path)


def _uses(path: str, key: str, written: object) -> list[Use]:
    """The name that stands under a key, whatever else is wrong around it."""
    name = written.get(key) if isinstance(written, dict) else None
    return [Use(join(path, key), f"{key}s", name)] if isinstance(name, str) else []

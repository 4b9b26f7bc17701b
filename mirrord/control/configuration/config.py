"""Configuration files, and objects made at run time, to one model, or to every problem in all of them.

The main file may include drop-ins; each file adds objects and keys of [daemon], and none may define what another one
has defined. Every file is read and every object examined, whatever is wrong with the others. What a file defines goes
before what was made at run time under the same name.
"""

from __future__ import annotations

import glob
import os.path
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mirrord.control.configuration import expiries
from mirrord.control.configuration.doubts import warnings
from mirrord.control.configuration.refusals import Declared, Use, refusals, unknown_names
from mirrord.control.configuration.toml import parsed
from mirrord.errors import ConfigError, Problem, nearest
from mirrord.model import Config, Daemon, Filter, FlowNetwork, Mirror, Model, Session
from mirrord.model.lines import line_of, places
from mirrord.model.validation import Examined, doubts, examine, join, parts, session_path
from mirrord.values.names import GLOB, parse_name
from mirrord.values.written import unexpected

DEFAULT_PATH = "/etc/mirrord/mirrord.toml"
SECTIONS: dict[str, type[Model]] = {"flow_networks": FlowNetwork, "filters": Filter, "mirrors": Mirror}


Objects = Mapping[str, Mapping[str, Any]]
"""By section and name, each as it was written."""

NOTHING: Objects = {section: {} for section in SECTIONS}


_INDEXED = re.compile(r'(mirrors\.(?:[\w-]+|"(?:[^"\\]|\\.)*"))\.sessions\[(\d+)\]')
"""The path of a session; the first part is its mirror's."""


@dataclass
class Files:
    """What the files say, whatever is wrong with it."""

    path: str
    daemon: dict[str, Any] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=lambda: {section: {} for section in SECTIONS})
    lines: dict[str, dict[str, int]] = field(default_factory=dict)  # by file and dotted path
    origins: dict[str, str] = field(default_factory=dict)  # by dotted path, "mirrors.core" or "daemon.mark": the file
    problems: list[Problem] = field(default_factory=list)
    complete: bool = True


class SetAside(NamedTuple):
    """An object made at run time that does not run, and why."""

    section: str
    name: str
    written: Any
    reason: str


CLUSTER = "the cluster"
"""In place of a file, of what an agent wants of this host."""


class LeftOut(NamedTuple):
    """An object of the cluster's that this host does not take, and why; a session has its mirror."""

    kind: str
    name: str
    mirror: str
    code: str
    path: str
    message: str


class Loaded(NamedTuple):
    """A configuration that may run, what is doubtful in it, and what it was made of."""

    config: Config
    warnings: list[Problem]
    files: Files
    made: Objects  # at run time
    set_aside: tuple[SetAside, ...] = ()
    lent: Objects = NOTHING  # the cluster's, as far as they go with the others
    left_out: tuple[LeftOut, ...] = ()  # of the cluster's, as those that were lent were looked at

    def written(self, section: str, name: str) -> Any:
        """What was written of an object that is in the configuration."""
        for objects in (self.made, self.lent):
            if name in objects.get(section, ()):
                return objects[section][name]
        return self.files.objects[section][name]

    def origin(self, section: str, name: str) -> str:
        """The file that defines an object, or CLUSTER; "" if it was made at run time."""
        if name in self.lent.get(section, ()):
            return CLUSTER
        return self.files.origins.get(join(section, name), "")


def load(path: str = DEFAULT_PATH) -> Loaded:
    """Read a configuration file and all that it includes.

    Raises ConfigError with every problem in every file.
    """
    return combine(read(path))


def by_name(text: str, made: Objects) -> str:
    """The text, with the paths in it of sessions made at run time by their names instead of their indices."""

    def named(found: re.Match[str]) -> str:
        for name, written in made["mirrors"].items():
            sessions = (
                written.get("sessions") if join("mirrors", name) == found[1] and isinstance(written, dict) else None
            )
            session = sessions[int(found[2])] if isinstance(sessions, list) and int(found[2]) < len(sessions) else None
            if isinstance(session, dict) and isinstance(session.get("name"), str):
                return session_path(name, session["name"])
        return found[0]

    return _INDEXED.sub(named, text)


def read(path: str) -> Files:
    """Read a configuration file and all that it includes; what is wrong is among the problems."""
    return _Reader(path).read()


def combine(
    files: Files,
    made: Objects = NOTHING,
    newest: Iterable[str] = (),
    before: Loaded | None = None,
    lent: Objects | None = None,
) -> Loaded:
    """One configuration of all. ConfigError has every problem; its code is `refused` if all are section 2's.

    Of two objects that do not go together the one below a path of `newest` is to blame: the other was there before.
    What was written alike in the configuration `before` is not read again: its models are in the new one, too. So are
    the cluster's objects, unless others are `lent`.
    """
    if lent is not None or before is None:
        return _Combination(files, made, before, lent or NOTHING).combined(tuple(newest))
    combined = _Combination(files, made, before, before.lent).combined(tuple(newest))
    return combined._replace(left_out=before.left_out)


def restore(files: Files, made: Objects, doubtful: Iterable[SetAside], before: Loaded | None = None) -> Loaded:
    """Combine, and let in what is doubtful as far as it goes with the rest. ConfigError: not even the rest does.

    The cluster's objects are not in it: whoever lent them does so anew.
    """
    loaded = combine(files, made, before=before, lent=NOTHING)
    set_aside = list(loaded.set_aside)
    for one in sorted(doubtful, key=lambda one: tuple(SECTIONS).index(one.section)):
        more = {**loaded.made, one.section: {**loaded.made[one.section], one.name: one.written}}
        try:
            loaded = combine(files, more, before=loaded)
        except ConfigError as error:
            set_aside.append(one._replace(reason=str(error)))
        else:
            set_aside += loaded.set_aside
    return loaded._replace(set_aside=tuple(set_aside))


class _Reader:
    def __init__(self, path: str) -> None:
        self.files = Files(path)

    def read(self) -> Files:
        main = self._read(self.files.path)
        self._add(self.files.path, main)
        for path in self._included():
            table = self._read(path)
            daemon = table.get("daemon")
            if isinstance(daemon, dict) and daemon.pop("include", None) is not None:
                self._problem(path, "daemon.include", "only the main file may include others")
            self._add(path, table)
        return self.files

    def _problem(self, file: str, path: str, expectation: str) -> None:
        line = line_of(self.files.lines.get(file, {}), path)
        self.files.problems.append(Problem(path, expectation, file, line))

    def _read(self, path: str) -> dict[str, Any]:
        try:
            data = Path(path).read_bytes()
            table = parsed(data)
            self.files.lines[path] = places(data.decode("utf-8-sig"))
            return table  # noqa: TRY300 (both are what may fail)
        except OSError as error:
            self._problem(path, "", f"cannot be read: {error.strerror}")
        except ValueError as error:
            self._problem(path, "", str(error))
        self.files.complete = False
        return {}

    def _included(self) -> Iterator[str]:
        """Paths that the main file's `include` names, each once, in the order of the patterns, sorted in each."""
        seen = {os.path.realpath(self.files.path)}
        # The default belongs to the default file alone: another one, to try something, is not to meet the host's own.
        default = Daemon().include if seen == {os.path.realpath(DEFAULT_PATH)} else ()
        patterns = self.files.daemon.get("include", default)
        for pattern in patterns if isinstance(patterns, (list, tuple)) else ():
            if not isinstance(pattern, str):
                continue  # a problem of the key, told with the others
            full = str(Path(self.files.path).parent / pattern)
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
                target = self.files.daemon if section == "daemon" else self.files.objects[section]
                for key, value in content.items():
                    path = join(section, key)
                    if path in self.files.origins:
                        self._problem(file, path, f"already defined in {self.files.origins[path]}")
                    else:
                        self.files.origins[path] = file
                        target[key] = value


class _Combination:
    def __init__(self, files: Files, made: Objects, before: Loaded | None, lent: Objects) -> None:
        self.files, self.before, self.lent = files, before, lent
        self.problems = list(files.problems)
        self.origins = dict(files.origins)
        self.written = {section: dict(objects) for section, objects in files.objects.items()}
        self.made: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.set_aside: list[SetAside] = []
        for section, objects in made.items():
            for name, written in objects.items():
                path = join(section, name)
                if name in files.objects[section]:
                    reason = f"{path}: {files.origins[path]} defines it, too"
                    self.set_aside.append(SetAside(section, name, written, reason))
                else:
                    self.written[section][name] = self.made[section][name] = written
                    self.origins[path] = ""
        for section in SECTIONS:
            for name, written in lent.get(section, {}).items():
                self.written[section][name] = written
                self.origins[join(section, name)] = ""
        self._named = {section: {**self.made[section], **lent.get(section, {})} for section in SECTIONS}

    def combined(self, newest: tuple[str, ...]) -> Loaded:
        objects, declared = self._examine()
        declared = declared.blaming(newest)
        self.problems += self._located(list(unknown_names(declared)))
        forbidden = self._located(refusals(declared))
        if self.problems or forbidden:
            code = "invalid_config" if self.problems else "refused"
            raise ConfigError(dict.fromkeys([*self.problems, *forbidden]), code)
        config = Config(daemon=declared.daemon, **objects)
        return Loaded(
            config,
            self._located([*warnings(declared), *self._doubts()]),
            self.files,
            self.made,
            tuple(self.set_aside),
            self.lent,
        )

    def _examine(self) -> tuple[dict[str, dict[str, Any]], Declared]:
        """Models of what was written, whole or as good as they get."""
        daemon, problems = examine(Daemon, self.files.daemon, "daemon")
        self.problems += self._located(problems)
        objects: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        usable: dict[str, Model] = {}
        uses: list[Use] = []
        for section, model in SECTIONS.items():
            for name, written in self.written[section].items():
                path = join(section, name)
                one, problems = self._examine_one(section, name, written, path)
                whole = not problems
                try:
                    parse_name(name)
                except ValueError as error:
                    problems.append(Problem(path, str(error)))
                if self.origins[path] and isinstance(one, Mirror):
                    problems += expiries.problems_in_file(one, path)
                self.problems += self._located(problems)
                if one is not None:
                    objects[section][name] = usable[path] = one
                if model is Mirror and isinstance(written, dict):
                    sessions = _whole_sessions(one, written, path) if whole else _parts(written, path)
                    usable |= {at: session for at, _, session in sessions if session is not None}
                    uses += _uses(path, "flow_network", written)
                    tables = [(at, session) for at, session, _ in sessions if isinstance(session, dict)]
                    uses += [use for at, table in tables if "filter" in table for use in _uses(at, "filter", table)]
                    uses += [
                        use
                        for at, table in tables
                        if isinstance(source := table.get("source"), dict) and "flow_network" in source
                        for use in _uses(join(at, "source"), "flow_network", source)
                    ]
        names = {section: frozenset(self.written[section]) for section in ("flow_networks", "filters")}
        return objects, Declared(daemon or Daemon(), usable, names, tuple(uses), self.files.complete)

    def _doubts(self) -> Iterator[Problem]:
        for name, mirror in self.written["mirrors"].items():
            for index, session in enumerate(mirror.get("sessions", ())):
                if "rate_limit" in session:
                    yield from doubts(session, join("mirrors", name, "sessions", index))

    def _examine_one(self, section: str, name: str, written: object, path: str) -> Examined:
        """What became of one object; what was written alike before is what it was."""
        model, before = SECTIONS[section], self.before
        known = None if before is None else getattr(before.config, section).get(name)
        if before is None or known is None or not isinstance(written, dict):
            return examine(model, written, path)
        old = before.written(section, name)
        if old.keys() == written.keys() and all(_alike(old[key], written[key]) for key in old):
            return Examined(known, [])
        if isinstance(known, Mirror) and isinstance(written.get("sessions"), list):
            with suppress(ValidationError):
                return Examined(_mirror(written, old.get("sessions", ()), known), [])
        return examine(model, written, path)

    def _located(self, problems: list[Problem]) -> list[Problem]:
        """Tell the file of each: where the object, or the daemon's key, is defined."""
        return [
            Problem(
                by_name(one.path, self._named), by_name(one.expectation, self._named), file, self._line(file, one.path)
            )
            for one in problems
            for file in (self._origin(one.path),)
        ]

    def _line(self, file: str, path: str) -> int:
        return line_of(self.files.lines.get(file, {}), path)

    def _origin(self, path: str) -> str:
        holders = (one for one in self.origins if path == one or path.startswith((f"{one}.", f"{one}[")))
        return self.origins.get(max(holders, key=len, default=""), self.files.path)


def _alike(old: object, new: object) -> bool:
    """Whether the same was written: to Python, 1 and true would be equal, and are not the same here."""
    if old is new:
        return True
    if isinstance(old, list) and isinstance(new, list):  # mostly of the same objects
        return len(old) == len(new) and all(map(_alike, old, new))
    return repr(old) == repr(new)


def _mirror(written: dict[str, Any], old: Sequence[Any], known: Mirror) -> Mirror:
    """A mirror with the sessions of a known one that were written alike: each by itself is right. ValidationError."""
    sessions = tuple(
        one if isinstance(one, Session) else Session.model_validate(one)
        for one in _known_sessions(written["sessions"], old, known)
    )
    mirror = Mirror.model_validate({**written, "sessions": ()})
    return Mirror.model_validate(mirror.model_copy(update={"sessions": sessions}))


def _known_sessions(written: list[Any], old: Sequence[Any], known: Mirror) -> list[Any]:
    """The sessions as written, or as models where they were written alike before under the same name."""
    models = {one["name"]: (one, model) for one, model in zip(old, known.sessions, strict=True)}
    found = []
    for one in written:
        name = one.get("name") if isinstance(one, dict) else None
        before, model = models.get(name, (None, None)) if isinstance(name, str) else (None, None)
        found.append(model if model is not None and _alike(before, one) else one)
    return found


def _parts(written: dict[str, Any], path: str) -> list[tuple[str, object, Session | None]]:
    """The sessions of a mirror: the path, what was written, what can be used of it."""
    return [(at, one, examined.model) for at, one, examined in parts(Mirror, written, path)]


def _whole_sessions(mirror: Mirror, written: dict[str, Any], path: str) -> list[tuple[str, object, Session | None]]:
    """The same of a mirror without problems."""
    listed = join(path, "sessions")
    pairs = zip(written.get("sessions", ()), mirror.sessions, strict=True)
    return [(f"{listed}[{n}]", one, model) for n, (one, model) in enumerate(pairs)]


def _uses(path: str, key: str, written: object) -> list[Use]:
    """The name that stands under a key, whatever else is wrong around it."""
    name = written.get(key) if isinstance(written, dict) else None
    return [Use(join(path, key), f"{key}s", name)] if isinstance(name, str) else []

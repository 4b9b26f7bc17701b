"""What stands on the command line -> the table that would stand in the TOML; checked by the models before it is sent.

All values are text here: the models read numbers and flags from it. They take a while to be imported, so that only the
commands that change something do so, when they run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Callback = Callable[[click.Context, click.Parameter, Any], Any]
PAIRS = "k=v,..."
WITH_COMMAS = "tcp_flags="  # its value has commas of its own: "syn,!ack"


def read_by(parse: Callable[[str], Any]) -> Callback:
    """A parameter's callback: what it holds, read by this function, whose ValueError is told as bad usage."""

    def read(context: click.Context, _: click.Parameter, value: Any) -> Any:
        if context.resilient_parsing:  # completion: nobody looks at what stands there already
            return value
        try:
            if isinstance(value, tuple):  # of an option that may be given again
                return [parse(one) for one in value]
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read


def name(text: str) -> str:
    """A new object's name. ValueError."""
    from mirrord.values.names import parse_name  # noqa: PLC0415 (see above)

    return parse_name(text)


def pairs(text: str) -> dict[str, Any]:
    """`key=value,...` as a table. A key given again makes a list, a dotted key a table within the table."""
    written: dict[str, Any] = {}
    before = ""
    for part in _parts(text):
        key, equals, value = part.partition("=")
        if not (key and equals):
            hint = (
                f"; a list has its key before each value: {before},{before.partition('=')[0]}={part}" if before else ""
            )
            raise ValueError(f"expected key=value, not {part!r}{hint if part else ''}")
        before = part
        *outer, last = key.split(".")
        table = written
        for at in outer:
            table = table.setdefault(at, {})
            if not isinstance(table, dict):
                raise ValueError(f"{at} has a value already, so it has no {last!r}")  # noqa: TRY004 (the text is wrong, no type)
        there = table.get(last)
        if isinstance(there, dict):
            raise ValueError(f"{last} is a table already, so it is not {value!r}")  # noqa: TRY004 (the same)
        table[last] = value if there is None else [*(there if isinstance(there, list) else [there]), value]
    return written


def _parts(text: str) -> list[str]:
    """Each key with its value."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and part and "=" not in part and parts[-1].startswith(WITH_COMMAS):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def source(text: str) -> dict[str, Any]:
    """As `pairs`; a bare word is a device, or a pattern of devices."""
    return pairs(text) if "=" in text or "," in text else {"type": "device", "device": text}


def session(text: str) -> dict[str, Any]:
    """A whole session, as `pairs`; its source may be a bare word, too."""
    written = pairs(text)
    if isinstance(written.get("source"), str):
        written["source"] = source(written["source"])
    return written


def given(**options: Any) -> dict[str, Any]:
    """The options that the command line has, by name."""
    return {key: value for key, value in options.items() if value is not None}


def check_patch(model: str, there: dict[str, Any], patch: dict[str, Any]) -> None:
    """Bad usage, where the model of that name takes a value of the patch in no case. `there`: what it is put into.

    What contradicts something that is not named is the daemon's to tell.
    """
    from mirrord import model as models  # noqa: PLC0415 (see above)
    from mirrord.merge_patch import merge  # noqa: PLC0415
    from mirrord.model.validation import wrong_values  # noqa: PLC0415

    if in_cluster():
        there, patch = without_hosts(there), without_hosts(patch)
    named = merge({key: value for key, value in there.items() if isinstance(patch.get(key), dict)}, patch)
    problems = wrong_values(getattr(models, model), named)
    if problems:
        raise click.UsageError("\n".join(map(str, problems)))


def in_cluster() -> bool:
    """Whether it is a cluster that is asked."""
    return bool(getattr(getattr(click.get_current_context(silent=True), "obj", None), "cluster", False))


def without_hosts(written: dict[str, Any]) -> dict[str, Any]:
    """A session of a cluster, or a patch of one, without the hosts of its ends, which the models do not know."""
    return {
        key: {part: one for part, one in value.items() if part != "host"}
        if key in ("source", "destination") and isinstance(value, dict)
        else [without_hosts(one) for one in value]
        if key == "sessions"
        else value
        for key, value in written.items()
    }


def _with_hosts(read: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """What was read, with the hosts that stood in it."""
    found = dict(read)
    for side in ("source", "destination"):
        if isinstance(written.get(side), dict) and "host" in written[side]:
            found[side] = {**read[side], "host": written[side]["host"]}
    if "sessions" in written:
        pairs = zip(read["sessions"], written["sessions"], strict=True)
        found["sessions"] = [_with_hosts(one, said) for one, said in pairs]
    return found


def check(model: str, written: dict[str, Any]) -> dict[str, Any]:
    """What was written, as the model of that name writes it, if it takes it; else bad usage, with every problem."""
    from mirrord import model as models  # noqa: PLC0415 (see above)
    from mirrord.model.validation import doubts, examine  # noqa: PLC0415

    cluster = in_cluster()
    read, problems = examine(getattr(models, model), without_hosts(written) if cluster else written, "")
    if problems:
        raise click.UsageError("\n".join(map(str, problems)))
    for doubt in doubts(written, ""):
        click.echo(f"mirrorctl: warning: {doubt}", err=True)
    dumped = dict(read.model_dump(mode="json", exclude_unset=True))
    return _with_hosts(dumped, written) if cluster else dumped

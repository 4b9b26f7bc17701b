"""Structured logging to stderr. Each module binds its subsystem; nothing is logged per packet."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Make imports of this module fail, unless it is imported already."""
    known = module in sys.modules
    sys.modules.setdefault(module, None)  # type: ignore[arg-type]  # as the import system has it: there is none
    try:
        yield
    finally:
        if not known:
            del sys.modules[module]


# Where structlog finds rich it shows tracebacks by it, in boxes; and rich is a sixth of the time to the first copy.
with _hidden("rich"):
    import structlog

_LEVEL_WIDTH = len("critical ")
_IN_NEED_OF_QUOTES = frozenset(" \t=\r\n\"'")
LEVELS = logging.getLevelNamesMapping()
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)


def logger(subsystem: str) -> Any:
    """The log of a part of the daemon."""
    return structlog.get_logger(subsystem=subsystem)


def configure(form: str) -> None:
    """Log as `console` lines or as `json`, from level info on. Other libraries' warnings come out alike.

    The journal gets each line with its priority, and puts its own time to it.
    """
    journal = to_journal()
    shared: list[structlog.typing.Processor] = [structlog.stdlib.add_log_level]
    if not journal:
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else console(colors=sys.stderr.isatty())
    )
    if journal:
        last = _prioritised(last)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, last] if form == "json" else [*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def to_journal() -> bool:
    """Whether standard error is the journal's (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # it is closed, or no file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def with_priority(level: str, text: str) -> str:
    """Each line with its priority, as the journal reads it (sd-daemon(3)); as it is where the journal does not read."""
    if not to_journal():
        return text
    return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in text.split("\n"))


def _prioritised(render: structlog.typing.Processor) -> structlog.typing.Processor:
    def rendered(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        level = str(event.get("level", method))
        return with_priority(level, str(render(logger, method, event)))

    return rendered


def console(*, colors: bool) -> structlog.typing.Processor:
    """Renders lines to read; without colours as structlog does, but in a sixth of the time.

    At each start and stop there are lines of every session: of thousands, that was most of what it took.
    """
    whole = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, sort_keys=False)

    def render(log: Any, method: str, event: structlog.typing.EventDict) -> Any:
        if colors or event.keys() & {"exc_info", "exception", "stack", "logger", "logger_name"}:
            return whole(log, method, event)
        stamp = event.pop("timestamp", None)  # the journal has its own
        head = f"{'' if stamp is None else f'{stamp} '}[{event.pop('level'):{_LEVEL_WIDTH}}]"
        said = [str(event.pop("event")), *(f"{key}={_word(value)}" for key, value in event.items())]
        return " ".join([head, *filter(None, said)]).rstrip(" ")

    return render


def _word(value: object) -> str:
    return value if isinstance(value, str) and _IN_NEED_OF_QUOTES.isdisjoint(value) else repr(value)


def level(name: str) -> None:
    """Log from this level on: debug, info, warning, error."""
    structlog.configure(
        **structlog.get_config() | {"wrapper_class": structlog.make_filtering_bound_logger(LEVELS[name.upper()])}
    )

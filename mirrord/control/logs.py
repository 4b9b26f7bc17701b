"""Structured logging to stderr. Each module binds its subsystem; nothing is logged per packet."""

from __future__ import annotations

import logging
import sys

import structlog

LEVELS = logging.getLevelNamesMapping()


def configure(form: str) -> None:
    """Log as `console` lines or as `json`, from level info on. Other libraries' warnings come out alike."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [structlog.stdlib.add_log_level, stamp]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False)
    )
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


def level(name: str) -> None:
    """Log from this level on: debug, info, warning, error."""
    structlog.configure(
        **structlog.get_config() | {"wrapper_class": structlog.make_filtering_bound_logger(LEVELS[name.upper()])}
    )

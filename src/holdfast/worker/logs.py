"""The way from Python's own `logging` to events: what the application logs becomes one event a record."""

from __future__ import annotations

import logging

from holdfast.telemetry import events


class EventHandler(logging.Handler):
    """Writes each record as the event `log`, with the logger's name; a traceback follows the text."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        events.log("log", text, _level(record.levelno), logger=record.name)


def bridge() -> None:
    """Install it on the root logger, unless the application has configured that on its own."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(EventHandler())
        root.setLevel(logging.INFO)


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"

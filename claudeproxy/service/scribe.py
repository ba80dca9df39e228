"""Log events as lines: text for people, one JSON object a line for machines."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from threading import RLock
from typing import Any, Protocol

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from zope.interface import implementer

#: What events of `twisted.python.log` have beside what they say.
_LEGACY = frozenset({"message", "time", "system", "isError", "format", "why", "failure", "debug", "printed", "warning"})
#: Ours, in each JSON object.
_OURS = frozenset({"time", "level", "logger", "message", "failure"})


class Sheet(Protocol):
    """What lines are written on."""

    def write(self, data: bytes, /) -> int | None:
        """How much of it is written; None for nothing."""


@implementer(ILogObserver)
class Scribe:
    """Writes every event on a sheet, and never fails: while a disk is full lines are lost, and afterwards it is said
    how many."""

    def __init__(self, sheet: Sheet, form: str = "text", now: Callable[[], float] = time.time) -> None:
        self.sheet = sheet
        self.form = form
        #: The lines that could not be written, ever.
        self.lost = 0
        self._untold = 0
        self._reason = ""
        #: A piece of a line stands at the end.
        self._torn = False
        self._now = now
        # Threads log, too. A signal's handler may log in the middle of another line, and must not wait for itself.
        self._lock = RLock()

    def __call__(self, event: LogEvent) -> None:
        line = self._line(event)
        if line is not None:
            with self._lock:
                self._write(line)

    def _line(self, event: LogEvent) -> bytes | None:
        try:
            return FORMS[self.form](event)
        except Exception as fault:  # such as a time that is none; synchronous code, so no cancellation passes here
            return self._own_line(
                "a line of {source} could not be written: {reason}",
                source=safe_str(event.get("log_namespace")),
                reason=safe_str(fault),
            )

    def _own_line(self, words: str, **fields: object) -> bytes | None:
        ours = {"log_time": self._now(), "log_level": LogLevel.error, "log_namespace": "claudeproxy.log"}
        return FORMS[self.form]({**ours, "log_format": words, **fields})

    def _write(self, line: bytes) -> None:
        try:
            self._put((b"\n" if self._torn else b"") + self._apology() + line)
        except (OSError, ValueError) as fault:  # ValueError: it was closed
            self.lost += 1
            self._untold += 1
            self._reason = str(getattr(fault, "strerror", None) or fault)
        else:
            self._untold = 0

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = self.sheet.write(left.tobytes())
            if not written:
                raise OSError("nothing can be written just now")
            left = left[written:]
            self._torn = bool(left)

    def _apology(self) -> bytes:
        if not self._untold:
            return b""
        words = "{lines} lines of the log could not be written: {reason}"
        return self._own_line(words, lines=self._untold, reason=self._reason) or b""


def text_line(event: LogEvent) -> bytes | None:
    """As twistd writes it, with the id of the request that the event belongs to; None for an event without words."""
    text = _plain_line(event) or formatEventAsClassicLogText(event)
    if text is None:
        return None
    request_id = event.get("request_id")
    if request_id and request_id not in text:
        first, end, rest = text.partition("\n")
        text = f"{first} {request_id}{end}{rest}"
    return text.encode("utf-8", "backslashreplace")


def json_line(event: LogEvent) -> bytes | None:
    """One object on one line; None for an event that says nothing. The event's own fields stand beside ours, but for
    those whose names begin with an underscore: they only serve the text."""
    legacy = "isError" in event
    failure = event.get("log_failure") or (event.get("failure") if legacy else None)
    message = _words(event) or formatEvent(event)
    if legacy and failure is not None:
        message = message.partition("\n")[0]  # the rest is the traceback
    level = event.get("log_level")
    said: dict[str, Any] = {
        "time": _rfc3339(event.get("log_time")),
        "level": level.name if level is not None else "info",
        "logger": str(event.get("log_namespace", "-")),
        "message": message,
    }
    for name, value in event.items():
        if not name.startswith(("log_", "_")) and not (legacy and name in _LEGACY):
            said[f"{name}_" if name in _OURS else name] = _plain(value)
    if isinstance(failure, Failure):
        said["failure"] = failure.getTraceback()
    if len(said) == 4 and not message:
        return None
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


FORMS: Mapping[str, Callable[[LogEvent], bytes | None]] = {"text": text_line, "json": json_line}


def _words(event: LogEvent) -> str | None:
    """What `formatEvent` says, in a tenth of its time; None if it has to be asked. Beyond Python's own formats it knows
    calls, and events that were made ready before."""
    words = event.get("log_format")
    if not isinstance(words, str) or "(" in words or "log_flattened" in event:
        return None
    try:
        return words.format_map(event)
    except Exception:  # an object of somebody's that cannot be shown; synchronous code, so no cancellation passes here
        return None


def _plain_line(event: LogEvent) -> str | None:
    """What `formatEventAsClassicLogText` says of most events, likewise."""
    level, when = event.get("log_level"), event.get("log_time")
    if level is None or when is None or "log_failure" in event or event.get("log_system") is not None:
        return None
    words = _words(event)
    if not words:
        return None
    said = words.replace("\n", "\n\t")
    return f"{_second(int(when))} [{event.get('log_namespace', '-')}#{level.name}] {said}\n"


@lru_cache(1)
def _second(when: int) -> str:
    return formatTime(when)


def _rfc3339(seconds: float | None) -> str:
    when = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> Any:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if isfinite(value) else str(value)
        case str():
            return str(value)
        case list() | tuple():
            return [each if each is None or isinstance(each, bool | int) else safe_str(each) for each in value]
    return safe_str(value)

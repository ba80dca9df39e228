"""Log lines: their two forms, and what becomes of them when nothing can be written (issue 6, "Logs")."""

import errno
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy_log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from claudeproxy.service.observers import ILogObserver, Logs
from claudeproxy.service.scribe import Scribe, json_line, text_line

#: 2026-11-22T20:50:34.007Z
NOW = 1795380634.007


class Paper:
    """A sheet in memory. ``fault`` is what happens at each line; ``room`` is how many bytes fit until it does."""

    def __init__(self) -> None:
        self.written = b""
        self.fault: Exception | None = None
        self.room = 0

    def write(self, data: bytes) -> int | None:
        if self.fault is None:
            self.written += data
            return len(data)
        if not self.room:
            raise self.fault
        piece, self.room = data[: self.room], 0
        self.written += piece
        return len(piece)

    @property
    def lines(self) -> list[str]:
        return self.written.decode().splitlines()


class Awkward:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no words")

    __str__ = __repr__


def failure() -> Failure:
    """With a traceback of several lines."""
    try:
        raise KeyError("index")
    except KeyError:
        return Failure()


def event(**fields: Any) -> LogEvent:
    return {
        "log_time": NOW,
        "log_level": LogLevel.warn,
        "log_namespace": "claudeproxy.web",
        "log_format": "a line",
        **fields,
    }


def read(**fields: Any) -> dict[str, Any]:
    """The JSON object of one event."""
    line = json_line(event(**fields))
    assert line is not None
    read: dict[str, Any] = json.loads(line)
    return read


class JsonTests(SynchronousTestCase):
    """`json_line`."""

    def test_ours(self) -> None:
        """Time, level, logger and message; the time is RFC 3339 with milliseconds, in UTC."""
        self.assertEqual(
            read(log_format="{count} lines", count=3),
            {
                "time": "2026-11-22T20:50:34.007Z",
                "level": "warn",
                "logger": "claudeproxy.web",
                "message": "3 lines",
                "count": 3,
            },
        )
        datetime.fromisoformat(read()["time"])

    def test_fields(self) -> None:
        """The event's own fields stand beside them: JSON as JSON, everything else as text."""
        values: dict[str, Any] = {
            "a": 1,
            "b": 0.5,
            "c": True,
            "d": None,
            "e": "é\u2028\x85\ud800",
            "f": [1, "x"],
            "g": float("nan"),
            "h": b"bytes",
            "i": {"x": 1},
            "j": Awkward(),
            "k": LogLevel.info,
            "l": 2**80,
        }
        said = read(**values)
        self.assertEqual({name: said[name] for name in "abcdef"}, {name: values[name] for name in "abcdef"})
        for name in "ghijk":
            self.assertIsInstance(said[name], str)
        self.assertEqual(said["l"], 2**80)

    def test_for_the_text(self) -> None:
        """What begins with an underscore is for the text alone."""
        self.assertEqual(read(log_format="{_way}!", _way="there")["message"], "there!")
        self.assertNotIn("_way", read(_way="there"))

    def test_collision(self) -> None:
        """A field that has the name of one of ours does not take its place."""
        said = read(message="theirs", level="theirs", time="theirs")
        self.assertEqual((said["message"], said["message_"]), ("a line", "theirs"))
        self.assertEqual((said["level"], said["level_"]), ("warn", "theirs"))

    def test_failure(self) -> None:
        """A failure's traceback is one field."""
        said = read(log_failure=failure())
        self.assertIn("KeyError", said["failure"])
        self.assertIn("test_scribe.py", said["failure"])

    @given(st.text(), st.text(), st.dictionaries(st.text(), st.text() | st.binary() | st.floats() | st.none()))
    def test_one_line(self, words: str, namespace: str, fields: dict[str, Any]) -> None:
        """Whatever is in it, it is one line, and JSON."""
        line = json_line({**fields, **event(log_format="{words}", words=words, log_namespace=namespace)})
        assert line is not None
        self.assertEqual(len(line.decode().splitlines()), 1)
        self.assertTrue(line.endswith(b"}\n"))
        self.assertEqual(json.loads(line)["logger"], namespace)

    def test_others(self) -> None:
        """The events of `twisted.python.log` are lines like all others."""
        events: list[LogEvent] = []
        publisher = legacy_log.LogPublisher(publishPublisher=LogPublisher(events.append))  # type: ignore[arg-type]
        publisher.msg("old words", system="HTTPChannel", more=5)
        publisher.msg(failure=failure(), why="it broke", isError=1)
        plain, broken = (json.loads(json_line(each) or b"") for each in events)
        self.assertEqual((plain["message"], plain["level"], plain["more"]), ("old words", "info", 5))
        self.assertEqual((broken["message"], broken["level"]), ("it broke", "critical"))
        self.assertIn("KeyError", broken["failure"])
        self.assertFalse({"isError", "system", "format", "message_", "time_"} & {*plain, *broken})

    def test_nothing(self) -> None:
        """An event that says nothing is no line."""
        self.assertIsNone(json_line({"log_time": NOW, "log_level": LogLevel.info, "log_namespace": "x"}))
        self.assertIsNone(text_line({"log_time": NOW, "log_level": LogLevel.info, "log_namespace": "x"}))


class TextTests(SynchronousTestCase):
    """`text_line`."""

    def text(self, **fields: Any) -> str:
        return (text_line(event(**fields)) or b"").decode()

    def test_like_twistd(self) -> None:
        """Time, logger, level and words."""
        self.assertRegex(self.text(), r"^2026-11-2\dT\d\d:\d\d:34[+-]\d{4} \[claudeproxy\.web#warn\] a line\n$")

    def test_request(self) -> None:
        """A line that belongs to a request names it, once."""
        self.assertTrue(self.text(request_id="req_1").endswith("a line req_1\n"))
        self.assertEqual(self.text(log_format="{request_id}: no", request_id="req_1").count("req_1"), 1)
        first, *rest = self.text(request_id="req_1", log_failure=failure()).splitlines()
        self.assertTrue(first.endswith(" req_1"), first)
        self.assertIn("KeyError", "".join(rest))

    def test_any_text(self) -> None:
        """Half a surrogate pair is written as well."""
        self.assertIn("\\ud800", self.text(log_format="{words}", words="\ud800"))


class ScribeTests(SynchronousTestCase):
    """`Scribe`."""

    def setUp(self) -> None:
        self.paper = Paper()
        self.scribe = Scribe(self.paper, now=lambda: NOW)
        self.publisher = LogPublisher(self.scribe)
        self.log = Logger(namespace="claudeproxy.x", observer=self.publisher)

    def test_observer(self) -> None:
        """It is what twistd expects."""
        self.assertTrue(verifyObject(ILogObserver, self.scribe))

    def test_unwritable(self) -> None:
        """An event that cannot be a line leaves one that says so."""
        for form in ("text", "json"):
            self.scribe.form = form
            for fields in ({"log_time": "noon"}, {"log_time": 1e30}, {"log_level": "info"}):
                self.scribe(event(**fields))
        self.scribe(event(n=10**5000))
        for line in self.paper.lines[:3]:
            self.assertIn("a line of claudeproxy.web could not be written: ", line)
        for line in self.paper.lines[3:]:
            self.assertIn("a line of claudeproxy.web could not be written: ", json.loads(line)["message"])
        self.assertEqual(len(self.paper.lines), 7)

    def test_form(self) -> None:
        """The form is changed while it writes."""
        self.log.info("one")
        self.scribe.form = "json"
        self.log.info("two")
        self.scribe.form = "text"
        self.log.info("three")
        one, two, three = self.paper.lines
        self.assertEqual(json.loads(two)["message"], "two")
        self.assertRegex(one + three, "#info. one.*#info. three")

    def test_form_by_setting(self) -> None:
        """`Logs` changes it, where the log is ours to write; a shop's own observers hold."""
        Logs(self.publisher, self.scribe).set_form("json")
        self.assertEqual(self.scribe.form, "json")
        Logs(self.publisher).set_form("text")
        self.assertEqual(self.scribe.form, "json")

    def full_disk(self, form: str, fault: Exception) -> list[str]:
        self.scribe.form = form
        self.log.info("before")
        self.paper.fault = fault
        for _ in range(3):
            self.log.info("lost")
        self.paper.fault = None
        self.log.info("after")
        return self.paper.lines

    def test_full_disk(self) -> None:
        """A full disk, a closed terminal: nothing is raised, nothing recurs; later it is said what is missing."""
        for fault, words in (
            (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
            (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
            (ValueError("write to closed file"), "closed file"),
        ):
            self.setUp()
            before, missing, after = self.full_disk("text", fault)
            self.assertIn("before", before)
            self.assertRegex(missing, f"claudeproxy.log#error. 3 lines of the log could not be written: .*{words}")
            self.assertIn("after", after)
            self.assertEqual(self.scribe.lost, 3)
        self.setUp()
        _, missing, _ = self.full_disk("json", OSError(errno.ENOSPC, "No space left on device"))
        self.assertEqual(json.loads(missing)["lines"], 3)

    def test_told_once(self) -> None:
        """What was lost is told once, and counted for ever."""
        self.full_disk("text", OSError(errno.ENOSPC, "full"))
        self.log.info("and on")
        self.assertEqual(sum("could not be written" in line for line in self.paper.lines), 1)
        self.full_disk("text", OSError(errno.ENOSPC, "full"))
        self.assertEqual(self.scribe.lost, 6)

    def test_torn(self) -> None:
        """A line of which only the beginning fitted does not swallow the next one."""
        self.scribe.form = "json"
        self.paper.fault, self.paper.room = OSError(errno.ENOSPC, "full"), 10
        self.log.info("torn")
        self.paper.fault = None
        self.log.info("after")
        torn, missing, after = self.paper.lines
        self.assertEqual(len(torn), 10)
        self.assertEqual((json.loads(missing)["lines"], json.loads(after)["message"]), (1, "after"))

    def test_would_block(self) -> None:
        """A terminal that takes nothing just now costs the line, not the daemon."""
        self.paper.write = lambda data: None  # type: ignore[method-assign]
        self.log.info("lost")
        self.assertEqual(self.scribe.lost, 1)

    def test_while_writing(self) -> None:
        """What is logged in the middle of a line, as a signal's handler does, does not wait for itself."""
        put: Callable[[bytes], int | None] = self.paper.write

        def interrupted(data: bytes) -> int | None:
            self.paper.write = put  # type: ignore[method-assign]
            self.log.info("signal")
            return put(data)

        self.paper.write = interrupted  # type: ignore[method-assign]
        self.log.info("line")
        self.assertEqual([re.sub(".* ", "", line) for line in self.paper.lines], ["signal", "line"])

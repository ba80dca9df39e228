"""The file that outlives the daemon."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.state_file import PAUSE, StateFile


class StateFileTests(SynchronousTestCase):
    """`StateFile`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "deep" / "state.json"
        self.clock = Clock()
        self.said: list[str] = []
        self.value: object = {"a": 1}
        #: What is to be done in a thread; none while it is done at once.
        self.waiting: list[tuple[Callable[[], None], Deferred[None]]] | None = None
        log = Logger(namespace="test", observer=lambda event: self.said.append(formatEvent(event)))  # type: ignore[arg-type]
        self.file = StateFile(self.path, lambda: self.value, self.clock, self.in_thread, log=log)

    async def in_thread(self, work: Callable[[], None]) -> None:
        if self.waiting is None:
            return work()
        done: Deferred[None] = Deferred()
        self.waiting.append((work, done))
        await done

    def kept(self) -> object:
        return json.loads(self.path.read_text())

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.file.close())

    def test_absent(self) -> None:
        """A file that is not there yet is no news, and nothing is written before something changed."""
        self.assertIsNone(self.file.load())
        self.successResultOf(self.close())
        self.assertFalse(self.path.exists())
        self.assertEqual(self.said, [])

    def test_kept(self) -> None:
        """What changed is written within the pause, once for all changes, for its owner alone."""
        self.file.changed()
        self.clock.advance(PAUSE - 1)
        self.assertFalse(self.path.exists())
        self.value = {"a": 2}
        self.file.changed()
        self.clock.advance(1)
        self.assertEqual(self.kept(), {"a": 2})
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(os.listdir(self.path.parent), ["state.json"])
        self.assertEqual(self.file.load(), {"a": 2})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.value = {"a": 3}
        self.file.changed()
        self.clock.advance(PAUSE - 1)
        self.assertEqual(self.kept(), {"a": 2}, "not more often than the pause allows")

    def test_close(self) -> None:
        """What is not yet written is written at the end, and no timer is left."""
        self.file.changed()
        self.successResultOf(self.close())
        self.assertEqual(self.kept(), {"a": 1})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_waits(self) -> None:
        """The end waits for a file that is just being written, and for what changed meanwhile."""
        self.waiting = []
        self.file.changed()
        self.clock.advance(PAUSE)
        self.value = {"a": 2}
        self.file.changed()
        closing = self.close()
        for expected in ({"a": 1}, {"a": 2}):
            self.assertNoResult(closing)
            [(work, done)] = self.waiting
            self.waiting.clear()
            work()
            done.callback(None)
            self.assertEqual(self.kept(), expected)
        self.successResultOf(closing)

    def test_damaged(self) -> None:
        """A damaged file is put aside, and the log says so."""
        self.path.parent.mkdir()
        for damage in (b"", b"{", b"\xff\xfe", b'{"a": 1', b" " * (4 * 1024**2 + 1)):
            self.path.write_bytes(damage)
            self.said.clear()
            self.assertIsNone(self.file.load())
            self.assertFalse(self.path.exists())
            self.assertEqual(self.path.with_name("state.json.damaged").read_bytes(), damage)
            self.assertEqual(len(self.said), 1)
            self.assertIn("damaged", self.said[0])

    def test_unreadable(self) -> None:
        """What is no file, or may not be read, is told of, and left."""
        self.path.mkdir(parents=True)
        self.assertIsNone(self.file.load())
        self.assertEqual(len(self.said), 1)
        self.assertIn("cannot be read", self.said[0])

    def test_unwritable(self) -> None:
        """A file that cannot be written is told of once; it is tried on, and told of anew if it worked meanwhile."""
        with patch("os.replace", side_effect=PermissionError(13, "Permission denied")):
            for _ in range(3):
                self.file.changed()
                self.clock.advance(PAUSE)
        self.assertEqual(self.said, [f"{self.path} cannot be written: Permission denied"])
        self.assertEqual(os.listdir(self.path.parent), [])
        self.file.changed()
        self.clock.advance(PAUSE)
        self.assertEqual(self.kept(), {"a": 1})
        with patch("os.replace", side_effect=OSError(28, "No space left on device")):
            self.file.changed()
            self.successResultOf(self.close())
        self.assertEqual(len(self.said), 2)
        self.assertEqual(self.kept(), {"a": 1}, "the old one is whole")

    def test_no_json(self) -> None:
        """A value that is no JSON is a fault of ours: it is logged, and the next one is kept."""
        self.value = object()
        self.file.changed()
        self.clock.advance(PAUSE)
        self.assertEqual(len(self.said), 1)
        self.flushLoggedErrors(TypeError)
        self.value = {"b": 1}
        self.file.changed()
        self.clock.advance(PAUSE)
        self.assertEqual(self.kept(), {"b": 1})

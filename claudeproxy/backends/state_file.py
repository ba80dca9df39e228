"""What is worth keeping across restarts, in one small JSON file that nobody else needs to read."""

import os
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from attrs import field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from claudeproxy.model.kinds import define
from claudeproxy.wire.json import NotJSON, decode, encode

#: What changes is written down after so many seconds, together with all that changes meanwhile.
PAUSE = 30.0
#: Bytes of the largest file that is read: nothing that we wrote.
LARGEST = 4 * 1024**2
#: Where a damaged file is put aside, for whoever wonders.
_DAMAGED = ".damaged"

RunInThread = Callable[[Callable[[], None]], Awaitable[None]]


@define(eq=False)
class StateFile:
    """Keeps what ``dump`` gives: JSON values, asked for in the reactor's thread and written in another.

    Nothing that goes wrong with the file is an error: the log says it once, and the daemon goes on without.
    """

    _path: Path
    _dump: Callable[[], object]
    _clock: IReactorTime
    _run_in_thread: RunInThread
    _pause: float = PAUSE
    _log: Logger = field(factory=lambda: Logger(namespace="claudeproxy.backends.state_file"))
    _next: IDelayedCall | None = field(default=None, init=False)
    _unsaved: bool = field(default=False, init=False)
    _complained: bool = field(default=False, init=False)
    _turn: DeferredLock = field(factory=DeferredLock, init=False)

    def load(self) -> object:
        """What was kept; None if there is nothing, or nothing of use. A damaged file is put aside."""
        try:
            with self._path.open("rb") as opened:
                data = opened.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise NotJSON(f"more than {LARGEST} bytes")
            return decode(data)
        except FileNotFoundError:
            return None
        except OSError as fault:
            self._log.warn("{path} cannot be read: {reason}", path=str(self._path), reason=fault.strerror)
            return None
        except NotJSON as fault:
            self._put_aside(str(fault))
            return None

    def changed(self) -> None:
        """There is something new to keep: it will be written within the pause, or by `close`."""
        self._unsaved = True
        if self._next is None:
            self._next = self._clock.callLater(self._pause, self._save_later)

    async def close(self) -> None:
        """Writes what is not yet written. May be used again afterwards."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        await self._save()

    def _save_later(self) -> None:
        self._next = None
        Deferred.fromCoroutine(self._save()).addErrback(self._log_failure)

    async def _save(self) -> None:
        await self._turn.acquire()
        try:
            if self._unsaved:
                self._unsaved = False
                await self._run_in_thread(partial(_write, self._path, encode(self._dump())))
                self._complained = False
        except OSError as fault:
            if not self._complained:
                self._complained = True
                reason = fault.strerror or str(fault)
                self._log.warn("{path} cannot be written: {reason}", path=str(self._path), reason=reason)
        finally:
            self._turn.release()

    def _put_aside(self, why: str) -> None:
        aside = self._path.with_name(self._path.name + _DAMAGED)
        try:
            os.replace(self._path, aside)
        except OSError:
            aside = self._path  # it stays where it is, until it is written anew
        self._log.warn(
            "{path} is damaged and was put aside as {aside}: {why}", path=str(self._path), aside=str(aside), why=why
        )

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("keeping {path} failed", failure=failure, path=str(self._path))


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing, and for its owner's eyes only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise

"""One process of the embedded model, as Twisted's protocol for it: what is sent in, and what is made of the answers."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping

from attrs import field
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from claudeproxy.backends.embedded_child import Orders
from claudeproxy.model.kinds import define, frozen

COMMAND = (sys.executable, "-P", "-m", "claudeproxy.backends.embedded_child")

#: Both are bounds on another process's output; an announcement has 60 bytes, complaints are a few lines.
_LONGEST_LINE = 65536
_COMPLAINTS_KEPT = 4096

#: What a process of ours, a shared library and a GPU may need. Not the rest: the daemon's keys are in there.
_PASSED_ON = ("HOME", "LANG", "PATH", "TMPDIR")
_PASSED_ON_PREFIXES = ("CUDA_", "DYLD_", "GGML_", "HIP_", "LC_", "LD_", "OMP_", "PYTHON")


@frozen
class Serving:
    """The child serves."""

    host: str
    port: int
    window: int


@frozen
class Broken:
    """The child cannot serve, and says why."""

    error: str


def read_announcement(line: bytes) -> Serving | Broken | None:
    """What a line of the child's stdout says; None if it is none of the child's own."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    match said:
        case {"host": str(host), "port": int(port), "window": int(window)}:
            return Serving(host, port, window)
        case {"error": str(error)}:
            return Broken(error)
    return None


def environment(daemons: Mapping[str, str], search_path: Iterable[str]) -> dict[str, str]:
    """The child's variables: few of the daemon's, and the daemon's own module search path."""
    chosen = {k: v for k, v in daemons.items() if k in _PASSED_ON or k.startswith(_PASSED_ON_PREFIXES)}
    chosen["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in search_path)
    # ggml would start a debugger on the dying process, which then takes seconds to die.
    chosen["GGML_NO_BACKTRACE"] = "1"
    return chosen


def how_it_ended(reason: Failure) -> str:
    """The exit status or the signal's name, from what Twisted says of a process."""
    number = getattr(reason.value, "signal", None)
    if number is None:
        return f"exit status {getattr(reason.value, 'exitCode', None)}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@define(eq=False, slots=False)
class ModelProcess(ProcessProtocol):
    """Gives one child its orders and reports what it announces, once, and its end, once.

    ``broken`` is the error that it announced, if it did. ``complaints`` is what llama.cpp wrote before it served;
    what it writes later may quote a conversation, and is dropped but for failed assertions, which quote only
    llama.cpp's source.
    """

    orders: Orders
    _on_serving: Callable[[Serving], None]
    _on_end: Callable[[Failure], None]
    broken: str | None = None
    complaints: str = ""
    _serves: bool = False
    _unread: bytes = field(default=b"", repr=False)

    def spawn(self, processes: IReactorProcess) -> None:
        """Start the process; raises OSError if the system refuses."""
        processes.spawnProcess(
            self, COMMAND[0], COMMAND, env=environment(os.environ, sys.path), childFDs={0: "w", 1: "r", 2: "r"}
        )

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        return getattr(self.transport, "pid", None)

    def let_go(self) -> None:
        """Close its stdin, upon which it ends at once."""
        self._process().closeStdin()

    def kill(self) -> None:
        """End it with SIGKILL; raises ProcessExitedAlready."""
        self._process().signalProcess("KILL")

    def connectionMade(self) -> None:
        self._process().writeToChild(0, self.orders.to_line())

    def outReceived(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._unread = self._unread[-_LONGEST_LINE:]
        for line in lines:
            if self._serves or self.broken is not None:
                return
            match read_announcement(line):
                case Broken(error):
                    self.broken = error
                case Serving() as serving:
                    self._serves = True
                    self.complaints = ""
                    self._on_serving(serving)

    def errReceived(self, data: bytes) -> None:
        text = data.decode(errors="replace")
        if self._serves:
            text = "\n".join(line for line in text.splitlines() if "GGML_ASSERT" in line)
        self.complaints = (self.complaints + text)[-_COMPLAINTS_KEPT:]

    def processEnded(self, reason: Failure) -> None:
        self._on_end(reason)

    def _process(self) -> IProcessTransport:
        assert self.transport is not None
        return IProcessTransport(self.transport)

"""A reactor's way to start processes, without processes: the test says what they print and how they end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import AnyStr

from attrs import define, field
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IAddress, IProcessProtocol, IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyClass


@implementer(IProcessTransport)
@define(eq=False)
class FakeProcess:
    """A process: what was written to it, and the levers of its fate."""

    protocol: ProcessProtocol
    command: Sequence[str]
    variables: Mapping[str, str]
    pid: int
    stdin: bytes = b""
    stdin_closed: bool = False
    signals: list[str] = field(factory=list)
    ended: bool = False

    def says(self, data: bytes) -> None:
        """Write to its stdout."""
        self.protocol.childDataReceived(1, data)

    def complains(self, data: bytes) -> None:
        """Write to its stderr."""
        self.protocol.childDataReceived(2, data)

    def ends(self, status: int | None = 0, signal: int | None = None) -> None:
        """Be gone, with an exit status or by a signal."""
        self.ended = True
        how = ProcessDone(0) if status == 0 and signal is None else ProcessTerminated(status, signal, 0)
        self.protocol.processExited(Failure(how))
        self.protocol.processEnded(Failure(how))

    def writeToChild(self, childFD: int, data: bytes) -> None:
        assert childFD == 0 and not self.stdin_closed
        self.stdin += data

    def write(self, data: bytes) -> None:
        self.writeToChild(0, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def closeStdin(self) -> None:
        self.stdin_closed = True

    def closeStdout(self) -> None: ...

    def closeStderr(self) -> None: ...

    def closeChildFD(self, descriptor: int) -> None:
        self.stdin_closed = self.stdin_closed or descriptor == 0

    def loseConnection(self) -> None:
        self.stdin_closed = True

    def signalProcess(self, signalID: str | int) -> None:
        if self.ended:
            raise ProcessExitedAlready
        self.signals.append(str(signalID))

    def getPeer(self) -> IAddress:
        raise NotImplementedError

    def getHost(self) -> IAddress:
        raise NotImplementedError


@implementer(IReactorProcess)
@define(eq=False)
class FakeProcesses:
    """Remembers every process that was started; ``refusal`` is raised instead of starting one."""

    started: list[FakeProcess] = field(factory=list)
    refusal: OSError | None = None

    @property
    def last(self) -> FakeProcess:
        return self.started[-1]

    def spawnProcess(
        self,
        processProtocol: IProcessProtocol,
        executable: bytes | str,
        args: Sequence[bytes | str],
        env: Mapping[AnyStr, AnyStr] | None = None,
        path: bytes | str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        usePTY: bool = False,
        childFDs: Mapping[int, int | str] | None = None,
    ) -> IProcessTransport:
        if self.refusal is not None:
            raise self.refusal
        assert isinstance(processProtocol, ProcessProtocol)
        command = [str(executable), *map(str, args)]
        process = FakeProcess(
            processProtocol, command, {str(k): str(v) for k, v in (env or {}).items()}, 1000 + len(self.started)
        )
        self.started.append(process)
        processProtocol.makeConnection(process)
        return process


verifyClass(IProcessTransport, FakeProcess)
verifyClass(IReactorProcess, FakeProcesses)

"""A reactor for transports of real sockets, which only notes what it is asked to watch."""

from typing import Any

from twisted.internet.task import Clock
from twisted.python.failure import Failure


class WatchingReactor(Clock):
    """Knows what waits to be read and written, and how often it was asked to watch."""

    def __init__(self) -> None:
        super().__init__()
        self.reading: set[Any] = set()
        self.writing: set[Any] = set()
        self.watched = 0

    def addReader(self, reader: Any) -> None:
        self.reading.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.reading.discard(reader)

    def addWriter(self, writer: Any) -> None:
        self.watched += 1
        self.writing.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writing.discard(writer)

    def turn(self) -> None:
        """Does what a reactor does with a transport whose socket can be written to."""
        for writer in list(self.writing):
            why = writer.doWrite()
            if why is not None:
                writer.connectionLost(Failure(why))

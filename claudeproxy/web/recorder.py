"""The flight recorder: the last requests, in memory, for whoever wants to know why one went as it did."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice

from attrs import field
from twisted.web.http import Request

from claudeproxy.model.kinds import define
from claudeproxy.routing.settings import Settings
from claudeproxy.web.exchange import Exchange
from claudeproxy.web.record import Record
from claudeproxy.web.rules import UNWORTHY

#: Of each body so many bytes are kept, if content is.
KEPT = 64 * 1024


@define(eq=False)
class Recorder:
    """Keeps as many requests as the settings in force say, those that run and those that ended last.

    Memory is bounded: a record has the outline of the conversation's end and no words, unless content was asked for,
    and then a bounded part of each body.
    """

    _settings: Callable[[], Settings]
    _records: OrderedDict[str, Record] = field(factory=OrderedDict, init=False)

    def entered(self, exchange: Exchange, request: Request) -> None:
        settings = self._settings()
        if not settings.recorder_size or exchange.route in UNWORTHY:
            return
        self._records[exchange.id] = Record.of(exchange, request, KEPT if settings.recorder_content else 0)
        self._make_room(settings.recorder_size)

    def left(self, exchange: Exchange) -> None:
        record = self._records.get(exchange.id)
        if record is not None:
            record.close()

    def newest(self, session: str = "", state: str = "", limit: int = 100) -> list[Record]:
        """The newest first; of one ``session`` alone, by the beginning of its id, and of one status alone (``404``,
        ``4xx``, or ``running``)."""
        return list(islice(self._matching(session, state), limit))

    def find(self, request_id: str) -> Record | None:
        """The one request, if it is still known."""
        return self._records.get(request_id)

    def last(self) -> Record | None:
        """The newest that asked for a model, which is what one wants to know about; else the newest."""
        newest = self.newest(limit=len(self._records))
        return next((each for each in newest if each.exchange.model), newest[0] if newest else None)

    def __len__(self) -> int:
        return len(self._records)

    def _matching(self, session: str, state: str) -> Iterator[Record]:
        for record in reversed(self._records.values()):
            same = record.state == state or (state.endswith("xx") and record.state[:1] == state[:1])
            if record.exchange.session.startswith(session) and (same or not state):
                yield record

    def _make_room(self, size: int) -> None:
        """Those that run go last: a request that hangs is the one that somebody will ask for."""
        while len(self._records) > size:
            ended = (name for name, record in self._records.items() if not record.runs)
            del self._records[next(ended, next(iter(self._records)))]

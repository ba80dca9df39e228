"""The documents of a request, read in a thread and remembered: a conversation brings them along on every turn."""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from attrs import field
from twisted.internet.defer import DeferredLock

from claudeproxy.backends.shared import Shared
from claudeproxy.model.anthropic import (
    Base64Source,
    Block,
    ContentSource,
    DocumentBlock,
    MessagesRequest,
    ToolResultBlock,
)
from claudeproxy.model.documents import Paper, Papers, Unreadable
from claudeproxy.model.kinds import define

Result = Paper | Unreadable
RunInThread = Callable[[Callable[[], Result]], Awaitable[Result]]

#: Bytes of text and pictures that are remembered; one document with pictures is mostly below 4 MB, at worst 21 MB.
MEMORY = 64 * 1024**2

_Key = tuple[bytes, bool]


@define(eq=False)
class DocumentReader:
    """Reads the PDFs of requests, each only once, and only one at a time (PDFium bears no second thread).

    Whoever asks for a document that is just being read waits for the same reading. A reading goes on when all who
    waited for it have been cancelled: the client that hung up mostly comes back with the same document.
    """

    _run_in_thread: RunInThread
    _memory: int = MEMORY
    _known: OrderedDict[_Key, Result] = field(factory=OrderedDict, init=False)
    _held: int = field(default=0, init=False)
    _running: dict[_Key, Shared[Result]] = field(factory=dict, init=False)
    _turn: DeferredLock = field(factory=DeferredLock, init=False)

    async def read(self, request: MessagesRequest, with_images: bool) -> Papers:
        """What became of each PDF given as base64, wherever it stands in the request.

        Empty, and without waiting, if there is none. Safe to cancel.
        """
        papers: dict[str, Result] = {}
        for data in _pdfs(request):
            if data not in papers:
                papers[data] = await self._one(data, with_images)
        return papers

    async def _one(self, data: str, with_images: bool) -> Result:
        key = hashlib.sha256(data.encode(errors="surrogatepass")).digest(), with_images
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = Shared(partial(self._convert, key, data))
        result = await running.get()
        assert result is not None, "a reading has no 'not now'"
        return result

    async def _convert(self, key: _Key, data: str) -> Result:
        from claudeproxy.wire.pdf import read_base64  # memory that only those need who send documents

        await self._turn.acquire()
        try:
            result = await self._run_in_thread(partial(read_base64, data, key[1]))
        finally:
            self._turn.release()
            del self._running[key]
        self._keep(key, result)
        return result

    def _keep(self, key: _Key, result: Result) -> None:
        size = _size(result)
        if size > self._memory:
            return
        self._known[key] = result
        self._held += size
        while self._held > self._memory:
            self._held -= _size(self._known.popitem(last=False)[1])


def _size(result: Result) -> int:
    """About how many bytes it holds in memory."""
    parts = (result.reason,) if isinstance(result, Unreadable) else (*result.pages, *result.images)
    return sum(map(sys.getsizeof, parts))


def _pdfs(request: MessagesRequest) -> Iterator[str]:
    """The base64 of every PDF, in no particular order; a stack, because blocks of blocks may go deep."""
    blocks: list[Block] = [*request.system]
    for message in request.messages:
        blocks += message.content
    while blocks:
        match blocks.pop():
            case DocumentBlock(source=Base64Source(media_type=kind, data=data)) if kind.lower() == "application/pdf":
                yield data
            case DocumentBlock(source=ContentSource(content=content)) | ToolResultBlock(content=content):
                blocks += content
            case _:
                pass

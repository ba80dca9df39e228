"""The least that Klein and treq can do, a relay without translation: `python -m tests.benchmarks.bare_relay PORT URL`.

With ``imports`` in the stead of a port it only imports what it needs, and stays: the floor of all memory.
"""

import sys
import time
from typing import Any

from klein import Klein
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http import Request
from twisted.web.server import Site


class Relay(Protocol):
    """Writes what it reads."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._request.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self._request.write(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted always gives a reason
        if not self._request._disconnected:
            self._request.unregisterProducer()
        self.done.callback(None)


class BareRelay:
    app = Klein()

    def __init__(self, url: str, reactor: Any) -> None:
        pool = HTTPConnectionPool(reactor)
        pool.maxPersistentPerHost = 200
        self._url = url
        self._client = HTTPClient(Agent(reactor, pool=pool))

    @app.route("/v1/chat/completions", methods=["POST"])
    async def relay(self, request: Request) -> None:
        assert request.content is not None
        headers = {"content-type": "application/json"}
        response = await self._client.post(self._url, data=request.content.read(), headers=headers, unbuffered=True)
        request.setHeader(b"content-type", b"text/event-stream")
        relay = Relay(request)
        response.deliverBody(relay)
        await relay.done


if __name__ == "__main__":
    if sys.argv[1] == "imports":
        while True:
            time.sleep(60)
    site = Site(BareRelay(sys.argv[2], reactor).app.resource())
    reactor.listenTCP(int(sys.argv[1]), site, backlog=4096, interface="127.0.0.1")  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]

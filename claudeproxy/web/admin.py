"""What operators and their monitors ask, on a listener of its own (`admin_listen`), where nobody needs a key."""

from collections.abc import Callable
from typing import ClassVar

from attrs import field
from klein import Klein
from twisted.logger import Logger
from twisted.web.http import Request
from twisted.web.resource import IResource
from werkzeug.exceptions import NotFound

from claudeproxy.model.kinds import define
from claudeproxy.web.exchange import Exchanges
from claudeproxy.web.exposition import Exposition
from claudeproxy.web.faults import Faults, answer_faults, unless_gone
from claudeproxy.web.gate import Gate
from claudeproxy.web.health import Health
from claudeproxy.web.live import Live


@define(eq=False)
class AdminAPI:
    """Its routes are no part of the API that clients see. To add one, add a method."""

    app: ClassVar[Klein] = Klein()

    _live: Callable[[], Live]
    _exchanges: Exchanges
    _exposition: Exposition
    _log: Logger
    faults: Faults = field(init=False)
    _health: Health = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.faults = Faults(self._exchanges, self._log)
        self._health = Health(self._live, self._exchanges)

    def resource(self, records: IResource) -> Gate:
        """The routes behind a gate that asks for no key, but knows web pages and turns them away; ``records`` are below
        ``/admin``."""
        return Gate(self.app, self._live, self._exchanges, records, needs_key=False)

    @app.route("/health", methods=["GET"])
    def health(self, request: Request) -> bytes:
        return self._health.lives(request)

    @app.route("/health/ready", methods=["GET"])
    def ready(self, request: Request) -> bytes:
        return self._health.is_ready(request)

    @app.route("/metrics", methods=["GET"])
    @unless_gone
    async def metrics(self, request: Request) -> bytes:
        if self._live().settings.metrics == "off":
            raise NotFound
        return await self._exposition.answer(request)

    answer_faults(app)

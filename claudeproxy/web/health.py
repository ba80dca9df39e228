"""Whether the daemon lives, and whether it is worth sending requests to: for monitors, which have no key."""

from collections.abc import Callable

from twisted.web.http import Request

from claudeproxy.model.kinds import define
from claudeproxy.web.answers import answer_json
from claudeproxy.web.exchange import Exchanges
from claudeproxy.web.live import Live

#: Asked for by monitors and by clients that warm up.
HEALTH, READY = "/health", "/health/ready"


@define(eq=False)
class Health:
    """Tells no more than names of backends."""

    _live: Callable[[], Live]
    _exchanges: Exchanges

    def lives(self, request: Request) -> bytes:
        """The daemon runs; nothing else is looked at."""
        return answer_json(request, {"status": "ok"})

    def is_ready(self, request: Request) -> bytes:
        """Ready while at least one backend answers and the daemon is not being stopped. The backends that do not answer
        are named either way."""
        backends = self._live().backends.values()
        away = [each.name for each in backends if not each.is_alive()]
        if self._exchanges.draining:
            status = "stopping"
        else:
            status = "ready" if len(away) < len(backends) else "no backend answers"
        said = {"status": status, **({"unreachable": away} if away else {})}
        self._exchanges.of(request).outcome = "" if status == "ready" else "not_ready"
        return answer_json(request, said, 200 if status == "ready" else 503)

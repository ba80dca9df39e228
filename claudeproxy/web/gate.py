"""The gate in front of every route: numbers the request, and turns away who may not ask (issue 2, item 8)."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from klein import Klein
from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

from claudeproxy.model.problems import Problem, not_found, stopping
from claudeproxy.routing.keys import Key
from claudeproxy.routing.settings import Settings
from claudeproxy.web.answers import answer_problem
from claudeproxy.web.bodies import plain_path
from claudeproxy.web.exchange import Exchange, Exchanges, printable
from claudeproxy.web.guard import check_host, check_key, check_one_host, check_origin, is_host
from claudeproxy.web.live import Live
from claudeproxy.web.rules import ADMIN, SIGNS_OF_LIFE, UNMATCHED, Rules
from claudeproxy.web.whence import came_through_a_file

#: What is below this path costs nothing, and is not counted; nor is what monitors need most when there is no place
#: left, nor a path that leads nowhere.
_MODELS = b"/v1/models"
_UNCOUNTED = frozenset({"/metrics", UNMATCHED})


class Gate(Resource):
    """Stands before the routes of ``app``. What is below ``/admin`` is the affair of ``admin``, which has a gate of its
    own. Where no key is needed, nobody is counted either."""

    isLeaf = True

    def __init__(
        self,
        app: Klein,
        live: Callable[[], Live],
        exchanges: Exchanges,
        admin: IResource | None = None,
        needs_key: bool = True,
    ) -> None:
        super().__init__()
        self._inner = app.resource()
        self._rules = Rules.of(app)
        self._live = live
        self._exchanges = exchanges
        self._admin = admin
        self._needs_key = needs_key

    def render(self, request: Any) -> Any:
        request.postpath = plain_path(request.postpath)
        admin = self._admin if request.postpath[:1] == [b"admin"] else None
        route = self._rules.rule(text(b"/" + b"/".join(request.postpath))) if admin is None else ADMIN
        exchange = self._exchanges.enter(request, route)
        request.setHeader("request-id", exchange.id)
        if admin is not None:
            return admin.render(request)
        problem = self._check(request, exchange)
        if problem is None:
            return self._inner.render(request)
        exchange.fails(problem)
        return answer_problem(request, problem, exchange.id)

    def welcomes(self, request: Request) -> bool:
        """Whether a request whose body is still to come would pass, as far as its headers tell."""
        live = self._live()
        problem = check_page(request, live) or (key_of(request, live.settings) if self._needs_key else None)
        return not (self._exchanges.closed or isinstance(problem, Problem))

    def _check(self, request: Any, exchange: Exchange) -> Problem | None:
        if self._exchanges.draining:
            request.setHeader("connection", "close")  # also where it is not our own site that serves
        if self._exchanges.closed:
            return stopping()
        live = self._live()
        path = b"/" + b"/".join(request.postpath)
        problem = check_page(request, live)
        if problem is None and self._needs_key and exchange.route not in SIGNS_OF_LIFE:
            key = key_of(request, live.settings)
            if isinstance(key, Problem):
                return key
            exchange.key = key.label if key is not None else ""
            whom = exchange.client if key is None else key.name or key
            problem = self._check_crowd(exchange, path, whom, live.settings)
        return problem or check_path(path)

    def _check_crowd(self, exchange: Exchange, path: bytes, whom: Hashable, settings: Settings) -> Problem | None:
        if path.startswith(_MODELS) or exchange.route in _UNCOUNTED:
            return None
        counts = None if path.endswith(b"/count_tokens") else whom
        return self._exchanges.crowd.enter(exchange, counts, settings.max_requests, settings.max_requests_per_key)


def check_path(path: bytes) -> Problem | None:
    """Whether Klein can read this path; else it would answer in plain text."""
    return not_found(f"There is nothing at {printable(path)}") if "\ufffd" in text(path) else None


def check_page(request: Request, live: Live) -> Problem | None:
    """Whether a web page, or who has been lured by one, may have sent this."""
    settings = live.settings
    hosts = request.requestHeaders.getRawHeaders(b"host", ())
    problem = check_one_host(len(hosts), request.clientproto)
    if problem is None and hosts:
        host = text(hosts[0])
        problem = check_host(host, live.interfaces, settings.allowed_hosts)
        if problem is not None and is_host(host) and came_through_a_file(request):
            problem = None  # no web page can be made to ask there
    origin, site = header(request, b"origin"), header(request, b"sec-fetch-site")
    return problem or check_origin(origin, site, settings.allowed_origins)


def key_of(request: Request, settings: Settings) -> Key | Problem | None:
    """As `guard.check_key` for the keys of clients."""
    return check_key(settings.keys, *credentials(request))


def credentials(request: Request) -> tuple[str | None, str | None]:
    """The two headers that may carry a key."""
    return header(request, b"x-api-key"), header(request, b"authorization")


def every_credential(request: Request) -> Iterator[tuple[str | None, str | None]]:
    """The same of requests that carry one of them more than once, where only the last one counts."""
    several = (request.requestHeaders.getRawHeaders(name, ()) for name in (b"x-api-key", b"authorization"))
    for api_key, authorization in zip_longest(*several):
        yield (
            None if api_key is None else text(api_key),
            None if authorization is None else text(authorization),
        )


def header(request: Any, name: bytes) -> str | None:
    """A header as text, whatever its bytes are: Twisted's own decoding raises for what is no UTF-8."""
    value = request.getHeader(name)
    return None if value is None else text(value)


def query(request: Request) -> Mapping[str, str]:
    """What stands behind the path's ``?``; of a name that stands there more than once, the last."""
    arguments: dict[bytes, list[bytes]] = request.args or {}
    return {text(name): text(values[-1]) for name, values in arguments.items()}


def text(data: bytes) -> str:
    """Of a path or a header."""
    return data.decode("utf-8", "replace")

"""The line that the log has of every request, also of those whose client went away (STYLE P19)."""

from twisted.logger import Logger
from twisted.web.http import Request

from claudeproxy.model.events import Usage
from claudeproxy.model.kinds import define
from claudeproxy.web.exchange import Exchange
from claudeproxy.web.rules import SIGNS_OF_LIFE


@define(eq=False)
class RequestLog:
    """Writes it once the request has left. It holds no content and no secret."""

    _log: Logger

    def entered(self, exchange: Exchange, request: Request) -> None:
        """Nothing can be said yet."""

    def left(self, exchange: Exchange) -> None:
        quiet = exchange.route in SIGNS_OF_LIFE and exchange.status < 400  # worth a line only to who looks for it
        write = self._log.debug if quiet else self._log.info
        usage = exchange.usage or Usage()
        for remark in dict.fromkeys(exchange.remarks):
            told = "{request_id} {backend}: {remark}"
            self._log.warn(told, backend=exchange.backend, remark=remark, **exchange.told)
        first = None if exchange.first_token is None else exchange.first_token - exchange.began
        write(
            "{client} {_session} {method} {path} {status} {outcome} {duration:.3f}s{_way}{_tokens}{_cache}{_joined}"
            "{_key} {request_id}",
            client=exchange.client,
            _key=f" key={exchange.key}" if exchange.key else "",
            method=exchange.method,
            path=exchange.path,
            status=exchange.status,
            outcome=exchange.result,
            duration=exchange.ended - exchange.began,
            route=exchange.route,
            cache=exchange.turn.words if exchange.turn is not None else "",
            joined=exchange.joined,
            # What begins with an underscore is for the text alone.
            _session=exchange.session[:8] or "-",
            _way=f" {exchange.model} -> {exchange.backend}/{exchange.backend_model}" if exchange.backend else "",
            _tokens=_tokens(exchange, first),
            _cache=f" cache={exchange.turn.words}" if exchange.turn is not None else "",
            _joined=" joined" if exchange.joined else "",
            model=exchange.model,
            backend=exchange.backend,
            backend_model=exchange.backend_model,
            first_token=first,
            input_tokens=usage.input,
            cached_tokens=usage.cache_read,
            output_tokens=usage.output,
            **exchange.told,
        )


def _tokens(exchange: Exchange, first: float | None) -> str:
    begun = "" if first is None else f" first {first:.3f}s"
    usage = exchange.usage
    return begun if usage is None else f"{begun} in {usage.prompt} cached {usage.cache_read} out {usage.output}"

"""What the flight recorder keeps of one request, and how it is told: both sides of the proxy, with timings."""

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from attrs import fields
from twisted.web.http import Request

from claudeproxy.backends.journey import Attempt, Journey
from claudeproxy.model.events import Usage
from claudeproxy.model.kinds import define
from claudeproxy.routing.sessions import Verdict
from claudeproxy.translate.prefix import Continuity
from claudeproxy.web.exchange import Exchange

#: What of a client's headers is worth keeping; of the others, credentials above all, nothing is.
_TELLING = {
    name.encode(): name
    for name in (
        "user-agent",
        "anthropic-version",
        "anthropic-beta",
        "content-encoding",
        "x-stainless-retry-count",
        "x-stainless-helper-method",
        "traceparent",
    )
}
_LONGEST_HEADER = 500
#: What makes a copy of an exchange: many times as fast as `copy.copy`, which goes through pickle's ways.
_values = attrgetter(*(each.name for each in fields(Exchange)))


@define(eq=False)
class Record:
    """One request. While it runs, it is told as far as it has come."""

    #: The exchange itself while it runs; then a copy, without the conversation's chain of hashes.
    exchange: Exchange
    #: Those of the client's headers that tell something.
    headers: Mapping[str, str]
    #: While it runs.
    _request: Any
    continuity: Continuity | None = None
    verdict: Verdict | None = None
    #: Bytes of the answer's body.
    answered: int = 0
    #: What was kept of the answer as the client got it.
    answer: bytearray | None = None

    @classmethod
    def of(cls, exchange: Exchange, request: Request, keep: int) -> "Record":
        """Begins it. Of all bodies up to ``keep`` bytes are kept as they are."""
        record = cls(exchange, headers_of(request), request)
        exchange.journey.outlined, exchange.journey.keep = True, keep
        if keep:
            record._listen(request, keep)
        return record

    def close(self) -> None:
        """The request has left."""
        self._note_what_runs()
        self.exchange, self._request = Exchange(*_values(self.exchange)), None
        self.exchange.turn = self.exchange.stop = None

    @property
    def runs(self) -> bool:
        return self._request is not None

    @property
    def state(self) -> str:
        """The status, or that there is none yet."""
        return "running" if self.runs else str(self.exchange.status)

    def brief(self, now: float) -> dict[str, Any]:
        """For a list."""
        self._note_what_runs()
        told = self.exchange
        return {
            "id": told.id,
            "time": _date(told.began),
            "running": self.runs,
            "method": told.method,
            "path": told.path,
            "status": told.status or None,
            "outcome": told.outcome if self.runs else told.result,
            "session": told.session,
            "model": told.model,
            "backend": told.backend,
            "backend_model": told.backend_model,
            "seconds": _since(told.began, now if self.runs else told.ended),
            "first_token": _since(told.began, told.first_token),
            "usage": _usage(told.usage),
            "cache": None if self.verdict is None else self.verdict.words,
            "joined": told.joined,
        }

    def whole(self, now: float, content: bool) -> dict[str, Any]:
        """All of it. Times are seconds after the request came; what was kept of bodies only with ``content``."""
        told, way = self.exchange, self.exchange.journey
        return {
            **self.brief(now),
            "client": {
                "address": told.client,
                "agent": told.agent,
                "request_class": told.request_class,
                "headers": dict(self.headers),
            },
            "asked": {
                "stream": told.streams,
                "size": way.asked_size,
                **({} if way.asked is None else way.asked.json),
            },
            "route": {"backend": told.backend, "model": told.backend_model, "rule": told.rule},
            "rewrites": {
                "dropped": list(told.dropped),
                "emulated": list(told.emulated),
                "repairs": list(dict.fromkeys(told.remarks)),
                "max_tokens": _max_tokens(way),
            },
            "prompt": _prompt(way),
            "sent": None if way.sent is None else way.sent.json,
            "backend_call": _call(way, told.began),
            "waits": {
                "committed": _since(told.began, told.committed),
                "grace_ran_out": told.impatient,
                "pings": told.pings,
                "signs_of_life": told.signs_of_life,
            },
            "joined_to": way.id if told.joined else None,
            "cache_facts": self._cache(),
            "answer": {
                "bytes": self.answered,
                "error": _error(told),
            },
            "content": (self._content() if content else None) or None,
        }

    def _note_what_runs(self) -> None:
        if self._request is None:
            return
        self.answered = self._request.sentLength
        turn = self.exchange.turn
        if turn is not None:
            self.continuity, self.verdict = turn.continuity, turn.verdict

    def _listen(self, request: Any, keep: int) -> None:
        kept = self.answer = bytearray()
        write = request.write

        def write_and_keep(data: bytes) -> None:
            kept.extend(data[: keep - len(kept)])
            write(data)

        request.write = write_and_keep

    def _cache(self) -> dict[str, Any] | None:
        how, verdict = self.continuity, self.verdict
        if how is None:
            return None
        return {
            "prefix": how.kind,
            "broke_at": how.at,
            "broke_why": how.why,
            "words": how.words if how.why else "",
            "shared": round(how.share, 4),
            "expected_tokens": how.expected_tokens,
            "cause": None if verdict is None else verdict.cause,
            "cached_tokens": None if verdict is None else verdict.cached,
        }

    def _content(self) -> dict[str, str]:
        kept = {**self.exchange.journey.kept, **({} if self.answer is None else {"answer": self.answer})}
        return {name: data.decode("utf-8", "replace") for name, data in kept.items()}


def headers_of(request: Request) -> dict[str, str]:
    """What a client's headers tell of it; never a credential."""
    found = {}
    for name, values in request.requestHeaders.getAllRawHeaders():
        shown = _TELLING.get(name.lower())
        if shown is not None and values:
            text = values[0][:_LONGEST_HEADER].decode("utf-8", "replace")
            found[shown] = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    return found


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _since(began: float, moment: float | None) -> float | None:
    return None if moment is None else round(moment - began, 4)


def _usage(usage: Usage | None) -> dict[str, int | None] | None:
    if usage is None:
        return None
    return {
        "prompt": usage.prompt,
        "input": usage.input,
        "cache_read": usage.cache_read,
        "cache_creation": usage.cache_creation,
        "output": usage.output,
        "thinking": usage.thinking,
    }


def _max_tokens(way: Journey) -> dict[str, int | None] | None:
    if way.fit is None or way.cut_to is None:
        return None
    return {"asked": way.fit.wanted, "sent": way.cut_to}


def _prompt(way: Journey) -> dict[str, Any] | None:
    if way.fit is None:
        return None
    return {"tokens": way.fit.tokens, "source": way.fit.source, "window": way.fit.window}


def _call(way: Journey, began: float) -> dict[str, Any] | None:
    if not way.attempts:
        return None
    return {
        "dialect": way.dialect,
        "attempts": [_attempt(each, began) for each in way.attempts],
        "first_byte": _since(began, way.first_byte),
        "first_token": _since(began, way.first_token),
        "last_byte": _since(began, way.last_byte),
        "ended": _since(began, way.ended),
        "bytes": way.received,
    }


def _attempt(attempt: Attempt, began: float) -> dict[str, Any]:
    return {
        "address": attempt.address,
        "size": attempt.size,
        "why": attempt.why,
        "sent": _since(began, attempt.sent),
        "answered": _since(began, attempt.answered),
        "status": attempt.status or None,
    }


def _error(told: Exchange) -> dict[str, Any] | None:
    if told.problem is None:
        return None
    return {"status": told.problem.status, "type": told.problem.type, "message": told.problem.message}

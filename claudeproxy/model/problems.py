"""The closed list of what can go wrong for a caller, in Anthropic's terms (PROTOCOL 3).

A problem is a value: made here, turned into HTTP or into a stream's error event in ``web.answers`` and
``wire.sse``, and nowhere else.
"""

from attrs import evolve

from claudeproxy.model.kinds import frozen

#: Backend texts are kept in messages, but not without bound (PROTOCOL row 76).
LONGEST_DETAIL = 2048


@frozen
class Problem:
    """One failed request.

    ``retry_after`` is in whole seconds, because Claude Code reads only integers. ``should_retry`` becomes the
    header ``x-should-retry``, which overrides what a client makes of the status; None leaves it to the client.
    ``outcome`` is the word that the log and the counters use.
    """

    status: int
    type: str
    message: str
    outcome: str
    retry_after: int | None = None
    should_retry: bool | None = None


class Refusal(Exception):
    """Carries a `Problem` up to the one place that answers with it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def invalid_request(message: str) -> Problem:
    """The caller's request cannot be understood or served as it is; repeating it is useless."""
    return Problem(400, "invalid_request_error", message, "invalid_request", should_retry=False)


def unauthenticated(message: str) -> Problem:
    """No key, or a wrong one. Without ``x-should-retry: false`` Claude Code would retry for a minute."""
    return Problem(401, "authentication_error", message, "unauthenticated", should_retry=False)


def forbidden(message: str) -> Problem:
    """The request must not be served to this caller at all."""
    return Problem(403, "permission_error", message, "forbidden", should_retry=False)


def not_found(message: str) -> Problem:
    """No such path or model."""
    return Problem(404, "not_found_error", message, "not_found", should_retry=False)


def wrong_method(message: str) -> Problem:
    """The path exists, but not for this method."""
    return Problem(405, "invalid_request_error", message, "wrong_method", should_retry=False)


def too_large(message: str) -> Problem:
    """The body is above the limit."""
    return Problem(413, "request_too_large", message, "too_large", should_retry=False)


def head_too_large(longest: int) -> Problem:
    """Request line and headers are above the limit, in bytes."""
    words = f"The request line and headers are larger than {longest // 1024} KB (header_limit_kb), or too many"
    return Problem(431, "invalid_request_error", words, "head_too_large", should_retry=False)


def too_slow(part: str) -> Problem:
    """The client takes too long to send ``part`` of its request."""
    return Problem(408, "timeout_error", f"The request's {part} came too slowly (request_timeout_ms)", "too_slow")


def full(message: str, retry_after: int) -> Problem:
    """The proxy itself has all that it can bear."""
    return evolve(overloaded(message, retry_after), outcome="overloaded")


def rate_limited(message: str, retry_after: int) -> Problem:
    """The caller has more than its share already."""
    return Problem(429, "rate_limit_error", message, "rate_limited", retry_after)


def internal(incident: str) -> Problem:
    """A fault of ours. The log holds the traceback under the same incident (the request id)."""
    return Problem(500, "api_error", f"Internal error in claudeproxy; the log tells more under {incident}.", "internal")


def bad_gateway(message: str) -> Problem:
    """The backend answered with nonsense, or stopped in the middle; another try may work."""
    return Problem(502, "api_error", message, "backend_error")


def overloaded(message: str, retry_after: int | None = None) -> Problem:
    """The backend cannot be reached or is busy, and may come back (PROTOCOL 3.2)."""
    return Problem(529, "overloaded_error", message, "backend_unavailable", retry_after)


def stopping() -> Problem:
    """The daemon ends, and another may take its place."""
    return evolve(overloaded("claudeproxy is being stopped; please try again.", retry_after=2), outcome="stopped")


def prompt_too_long(prompt: int | None = None, window: int | None = None) -> Problem:
    """The words that make Claude Code compact the conversation (PROTOCOL 3.3).

    The two numbers, in tokens, steer how much it summarises: they are given only if both are the backend's own.
    """
    words = "prompt is too long"
    if prompt is not None and window is not None:
        words += f": {prompt} tokens > {window} maximum"
    return Problem(400, "invalid_request_error", words, "prompt_too_long", should_retry=False)


#: Statuses that pass through as they are, with the error type that belongs to each (PROTOCOL 3.1, 3.2).
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}

#: A repetition of these cannot succeed: the proxy's own key is wrong, or the request is.
_HOPELESS = frozenset({400, 401, 402, 403, 404, 405, 413, 422})


def from_status(status: int, message: str, retry_after: int | None = None) -> Problem:
    """What a backend's HTTP status means for our caller; ``message`` is kept up to `LONGEST_DETAIL` characters."""
    message = message[:LONGEST_DETAIL]
    if status in (503, 504):
        return overloaded(message, retry_after)
    kind = _TYPES.get(status)
    if kind is not None:
        return Problem(status, kind, message, "backend_refused", retry_after, False if status in _HOPELESS else None)
    if status < 500:
        return evolve(invalid_request(message), outcome="backend_refused")
    return evolve(bad_gateway(message), status=status)

"""
Every fault by its name: how it is done to a daemon, and what a client may see of it.

The names and what is seen are rows of the README's table, which `python -m tests.e2e.faults_table` writes.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from attrs import frozen

from tests.e2e.faulty import TEXT
from tests.e2e.scene import KINDS, Scene

#: What of a backend's fault comes to a client: of one that is away, of one that breaks off, of one that talks nonsense.
AWAY = "529 overloaded_error"
BAD = "502 api_error"
LATE = ("event overloaded_error", AWAY)
CUT_SHORT = ("event api_error", BAD)

Deed = Callable[[Scene], None]
Allowed = tuple[str, ...]


@frozen
class Fault:
    """One row of the README's table. ``do`` does it once and raises if anything is wrong."""

    name: str
    seen: str
    do: Deed
    #: How often it is done in one go: in every way that an answer can take, or by so many clients.
    each: int = 1
    #: It takes so long, or so much, that it is gone through no more often than that.
    most: int = 10_000
    #: It needs the embedded model.
    model: bool = False

    def rounds(self, times: int) -> int:
        """How often it is to be gone through, so that it is done so many times."""
        return min(self.most, -(-times // self.each))


def from_backend(
    name: str,
    seen: str,
    model: str,
    *streamed: str,
    passed: Allowed = (),
    place: str = "",
    retry_after: str | None = None,
    more: str = "",
    most: int = 10_000,
) -> Fault:
    """A backend's fault, through every kind of backend, streamed and not. What may be seen of it, and what where the
    answer is passed on, if that is something else."""
    ways = [(kind, stream) for kind in KINDS for stream in (True, False)]

    def once(scene: Scene, way: tuple[str, bool]) -> None:
        kind, stream = way
        found = scene.asks(f"{kind}{place}/{model}", stream, more)
        allowed = passed if kind == "passed" and passed else streamed
        assert found.what in allowed, f"{model} by {kind}, stream {stream}: {found} instead of {allowed}"
        assert stream or "event" not in found.what
        if found.what == "answered":
            assert found.text == TEXT, f"{model} by {kind}, stream {stream}: a clean end of {found.text!r}"
        assert retry_after is None or found.what == "raw" or found.retry_after == retry_after, found
        assert not scene.backend.drowned, f"{model} by {kind}: all of what is endless was taken"

    return Fault(f"The backend {name}", seen, lambda scene: at_once(partial(once, scene), ways), len(ways), most)


def at_once(what: Callable[[Any], None], each: Iterable[Any]) -> None:
    """Does it to all of them at the same time; raises what one of them raised."""
    each = list(each)
    with ThreadPoolExecutor(len(each)) as pool:
        list(pool.map(what, each))


#: Where it is passed on: between two events there is a place for one more.
_PASSED_ON = ("event api_error", "cut")
_EVENT = "an `error` event; 502 if not streamed"
_GONE = "529"

FROM_BACKENDS = (
    from_backend("refuses connections", _GONE, "good", AWAY, place="-refused"),
    from_backend("answers https with plain HTTP", _GONE, "good", AWAY, place="-tls"),
    from_backend("has a certificate that nobody trusts", _GONE, "good", AWAY, place="-stranger"),
    from_backend("accepts and never answers", "529 after `first_token_ms`", "mute", *LATE, place="-hasty"),
    from_backend("is silent after its headers", "the same", "mute_after_headers", *LATE, place="-hasty"),
    from_backend("is killed before its headers", _GONE, "reset_before_headers", AWAY),
    from_backend("closes without a word", _GONE, "closed_before_headers", AWAY),
    from_backend("is killed after its headers", _GONE, "reset_after_headers", AWAY),
    from_backend("is killed between two events", _EVENT, "reset_between_events", *CUT_SHORT, passed=_PASSED_ON),
    from_backend("is killed within an event", _EVENT, "reset_within_an_event", *CUT_SHORT, passed=("cut",)),
    from_backend("closes in mid-stream", _EVENT, "closed_in_mid_stream", *CUT_SHORT, passed=_PASSED_ON),
    from_backend(
        "ends its body properly in mid-answer",
        _EVENT,
        "ended_in_mid_stream",
        *CUT_SHORT,
        passed=("event api_error", "raw"),
    ),
    from_backend(
        "ends body and connection in mid-answer",
        _EVENT,
        "ended_with_the_connection",
        *CUT_SHORT,
        passed=("event api_error", "raw"),
    ),
    from_backend(
        "hangs in mid-stream",
        f"{_EVENT}, after `timeout_ms`",
        "mute_in_mid_stream",
        *CUT_SHORT,
        place="-hasty",
        passed=_PASSED_ON,
    ),
    from_backend("sends a byte each 10 ms", "the answer", "byte_by_byte", "answered"),
    from_backend("speaks no HTTP", _GONE, "no_http", AWAY),
    from_backend("sends noise for events", "502", "no_events", BAD, passed=("raw",)),
    from_backend("sends noise in mid-stream", _EVENT, "noise_in_mid_stream", *CUT_SHORT, passed=("raw",)),
    from_backend("sends a web page", "502", "a_web_page", *CUT_SHORT, passed=("raw",)),
    from_backend("says too short a length", _EVENT, "length_too_short", *CUT_SHORT, passed=("event api_error", "raw")),
    from_backend("says too long a length", _EVENT, "length_too_long", *CUT_SHORT, passed=(*_PASSED_ON, "closed")),
    from_backend("says no number for a length", _GONE, "length_is_no_number", AWAY),
    from_backend("sends a chunk size that is none", _EVENT, "bad_chunk_size", *CUT_SHORT, passed=_PASSED_ON),
    from_backend("sends an endless chunk size", _EVENT, "endless_chunk_size", *CUT_SHORT, passed=_PASSED_ON),
    from_backend("answers 500", "500", "status_500", "500 api_error", passed=("raw",)),
    from_backend("answers 503 with `retry-after`", "529 with it", "status_503", AWAY, passed=("raw",), retry_after="7"),
    from_backend(
        "answers 429 with `retry-after`",
        "429 with it",
        "status_429",
        "429 rate_limit_error",
        passed=("raw",),
        retry_after="7",
    ),
    from_backend("redirects", "502", "redirect", BAD),
    from_backend(
        "answers before it has read the request",
        "its error, or 529",
        "good",
        "413 request_too_large",
        AWAY,
        passed=("raw", AWAY, "cut", "closed"),
        more="x" * 1_500_000,
        most=5,
    ),
    from_backend("sends gzip that is none", _GONE, "bad_gzip", AWAY),
    from_backend("sends an endless header", _GONE, "endless_header", AWAY, most=20),
    from_backend("sends headers without end", _GONE, "endless_headers", *LATE, most=20),
    from_backend("sends 1xx answers without end", _GONE, "endless_interim_answers", *LATE, most=20),
)

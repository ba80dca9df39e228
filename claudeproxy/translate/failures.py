"""What a backend says when it fails, to a `Problem` (PROTOCOL 3.2, 3.3, row 76)."""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any

from attrs import evolve

from claudeproxy.model.problems import (
    LONGEST_DETAIL,
    Problem,
    bad_gateway,
    from_status,
    invalid_request,
    overloaded,
    prompt_too_long,
)
from claudeproxy.translate.overflows import overflow
from claudeproxy.wire.json import NotJSON, decode, encode_text

#: Of a text no more than this is searched; and no expression here takes more than linear time for it.
_LONGEST_SEARCHED = 16_384
#: The same for the codes and types of an error.
_LONGEST_SIGN = 64
#: Of a text that may be a piece of an answer no more than this is told.
_LONGEST_SHOWN = 100
#: A date in a header is shorter.
_LONGEST_DATE = 64
_BAD_GATEWAY = 502
#: An estimate of the prompt may be too low: with nothing in the answer, so much of the window counts as all of it.
NEARLY = 0.9
#: Where errors without an ``error`` keep their words.
_ERROR_WORDS = ("message", "detail", "errors")
#: Where an error may say what is wrong, the most telling first.
_WORDED = (
    *("error", "message", "detail", "msg", "error_msg", "error_message", "errorMessage", "error_description"),
    *("status_msg", "base_resp", "errors", "reason", "description", "title", "text", "code"),
)
#: Of an error that says it nowhere, no more than this is told.
_LONGEST_UNKNOWN = 200
#: Errors of a server's own that come as 500 though repeating them is useless (issue 3; PROTOCOL 3.2).
_PERMANENT = re.compile(
    r"does not match the expected|mmproj|image input|does not support image|multimodal|jinja|chat template"
    r"|failed to parse (?:grammar|messages)|unsupported (?:param|content)|unable to generate parser"
    r"|json schema (?:conversion |validation )?(?:error|failed)|unrecognized (?:type|schema)"
    r"|roles must alternate|cannot have 2 or more assistant messages|only user, assistant and tool roles are supported"
    r"|failed to parse input at pos|value is not callable",
    re.IGNORECASE,
)
#: What is in the codes and types of errors that have no number, letters alone, and the status that each stands for.
_SIGNS = (
    (402, ("insufficientquota", "insufficientbalance", "insufficientcredit", "billing", "paymentrequired")),
    (429, ("ratelimit", "toomanyrequests", "resourceexhausted")),
    (529, ("overloaded", "insufficientsystemresource", "unavailable")),
    (401, ("authentication", "invalidapikey", "unauthenticated", "unauthorized")),
    (403, ("permission", "forbidden")),
    (404, ("notfound",)),
    (400, ("invalidrequest", "badrequest", "invalidargument")),
)
#: What MiniMax's ``base_resp`` has for numbers, and the status that each stands for.
_MINIMAX = {1002: 429, 1004: 401, 1008: 402, 1026: 400, 1039: 429, 1041: 429, 2013: 400, 2049: 401}
#: The servers' words for a model that they do not have.
_NO_MODEL = re.compile(
    r"model:? [`'\"](?P<name>[^`'\"]{1,200})[`'\"]:? (?:(?:was |is )?not found|does not exist|is not valid)"
    r"|(?P<bare>[^\s`'\"]{1,200}) is not a valid model",
    re.IGNORECASE,
)
#: No branch looks beyond the next tag of its own kind, so that tags that nobody closes cost no more than others.
_TAGS = re.compile(
    r"<(script|style|title)\b(?:[^<]++|<(?!/?\1\b))*+</\1\s*+>|<[^<>]+>",
    re.IGNORECASE,
)


def problem_from_answer(backend: str, status: int, body: bytes, retry_after: int | None = None) -> Problem:
    """A backend's error answer, whatever its shape. The message names the backend and keeps its words."""
    try:
        said: Any = decode(body)
    except NotJSON:
        said = body.decode("utf-8", "replace")
    return problem_from_error(backend, said, status, retry_after)


def problem_from_text(backend: str, said: bytes) -> Problem:
    """What came where JSON was due. Overflows and the like are known by their words; anything else is shown in part,
    for the client alone: it may be a piece of the answer, as it surely is if it began as JSON."""
    text = said.decode("utf-8", "replace")
    problem = problem_from_error(backend, text, 200)
    if problem.status != _BAD_GATEWAY and not text.lstrip().startswith("{"):
        return problem
    shown = "".join(letter for letter in _words(text) or text if letter.isprintable())[:_LONGEST_SHOWN]
    return bad_gateway(f"Backend {backend} sent what is no JSON: {shown}")


def empty_answer(backend: str, counted: int, estimated: int, window: int) -> Problem:
    """An answer without anything in it (row 39): some servers do not say otherwise that the prompt was too long.

    All numbers are tokens: the prompt as the backend ``counted`` it and the ``window``, 0 where they are not known, and
    the prompt as we ``estimated`` it. Only a count goes into the message (PROTOCOL 3.3).
    """
    if 0 < window < counted:
        return prompt_too_long(counted, window)
    if 0 < window <= (counted or estimated / NEARLY):
        return prompt_too_long()
    return bad_gateway(f"Backend {backend} gave an empty answer.")


def is_bare_error(said: Mapping[str, Any]) -> bool:
    """Whether an object without choices is an error of one of the shapes that have no ``error`` (row 76)."""
    if "choices" in said:
        return not said["choices"] and _minimax(said) != 0
    bare = said.get("object") == "error" or any(isinstance(said.get(key), str | list) for key in _ERROR_WORDS)
    if bare or _minimax(said):
        return True
    return isinstance(said.get("msg"), str) and (said.get("success") is False or _number(said.get("code")) >= 400)


def seconds_to_wait(retry_after: str, date: str = "") -> int | None:
    """``retry-after`` in whole seconds, rounded up; None for what is none.

    A time of day is measured from the answer's own ``date``, so that no two clocks need to agree.
    """
    try:
        return max(0, ceil(float(retry_after)))
    except (ValueError, OverflowError):
        until, now = _moment(retry_after), _moment(date)
        return None if until is None or now is None else max(0, ceil(until - now))


def _moment(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date[:_LONGEST_DATE])
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # what it raises depends on the release
        return None


def problem_from_error(backend: str, said: Any, status: int, retry_after: int | None = None) -> Problem:
    """An error value: an object of any of the shapes of row 76, or a text; ``status`` unless it carries its own."""
    error = _error_in(said)
    words = _words(said) or _unworded(said) or f"an empty answer with status {status}"
    answered, status = status, _status(error, status)
    too_long = overflow(error, words, _signs(error), status)
    if too_long is not None:
        return too_long
    if isinstance(error, dict) and error.get("type") == "unavailable_error" and "oading" in words:
        return overloaded(f"Backend {backend}: {words}", retry_after=2)
    if _is_permanent(error, words, status):
        return evolve(invalid_request(f"Backend {backend}: {words}"), outcome="backend_refused")
    if answered < 400 and status == 502:  # row 53: a gateway's word for a provider that is down
        return overloaded(f"Backend {backend}: {words}")
    if status < 400:
        return bad_gateway(f"Backend {backend}: {words}")
    unknown = _NO_MODEL.search(words) if status == 404 else None
    if unknown is not None:
        return from_status(404, f"model: {unknown['name'] or unknown['bare']} (backend {backend}: {words})")
    return from_status(status, f"Backend {backend}: {words}", retry_after)


def _error_in(said: Any) -> Any:
    """What tells the class of an error: the object in ``error``, or else what holds it; of several the first."""
    if isinstance(said, list):
        said = next((each for each in said if isinstance(each, dict)), said)
    if not isinstance(said, dict):
        return said
    return said["error"] if isinstance(said.get("error"), dict) else said


def _words(said: Any) -> str:
    """The most telling text in an error, without markup, bounded."""
    if isinstance(said, str):
        return " ".join(_TAGS.sub(" ", said[:_LONGEST_SEARCHED]).split())[:LONGEST_DETAIL]
    if isinstance(said, list):
        return "; ".join(filter(None, map(_words, said)))[:LONGEST_DETAIL]
    if not isinstance(said, dict):
        return ""
    metadata = said.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(raw, str | dict | list):
        # OpenRouter wraps the provider's own error, which tells more than its own words do.
        return _words(_parsed(raw) if isinstance(raw, str) else raw) or _words(said.get("message"))
    for name in _WORDED:
        found = _words(said.get(name))
        if found:
            return found
    return ""


def _unworded(said: Any) -> str:
    """An error of a shape that nobody knows, as it is, in part."""
    return encode_text(said)[:_LONGEST_UNKNOWN] if said and not isinstance(said, str) else ""


def _parsed(text: str) -> Any:
    try:
        return decode(text.encode())
    except NotJSON:
        return text


def _status(error: Any, status: int) -> int:
    """An error inside a 200 may carry the status that it should have had, or a word for it (rows 53 and 77)."""
    if status >= 400 or not isinstance(error, Mapping):
        return status
    for number in (_number(error.get("code")), _number(error.get("status")), _MINIMAX.get(_minimax(error), 0)):
        if 400 <= number < 600:
            return number
    for sign in _signs(error):
        letters = re.sub("[^a-z]", "", sign.lower())
        for meant, names in _SIGNS:
            if any(name in letters for name in names):
                return meant
    return status


def _number(value: Any) -> int:
    """A number of three digits, in digits too; 0 for anything else."""
    if isinstance(value, str) and re.fullmatch("[0-9]{3}", value):
        return int(value)
    return value if type(value) is int and 100 <= value < 1000 else 0


def _minimax(said: Mapping[str, Any]) -> int:
    """MiniMax's own number for what went wrong; 0 if nothing did."""
    told = said.get("base_resp")
    number = told.get("status_code") if isinstance(told, Mapping) else 0
    return number if type(number) is int else 0


def _signs(error: Any) -> list[str]:
    """The words that an error is classed by, the most telling first."""
    if not isinstance(error, Mapping):
        return []
    metadata = error.get("metadata")
    kind = metadata.get("error_type") if isinstance(metadata, Mapping) else None
    signs = (error.get("code"), kind, error.get("status"), error.get("type"))
    return [sign[:_LONGEST_SIGN] for sign in signs if isinstance(sign, str)]


def _is_permanent(error: Any, words: str, status: int) -> bool:
    """Whether it is the request's fault, whatever the status says (PROTOCOL 3.2)."""
    if status == 403:  # OpenRouter's moderation; no key of the proxy's is wrong
        metadata = error.get("metadata") if isinstance(error, Mapping) else None
        return isinstance(metadata, Mapping) and bool(metadata.get("reasons") or "flagged_input" in metadata)
    if status == 404:  # OpenRouter: "No endpoints found that support image input"
        return "image input" in words.lower()
    return (status < 400 or status >= 500) and _PERMANENT.search(words) is not None

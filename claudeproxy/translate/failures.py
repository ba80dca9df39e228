"""What a backend says when it fails, to a `Problem` (PROTOCOL 3.2, 3.3, row 76)."""

import re
from collections.abc import Mapping
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
from claudeproxy.wire.json import NotJSON, decode

_NUMBER = r"([0-9][0-9,]{0,15})"
#: The wordings of an overflow: prompt first, window second, or one of them unknown (PROTOCOL 3.3).
_OVERFLOWS = tuple(
    re.compile(words, re.IGNORECASE | re.DOTALL)
    for words in (
        rf"request \((?P<n>{_NUMBER}) tokens\) exceeds the available context size \((?P<m>{_NUMBER}) tokens\)",
        rf"maximum context length is (?P<m>{_NUMBER}) tokens.*?\((?P<n>{_NUMBER}) (?:in the messages|of text input)",
        rf"maximum context length is (?P<m>{_NUMBER}) tokens.*?messages resulted in (?P<n>{_NUMBER}) tokens",
        rf"limit of (?P<m>{_NUMBER}) tokens.*?messages resulted in (?P<n>{_NUMBER}) tokens",
        rf"maximum context length is (?P<m>{_NUMBER}) tokens.*?requested about (?P<n>{_NUMBER}) tokens",
        rf"maximum context length is (?P<m>{_NUMBER}) tokens.*?requested (?P<n>{_NUMBER}) (?:output )?tokens",
        rf"n_keep: (?P<n>{_NUMBER}) ?>= ?n_ctx: (?P<m>{_NUMBER})",
        r"input exceeds the context window",
        r"prompt is longer than the context length",
        r"exceeds? the (?:available )?context (?:size|length|window)",
        r"context ?(?:size|length|window) ?exceeded",
        r"context_length_exceeded|exceed_context_size_error",
        r"maximum context length",
        r"prompt is too long",
    )
)
#: vLLM's sum of prompt and asked-for answer, of which only the answer is too much.
_SUM = re.compile(
    rf"maximum context length is (?P<m>{_NUMBER}) tokens.*?requested {_NUMBER} tokens "
    rf"\((?P<p>{_NUMBER}) in the messages, (?P<c>{_NUMBER}) in the completion",
    re.IGNORECASE | re.DOTALL,
)
#: Errors of a server's own that come as 500 though repeating them is useless (issue 3; PROTOCOL 3.2).
_PERMANENT = re.compile(
    r"does not match the expected|mmproj|image input is not supported|multimodal|jinja|chat template"
    r"|failed to parse (?:grammar|messages)|unsupported (?:param|content)",
    re.IGNORECASE,
)
#: Ollama's words for a model that it does not have.
_NO_MODEL = re.compile(r"model ['\"](?P<name>[^'\"]+)['\"] (?:was )?not found", re.IGNORECASE)
_TAGS = re.compile(r"<(script|style|title)\b.*?</\1>|<[^>]+>", re.IGNORECASE | re.DOTALL)


def problem_from_answer(backend: str, status: int, body: bytes, retry_after: str | None = None) -> Problem:
    """A backend's error answer, whatever its shape. The message names the backend and keeps its words."""
    try:
        said: Any = decode(body)
    except NotJSON:
        said = body.decode("utf-8", "replace")
    return problem_from_error(backend, said, status, retry_after)


def problem_from_error(backend: str, said: Any, status: int, retry_after: str | None = None) -> Problem:
    """An error value: an object of any of the shapes of row 76, or a text; ``status`` unless it carries its own."""
    error = said.get("error", said) if isinstance(said, dict) else said
    words = _words(said) or f"an empty answer with status {status}"
    answered, status = status, _status(error, status)
    overflow = _overflow(error, words, status)
    if overflow is not None:
        return overflow
    if isinstance(error, dict) and error.get("type") == "unavailable_error" and "oading" in words:
        return overloaded(f"Backend {backend}: {words}", retry_after=2)
    if status >= 500 and _PERMANENT.search(words):
        return evolve(invalid_request(f"Backend {backend}: {words}"), outcome="backend_refused")
    if answered < 400 and status == 502:  # row 53: a gateway's word for a provider that is down
        return overloaded(f"Backend {backend}: {words}")
    if status < 400:
        return bad_gateway(f"Backend {backend}: {words}")
    unknown = _NO_MODEL.search(words) if status == 404 else None
    if unknown is not None:
        return from_status(404, f"model: {unknown['name']} (backend {backend}: {words})")
    return from_status(status, f"Backend {backend}: {words}", _seconds(retry_after))


def _overflow(error: Any, words: str, status: int) -> Problem | None:
    if (
        isinstance(error, dict)
        and isinstance(error.get("n_prompt_tokens"), int)
        and isinstance(error.get("n_ctx"), int)
    ):
        return prompt_too_long(error["n_prompt_tokens"], error["n_ctx"])
    if status in (401, 402, 403, 404, 429):
        return None
    code = f" {error.get('code')} {error.get('type')}" if isinstance(error, dict) else ""
    total = _SUM.search(words)
    if total is not None and _int(total["p"]) <= _int(total["m"]):
        return _answer_too_long(_int(total["p"]), _int(total["c"]), _int(total["m"]))
    for wording in _OVERFLOWS:
        found = wording.search(words + code)
        if found is not None:
            numbers = found.groupdict()
            if "n" not in numbers or _int(numbers["n"]) <= _int(numbers["m"]):
                return prompt_too_long()
            return prompt_too_long(_int(numbers["n"]), _int(numbers["m"]))
    return None


def _answer_too_long(prompt: int, asked: int, window: int) -> Problem:
    """The prompt fits, the answer asked for does not: the client repeats with less (PROTOCOL 3.3)."""
    return invalid_request(
        f"input length and `max_tokens` exceed context limit: {prompt} + {asked} > {window}, "
        "decrease input length or `max_tokens` and try again"
    )


def _words(said: Any) -> str:
    """The most telling text in an error, without markup, bounded."""
    if isinstance(said, str):
        return " ".join(_TAGS.sub(" ", said).split())[:LONGEST_DETAIL]
    if isinstance(said, list):
        return "; ".join(filter(None, map(_words, said)))[:LONGEST_DETAIL]
    if not isinstance(said, dict):
        return ""
    metadata = said.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):
        # OpenRouter wraps the provider's own error, which tells more than its own words do.
        return _words(_parsed(metadata["raw"])) or _words(said.get("message"))
    for name in ("error", "message", "detail", "msg", "reason", "code"):
        found = _words(said.get(name))
        if found:
            return found
    return ""


def _parsed(text: str) -> Any:
    try:
        return decode(text.encode())
    except NotJSON:
        return text


def _status(error: Any, status: int) -> int:
    """An error inside a 200 may carry the status that it should have had (row 77)."""
    code = error.get("code") if isinstance(error, Mapping) else None
    if status < 400 and isinstance(code, str) and re.fullmatch("[0-9]{3}", code):
        code = int(code)
    if status < 400 and isinstance(code, int) and 400 <= code < 600:
        return code
    return status


def _seconds(retry_after: str | None) -> int | None:
    """``retry-after`` in whole seconds, rounded up; a date is not passed on."""
    try:
        return max(0, -int(-float(retry_after) // 1)) if retry_after else None
    except (ValueError, OverflowError):
        return None


def _int(digits: str) -> int:
    return int(digits.replace(",", ""))

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

#: Of a text no more than this is searched; and no expression here takes more than linear time for it.
_LONGEST_SEARCHED = 16_384
#: The same for the codes and types of an error.
_LONGEST_SIGN = 64
_NUMBER = r"[0-9][0-9,]{0,15}"
_WINDOW = rf"maximum context length (?:is|of) (?P<m>{_NUMBER}) tokens"
#: Prompt, asked-for answer (where it is named) and window, in the servers' words for a sum that is too much.
_SUMS = tuple(
    re.compile(words, re.IGNORECASE | re.DOTALL)
    for words in (
        rf"is too large: (?P<c>{_NUMBER})\. This model's {_WINDOW} and your request has (?P<p>{_NUMBER}) input tokens",
        rf"{_WINDOW}.*?(?P<p>{_NUMBER}) tokens from the input messages and (?P<c>{_NUMBER}) tokens for the completion",
        rf"{_WINDOW}.*?requested (?P<c>{_NUMBER}) output tokens and your prompt contains (?:at least )?"
        rf"(?P<p>{_NUMBER}) (?:input )?tokens",
        rf"passed (?P<p>{_NUMBER}) input tokens(?: and requested (?P<c>{_NUMBER}) output tokens)?"
        rf".*?context length is only (?P<m>{_NUMBER})",
    )
)
#: The same sum told in parts: "(7000 in the messages, 500 in the functions, and 1500 in the completion)".
_SUM_IN_PARTS = re.compile(
    rf"{_WINDOW}.*?(?:requested|resulted in) [^()]{{0,80}}\((?P<parts>[^()]{{1,300}})\)", re.IGNORECASE
)
_PART = re.compile(rf"({_NUMBER}) (?:of|in|from|for) ([a-z ]+)", re.IGNORECASE)
#: The wordings of an overflow: prompt and window, or one of them unknown (PROTOCOL 3.3).
_OVERFLOWS = tuple(
    re.compile(words, re.IGNORECASE | re.DOTALL)
    for words in (
        rf"request \((?P<n>{_NUMBER}) tokens\) exceeds the available context size \((?P<m>{_NUMBER}) tokens\)",
        rf"{_WINDOW}.*?messages resulted in (?P<n>{_NUMBER}) tokens",
        rf"limit of (?P<m>{_NUMBER}) tokens.*?messages resulted in (?P<n>{_NUMBER}) tokens",
        rf"n_keep: (?P<n>{_NUMBER}) ?>= ?n_ctx: (?P<m>{_NUMBER})",
        rf"prompt is too long: (?P<n>{_NUMBER}) tokens > (?P<m>{_NUMBER})",
        rf"exceeded model token limit: (?P<m>{_NUMBER}) \(requested: (?P<n>{_NUMBER})\)",
        rf"input token count \(?(?P<n>{_NUMBER})\)? exceeds the maximum number of tokens allowed \(?(?P<m>{_NUMBER})",
        rf"\(length (?P<n>{_NUMBER})\) is longer than the maximum model length of (?P<m>{_NUMBER})",
        rf"\((?P<n>{_NUMBER}) tokens\) is longer than the model's context length \((?P<m>{_NUMBER}) tokens\)",
        r"input exceeds the context window",
        r"(?:longer|greater) than the (?:model's )?(?:maximum )?(?:context|model) (?:length|size|window)",
        r"exceeds? the (?:available )?context (?:size|length|window)",
        r"context ?(?:size|length|window) ?(?:has been )?exceeded",
        r"context_length_exceeded|exceed_context_size_error",
        r"maximum context length",
        r"exceeded model token limit|exceeds the maximum number of tokens allowed",
        r"prompt is too long|prompt exceeds max length|input is too long",
        # vLLM took the prompt off the window, and less than nothing was left. One digit may be a caller's own slip.
        r"max_tokens must be at least 1, got -[0-9]{2}",
    )
)
#: Errors of a server's own that come as 500 though repeating them is useless (issue 3; PROTOCOL 3.2).
_PERMANENT = re.compile(
    r"does not match the expected|mmproj|image input|does not support image|multimodal|jinja|chat template"
    r"|failed to parse (?:grammar|messages)|unsupported (?:param|content)|unable to generate parser"
    r"|json schema (?:conversion |validation )?(?:error|failed)|unrecognized (?:type|schema)"
    r"|roles must alternate|cannot have 2 or more assistant messages",
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
#: Ollama's words for a model that it does not have.
_NO_MODEL = re.compile(r"model ['\"](?P<name>[^'\"]+)['\"] (?:was )?not found", re.IGNORECASE)
#: No branch looks beyond the next tag of its own kind, so that tags that nobody closes cost no more than others.
_TAGS = re.compile(
    r"<(script|style|title)\b(?:[^<]++|<(?!/?\1\b))*+</\1\s*+>|<[^<>]+>",
    re.IGNORECASE,
)


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
    if _is_permanent(error, words, status):
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
    counts = _counts(words)
    if counts is not None:
        prompt, asked, window = counts
        if prompt > window:
            return prompt_too_long(prompt, window)
        return _answer_too_long(prompt, asked, window) if asked else prompt_too_long()
    searched = " ".join([words, *_signs(error)])
    for wording in _OVERFLOWS:
        found = wording.search(searched)
        if found is not None:
            numbers = found.groupdict()
            if "n" not in numbers or _int(numbers["n"]) <= _int(numbers["m"]):
                return prompt_too_long()
            return prompt_too_long(_int(numbers["n"]), _int(numbers["m"]))
    return None


def _counts(words: str) -> tuple[int, int, int] | None:
    """Prompt, asked-for answer (0 if it is not named) and window, in tokens, if the backend tells them apart."""
    for wording in _SUMS:
        found = wording.search(words)
        if found is not None:
            return _int(found["p"]), _int(found["c"] or "0"), _int(found["m"])
    found = _SUM_IN_PARTS.search(words)
    parts = _PART.findall(found["parts"]) if found is not None else []
    if found is None or not parts:
        return None
    tokens = [_int(number) for number, _ in parts]
    last = parts[-1][1].lower()
    asked = tokens.pop() if "output" in last or "completion" in last else 0
    return sum(tokens), asked, _int(found["m"])


def _answer_too_long(prompt: int, asked: int, window: int) -> Problem:
    """The prompt fits, the answer asked for does not: the client repeats with less (PROTOCOL 3.3)."""
    return invalid_request(
        f"input length and `max_tokens` exceed context limit: {prompt} + {asked} > {window}, "
        "decrease input length or `max_tokens` and try again"
    )


def _words(said: Any) -> str:
    """The most telling text in an error, without markup, bounded."""
    if isinstance(said, str):
        return " ".join(_TAGS.sub(" ", said[:_LONGEST_SEARCHED]).split())[:LONGEST_DETAIL]
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
    """An error inside a 200 may carry the status that it should have had, or a word for it (rows 53 and 77)."""
    if status >= 400 or not isinstance(error, Mapping):
        return status
    for number in (error.get("code"), error.get("status")):
        if isinstance(number, str) and re.fullmatch("[0-9]{3}", number):
            number = int(number)
        if isinstance(number, int) and 400 <= number < 600:
            return number
    for sign in _signs(error):
        letters = re.sub("[^a-z]", "", sign.lower())
        for meant, names in _SIGNS:
            if any(name in letters for name in names):
                return meant
    return status


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


def _seconds(retry_after: str | None) -> int | None:
    """``retry-after`` in whole seconds, rounded up; a date is not passed on."""
    try:
        return max(0, -int(-float(retry_after) // 1)) if retry_after else None
    except (ValueError, OverflowError):
        return None


def _int(digits: str) -> int:
    return int(digits.replace(",", ""))

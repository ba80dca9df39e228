"""How servers say that a prompt is too long (PROTOCOL 3.3), and the problem that follows. Pure.

No expression here takes more than linear time for what it searches.
"""

import re
from collections.abc import Iterable
from typing import Any

from claudeproxy.model.problems import Problem, invalid_request, prompt_too_long

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
        # Anthropic's own words, and those of Text Generation Inference.
        rf"input length and `max_tokens` exceed context limit: (?P<p>{_NUMBER}) \+ (?P<c>{_NUMBER}) > (?P<m>{_NUMBER})",
        rf"`inputs` tokens \+ `max_new_tokens` must be <= (?P<m>{_NUMBER})\. "
        rf"Given: (?P<p>{_NUMBER}) `inputs` tokens and (?P<c>{_NUMBER}) `max_new_tokens`",
    )
)
#: The same sum told in parts: "(7000 in the messages, 500 in the functions, and 1500 in the completion)".
_SUM_IN_PARTS = re.compile(
    rf"{_WINDOW}.*?(?:requested|resulted in) [^()]{{0,80}}\((?P<parts>[^()]{{1,300}})\)", re.IGNORECASE
)
_PART = re.compile(rf"({_NUMBER}) (?:of|in|from|for) ([a-z ]+)", re.IGNORECASE)
#: GLM's number for an overflow, whose words are in the caller's language.
_GLM_OVERFLOW = (1261, "1261")
#: What is counted, and what it is more than, in words that many servers have in some order.
_SUBJECT = r"(?:prompt|input|input_ids) (?:length|tokens)|requested tokens|total number of tokens"
_BOUND = (
    r"(?:model(?:'s)? limit|maximum input length"
    r"|(?:model(?:'s)? )?(?:maximum |max )?(?:context (?:size|length|window)|allowed length))"
)
#: The wordings of an overflow: prompt and window, or one of them unknown (PROTOCOL 3.3).
_OVERFLOWS = tuple(
    re.compile(words, re.IGNORECASE | re.DOTALL)
    for words in (
        rf"request \((?P<n>{_NUMBER}) tokens\) exceeds the available context size \((?P<m>{_NUMBER}) tokens\)",
        rf"{_WINDOW}.*?messages resulted in (?P<n>{_NUMBER}) tokens",
        rf"limit of (?P<m>{_NUMBER}) tokens.*?messages resulted in (?P<n>{_NUMBER}) tokens",
        rf"{_WINDOW}.{{0,40}}?your request has (?P<n>{_NUMBER}) input tokens",
        rf"{_WINDOW}.{{0,40}}?you requested (?P<n>{_NUMBER}) tokens in the messages",
        rf"n_keep:? \(?(?P<n>{_NUMBER})\)? ?>= ?n_ctx:? \(?(?P<m>{_NUMBER})",
        rf"prompt is too long: (?P<n>{_NUMBER}) tokens > (?P<m>{_NUMBER})",
        rf"exceeded model token limit: (?P<m>{_NUMBER}) \(requested: (?P<n>{_NUMBER})\)",
        rf"input token count \(?(?P<n>{_NUMBER})\)? exceeds the maximum number of tokens allowed \(?(?P<m>{_NUMBER})",
        rf"\(length (?P<n>{_NUMBER})\) is longer than the maximum model length of (?P<m>{_NUMBER})",
        rf"\((?P<n>{_NUMBER}) tokens\) is longer than the model's context length \((?P<m>{_NUMBER}) tokens\)",
        rf"(?:{_SUBJECT}) \(?(?P<n>{_NUMBER})(?: tokens)?\)? exceeds? (?:the )?{_BOUND}(?: of|:)? \(?(?P<m>{_NUMBER})",
        rf"prompt token count of (?P<n>{_NUMBER}) exceeds the limit of (?P<m>{_NUMBER})",
        rf"maximum prompt length is (?P<m>{_NUMBER}) but the request contains (?P<n>{_NUMBER}) tokens",
        rf"keep the first (?P<n>{_NUMBER}) tokens when (?:the )?context (?:the )?overflows\.? .{{0,60}}?"
        rf"context length of only (?P<m>{_NUMBER})",
        rf"prompt contains (?P<n>{_NUMBER}) tokens,? .{{0,40}}?model with (?P<m>{_NUMBER}) maximum context length",
        rf"prompt is too long: (?P<n>{_NUMBER}), model maximum context length: (?P<m>{_NUMBER})",
        rf"maximum context length of the model \((?P<n>{_NUMBER}) > (?P<m>{_NUMBER})\)",
        rf"length of the messages .{{0,20}}?current length is (?P<n>{_NUMBER}) while limit is (?P<m>{_NUMBER})",
        rf"(?:prompt|context) length (?P<n>{_NUMBER}) is greater than max_seq_len (?P<m>{_NUMBER})",
        rf"\((?P<n>{_NUMBER}) tokens\) is larger than the max context size \((?P<m>{_NUMBER}) tokens\)",
        rf"prompt too long: (?P<n>{_NUMBER}) tokens exceeds maximum context of (?P<m>{_NUMBER})",
        rf"context length exceeded: (?P<n>{_NUMBER}) > (?P<m>{_NUMBER})",
        rf"`inputs` must have less than (?P<m>{_NUMBER}) tokens\. Given: (?P<n>{_NUMBER})",
        rf"tokens in the prompt cannot exceed (?P<m>{_NUMBER}) - received (?P<n>{_NUMBER})",
        r"input exceeds the context window|cannot truncate prompt with n_keep",
        r"(?:longer|greater) than the (?:model's )?(?:maximum )?(?:context|model) (?:length|size|window)",
        r"exceeds? the (?:available )?context (?:size|length|window)",
        r"(?:prompt|input) (?:length|tokens) exceeds? (?:context (?:size|length|window)|max(?:imum)? context)",
        r"reached (?:the )?context length of [0-9]|context window exceeds (?:the )?limit|context shift is disabled",
        r"prompt too long; exceeded|prompt is too big compared to KV size|prompt ?超长",
        r"too many tokens: (?:total (?:number of )?tokens in the (?:request|prompt)|size limit exceeded by [0-9])",
        r"range of input length should be \[",
        r"context ?(?:size|length|window) ?(?:has been )?exceeded",
        r"context_length_exceeded|exceed_context_size_error|model_max_prompt_tokens_exceeded",
        r"maximum context length",
        r"exceeded model token limit|input token count .{0,30}?exceeds the maximum number of tokens allowed",
        r"prompt is too long|prompt exceeds max length|input is too long",
        # vLLM took the prompt off the window, and nothing was left: we never ask for less than 1.
        r"max_(?:completion_|output_|new_)?tokens must be at least 1, got (?:-[0-9]|0)",
    )
)


def overflow(error: Any, words: str, signs: Iterable[str], status: int) -> Problem | None:
    """The problem, if it is one of these; ``error`` is an error's value, and ``signs`` is what it is classed by."""
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
    if isinstance(error, dict) and error.get("code") in _GLM_OVERFLOW:
        return prompt_too_long()
    searched = " ".join([words, *signs])
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


def _int(digits: str) -> int:
    return int(digits.replace(",", ""))

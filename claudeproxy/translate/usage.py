"""The token counts of every dialect to one `Usage` (PROTOCOL 4.3)."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from attrs import evolve

from claudeproxy.model.events import Usage

_MOST = 2**53


def from_chat(counts: Mapping[str, Any]) -> Usage:
    """The ``usage`` object of Chat Completions; the names of DeepSeek and Kimi for cached tokens too."""
    prompt = _whole(counts.get("prompt_tokens"))
    details = _object(counts.get("prompt_tokens_details"))
    read = (
        _whole(details.get("cached_tokens"))
        or _whole(counts.get("prompt_cache_hit_tokens"))
        or _whole(counts.get("cached_tokens"))
    )
    read = min(read, prompt)
    written = _whole(details.get("cache_write_tokens")) or _whole(details.get("created_cache_tokens"))
    written = min(written, prompt - read)
    output = _whole(counts.get("completion_tokens"))
    thinking = _object(counts.get("completion_tokens_details")).get("reasoning_tokens")
    return Usage(
        input=prompt - read - written,
        output=output,
        cache_read=read,
        cache_creation=written,
        thinking=min(_whole(thinking), output) if thinking is not None else None,  # it is a part of the output
    )


def from_responses(counts: Mapping[str, Any]) -> Usage:
    """The ``usage`` object of the Responses API."""
    names = ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")
    prompt, completion, details, spent = map(counts.get, names)
    return from_chat(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": details,
            "completion_tokens_details": spent,
        }
    )


def from_timings(timings: Mapping[str, Any]) -> Usage:
    """llama.cpp's ``timings``: the prompt is what was cached plus what was read."""
    return Usage(
        input=_whole(timings.get("prompt_n")),
        output=_whole(timings.get("predicted_n")),
        cache_read=_whole(timings.get("cache_n")),
    )


def from_progress(progress: Mapping[str, Any]) -> Usage:
    """llama.cpp's ``prompt_progress``, which comes before the first token: ``total`` includes ``cache``."""
    total = _whole(progress.get("total"))
    cached = min(_whole(progress.get("cache")), total)
    return Usage(input=total - cached, cache_read=cached)


def from_ollama(last: Mapping[str, Any]) -> Usage:
    """The last line of Ollama's: a count of 0 is left out there; what was cached is not told apart."""
    return Usage(input=_whole(last.get("prompt_eval_count")), output=_whole(last.get("eval_count")))


def from_anthropic(counts: Mapping[str, Any]) -> Usage:
    """Anthropic's own ``usage`` object, or what several of one answer have told together."""
    output = _whole(counts.get("output_tokens"))
    thinking = _object(counts.get("output_tokens_details")).get("thinking_tokens")
    return Usage(
        input=_whole(counts.get("input_tokens")),
        output=output,
        cache_read=_whole(counts.get("cache_read_input_tokens")),
        cache_creation=_whole(counts.get("cache_creation_input_tokens")),
        thinking=min(_whole(thinking), output) if thinking is not None else None,
    )


def completed(usage: Usage, before: Usage | None) -> Usage:
    """The later of two counts of one answer, except that a 0 in it is no count (row 43)."""
    if before is None:
        return usage
    if not usage.prompt:
        usage = evolve(usage, input=before.input, cache_read=before.cache_read, cache_creation=before.cache_creation)
    return usage if usage.output else evolve(usage, output=before.output, thinking=before.thinking)


def scaled(usage: Usage, factor: float) -> Usage:
    """The same with a prompt that is ``factor`` times as long, for a client that believes in so much larger a window:
    the part of it that is full is then the real one."""
    if factor == 1.0:
        return usage
    input, read, written = (ceil(count * factor) for count in (usage.input, usage.cache_read, usage.cache_creation))
    return evolve(usage, input=input, cache_read=read, cache_creation=written)


def _whole(value: object) -> int:
    # What is beyond it, infinite or no number at all is no count, and no JSON encoder would bear it.
    return int(value) if isinstance(value, int | float) and 0 < value < _MOST else 0


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

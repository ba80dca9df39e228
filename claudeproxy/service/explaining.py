"""A record of the flight recorder in sentences: what was asked, where it went, and why it went so. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_RULES = {
    "exact": "the model map names it",
    "pattern": "a pattern of the model map matches it",
    "backend": "it names the backend itself",
    "family": "the model map has an entry for its family",
    "told by a backend": "the backend has a model of this very name",
    "default model": "nothing else knows it, and this is the default model",
    "only target": "nothing else knows it, and the model map has this target alone",
    "as it came": "nothing knows it, so that it goes to the first backend as it came",
}
_SOURCES = {
    "exact": "counted exactly",
    "tokenizer": "counted with the model's own tokenizer",
    "learned": "estimated from what was learned of the model",
    "estimate": "estimated",
}
OUTCOMES = {
    "end_turn": "the model came to its end",
    "max_tokens": "the answer reached its longest length",
    "tool_use": "the model calls tools",
    "stop_sequence": "a stop sequence was hit",
    "refusal": "the model refuses",
    "client_gone": "the client went away",
    "stopped": "the daemon was stopped",
    "prompt_too_long": "the prompt does not fit the window",
    "backend_refused": "the backend refused",
    "backend_error": "the backend failed",
    "backend_unavailable": "the backend could not be reached, or was busy",
    "invalid_request": "the request cannot be served as it is",
    "refused": "the server refused",
    "overloaded": "the proxy answers as many requests as it may",
    "rate_limited": "the caller has as many requests running as it may",
    "unauthenticated": "no key that is known here was shown",
    "forbidden": "it is not for this caller",
    "not_found": "there is nothing of that name",
    "wrong_method": "the path is there, but not for this method",
    "head_too_large": "the request's head is above the limit",
    "too_slow": "the client sent its request too slowly",
    "too_large": "the body is above the limit",
    "internal": "a fault of claudeproxy's own; the log has the traceback",
}
_CACHE = {
    "hit": "the cache held what it should hold",
    "short": "the cache held less than it should have",
    "evicted": "the cache should have held it, and had lost it",
    "cold": "nothing of it was in a cache, and nothing should have been",
    "untold": "this backend has never told of cached tokens",
    "unknown": "the backend did not tell its counts",
}
_PREFIX = {
    "new": "a conversation that begins",
    "same": "the same as the request before it",
    "grown": "the request before it, with more at its end",
    "broken": "not the request before it with more at its end",
}


def listed(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line each."""
    none = True
    for each in records:
        none = False
        place = f"{each['model']} -> {each['backend']}/{each['backend_model']}" if each["backend"] else ""
        status = "runs" if each["running"] else str(each["status"])
        words = [each["time"], each["id"], status, each["outcome"], f"{each['seconds']:.1f}s", each["path"], place]
        yield "  ".join(filter(None, words))
    if none:
        yield "No request was recorded yet."


def explained(record: Mapping[str, Any]) -> Iterator[str]:
    """The whole story, a line a sentence or two."""
    yield f"{record['id']}: {record['method']} {record['path']}, {record['time']}"
    for name, sentences in (
        ("asked:", _asked(record)),
        ("route:", _route(record)),
        ("rewrites:", _rewrites(record)),
        ("prompt:", _prompt(record)),
        ("backend:", _backend(record)),
        ("waits:", _waits(record)),
        ("cache:", _cache(record)),
        ("tokens:", _tokens(record)),
        ("outcome:", _outcome(record)),
    ):
        for sentence in sentences:
            yield f"  {name:<10}{sentence}"
            name = ""


def _asked(record: Mapping[str, Any]) -> Iterator[str]:
    asked, client = record["asked"], record["client"]
    who = client["headers"].get("user-agent", "a client")
    yield f"{who} at {client['address']}" + (f", session {record['session'][:8]}" if record["session"] else "")
    if "messages" in asked:
        settings = asked["settings"]
        shown = {name: settings[name] for name in ("stream", "max_tokens", "thinking") if name in settings}
        extra = "".join(f", {name} {_plain(value)}" for name, value in shown.items())
        yield f"{asked['messages']} messages, {asked['tools']} tools, {asked['size']} bytes{extra}"
        *_, (role, parts) = [("", [])] + [(each["role"], each["parts"]) for each in asked["last_messages"]]
        if parts:
            kinds = ", ".join(f"{part['type']} ({part['size']})" for part in parts)
            whose = f"the {role}'s" if role else "nobody's"
            yield f"the last message is {whose}: {kinds}"


def _route(record: Mapping[str, Any]) -> Iterator[str]:
    route = record["route"]
    if route["backend"]:
        why = _RULES.get(route["rule"])
        yield f"{record['model']} is {route['model']} at {route['backend']}" + (f", because {why}" if why else "")
    if record["joined_to"]:
        yield f"it was given the answer that {record['joined_to']} had begun and lost"


def _rewrites(record: Mapping[str, Any]) -> Iterator[str]:
    done = record["rewrites"]
    if done["dropped"]:
        yield f"not sent, because the backend has no use for it: {', '.join(done['dropped'])}"
    if done["emulated"]:
        yield f"done by the proxy in the backend's stead: {', '.join(done['emulated'])}"
    if done["max_tokens"]:
        most = done["max_tokens"]
        yield f"max_tokens cut from {most['asked']} to {most['sent']}, which is what the window has left"
    for repair in done["repairs"]:
        yield f"repaired in the answer: {repair}"


def _prompt(record: Mapping[str, Any]) -> Iterator[str]:
    prompt = record["prompt"]
    if prompt:
        window = f"in a window of {prompt['window']}" if prompt["window"] else "in a window that nobody told"
        yield f"{prompt['tokens']} tokens {window}, {_SOURCES.get(prompt['source'], prompt['source'])}"


def _backend(record: Mapping[str, Any]) -> Iterator[str]:
    call = record["backend_call"]
    if call is None:
        if record["route"]["backend"]:
            yield "it was not asked"
        return
    for each in call["attempts"]:
        again, why = ("again ", f", because {each['why']}") if each["why"] else ("", "")
        answer = f"answered with {each['status']} after {_seconds(each['answered'])}" if each["status"] else "no answer"
        sent = f"sent {again}{_moment(each['sent'])} to {each['address']}, {each['size']} bytes{why}"
        yield f"{sent}; {answer}"
    moments = [("first byte", "first_byte"), ("first token", "first_token"), ("last byte", "last_byte")]
    told = [f"{words} after {_seconds(call[name])}" for words, name in moments if call[name] is not None]
    if told:
        yield ", ".join(told) + (f"; {call['bytes']} bytes" if call["bytes"] else "")
    elif not record["running"]:
        yield "it said nothing"


def _waits(record: Mapping[str, Any]) -> Iterator[str]:
    waits = record["waits"]
    if waits["grace_ran_out"]:
        yield f"the answer was begun after {_seconds(waits['committed'])}, before the backend had said anything"
    if waits["pings"] or waits["signs_of_life"]:
        yield f"the client was kept waiting by {waits['pings']} pings and {waits['signs_of_life']} empty pieces"


def _cache(record: Mapping[str, Any]) -> Iterator[str]:
    cache = record["cache_facts"]
    if cache is None:
        return
    broke = f": {cache['words'].partition(':')[2]} (at {_place(cache['broke_at'])})" if cache["broke_why"] else ""
    yield f"the prompt is {_PREFIX.get(cache['prefix'], cache['prefix'])}{broke}"
    if cache["prefix"] == "broken":
        yield f"{cache['shared']:.0%} of it could still have been cached"
    if cache["cause"] in _CACHE:
        compared = cache["expected_tokens"] and cache["cause"] not in ("untold", "unknown")
        told = f": {cache['cached_tokens']} of {cache['expected_tokens']} tokens" if compared else ""
        yield _CACHE[cache["cause"]] + told


def _tokens(record: Mapping[str, Any]) -> Iterator[str]:
    usage = record["usage"]
    if usage:
        yield f"{usage['prompt']} in, {usage['cache_read']} of them cached, {usage['output']} out"


def _outcome(record: Mapping[str, Any]) -> Iterator[str]:
    if record["running"]:
        yield f"still running, after {_seconds(record['seconds'])}"
        return
    words = OUTCOMES.get(record["outcome"], record["outcome"])
    sent = f"{record['answer']['bytes']} bytes"
    yield f"status {record['status']} after {_seconds(record['seconds'])}, {sent}: {words}"
    error = record["answer"]["error"]
    if error:
        yield f"the client was told {error['type']}: {error['message']}"


def _place(at: int | None) -> str:
    return "its head" if at is None else f"message {at}"


def _moment(seconds: float) -> str:
    """Who joined another request's answer came after its beginning."""
    return f"after {_seconds(seconds)}" if seconds >= 0 else f"{_seconds(-seconds)} before"


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.3f} s"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{each}" for each in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({len(value)})"
    return str(value).lower() if isinstance(value, bool) else str(value)

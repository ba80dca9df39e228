"""
The corpus as cases: what the backend plays, what the client asked, and what must come of it.

A data file in tests/corpus is one JSON object:
  row, title, note     the row of PROTOCOL 5 it belongs to, a name, and what the row demands in a sentence
  status, headers, close_delimited, steps     the script, see `Script.from_json`
  request              fields laid over `BASE_REQUEST`
  needs                settings of the backend that the case supposes, by name; without it the defaults
  transport            true if the case is about HTTP, so that feeding the body to a parser proves nothing
  expect               one of the following, or {"any_of": [...]} where the row leaves a choice
    {"content": [block...], "stop_reason", "stop_sequence", "usage"}    a whole answer
    {"error": {"type", "says"}, "content": [block...]}                  an error, after these blocks if they are given
    {"http": {"status", "type", "says", "headers"}}                     an error before the 200

In an expectation a type or a status may be a list of those that will do, "says" is a part of the error's message, and
only the counts of "usage" that are given are compared, "*" for any above 0. A text block may have "has", a part of its
text, instead of "text". A thinking block's signature is compared only if given, "*" for any that is not empty. A call's
id "*" is a minted one; "raw" in place of "input" is the text of arguments that are no JSON object.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.fakes.scripts import Script
from tests.stream_checker import Checked, check_error, check_message, check_stream

CORPUS = Path(__file__).parent.parent / "corpus"

BASE_REQUEST: Mapping[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 1024,
    "stream": True,
    "messages": [{"role": "user", "content": "Hi"}],
}


class Disagreement(AssertionError):
    """A legal answer that is not the one the case demands."""


@frozen
class Case:
    """One data file."""

    name: str
    row: int
    title: str
    note: str
    script: Script
    request: Mapping[str, Any]
    needs: Mapping[str, Any]
    transport: bool
    expect: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Case":
        """Read a data file. Raises ValueError or KeyError for a bad one."""
        found = json.loads(path.read_text("utf-8"))
        return cls(
            name=path.stem,
            row=found["row"],
            title=found["title"],
            note=found["note"],
            script=Script.from_json(found),
            request={**BASE_REQUEST, **found.get("request", {})},
            needs=found.get("needs", {}),
            transport=found.get("transport", False),
            expect=found["expect"],
        )

    @property
    def choices(self) -> list[Mapping[str, Any]]:
        """The expectations of which one must be met."""
        return list(self.expect.get("any_of", [self.expect]))

    @property
    def raw_tools(self) -> bool:
        """Arguments that are no JSON object are part of what may come."""
        return any("raw" in block for choice in self.choices for block in choice.get("content", ()))

    def judge_stream(self, data: bytes) -> Checked:
        """
        The whole body of a streamed answer is legal and what the case demands; an error that should have come before
        the 200 counts if its type is right. Raises `IllegalStream` or `Disagreement`.
        """
        checked = check_stream(data, raw_tools=self.raw_tools)
        self._settle([_stream_faults(choice, checked) for choice in self.choices], checked)
        return checked

    def judge_message(self, value: Any) -> Checked:
        """The decoded answer to the same request without `stream` is legal and what the case demands."""
        checked = check_message(value, raw_tools=self.raw_tools)
        self._settle([_stream_faults(choice, checked) for choice in self.choices], checked)
        return checked

    def judge_error(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """
        The decoded body of an HTTP error is legal and what the case demands; `headers` (names in lower case) are
        compared if given. An error demanded in the stream may come as a status instead, if nothing had to precede it.
        """
        seen = check_error(value, status)
        faults = []
        for choice in self.choices:
            wanted = choice.get("http") or ({} if choice.get("content") else choice.get("error", {}))
            found = [] if wanted else ["no HTTP error is expected"]
            found += _error_faults(wanted, seen.type, seen.message)
            if status not in _several(wanted.get("status", status)):
                found.append(f"status {status} instead of {wanted['status']}")
            for name, text in wanted.get("headers", {}).items():
                if headers is not None and headers.get(name) != text:
                    found.append(f"{name} is {headers.get(name)!r} instead of {text!r}")
            faults.append(found)
        self._settle(faults, value)

    def _settle(self, faults: list[list[str]], seen: object) -> None:
        if all(faults):
            reasons = "\n or ".join("; ".join(found) for found in faults)
            raise Disagreement(f"{self.name} ({self.note})\n    {reasons}\nin {seen!r}")


def load_cases(directory: Path = CORPUS) -> Iterator[Case]:
    """All cases of the corpus, in the order of their file names."""
    return map(Case.load, sorted(directory.glob("*.json")))


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _error_faults(wanted: Mapping[str, Any], kind: str, message: str) -> list[str]:
    found = []
    if kind not in _several(wanted.get("type", kind)):
        found.append(f"error type {kind} instead of {wanted['type']}")
    if wanted.get("says", "") not in message:
        found.append(f"the error {message!r} does not say {wanted['says']!r}")
    return found


def _stream_faults(wanted: Mapping[str, Any], checked: Checked) -> list[str]:
    """What separates an answer from an expectation; nothing if it is met."""
    if (error := wanted.get("error") or wanted.get("http")) is not None:
        if checked.error is None:
            return ["an error is expected"]
        content = wanted.get("content", [] if "http" in wanted else None)
        found = _error_faults(error, checked.error.type, checked.error.message)
        return found + ([] if content is None else _content_faults(content, checked.content))
    if checked.error is not None:
        return [f"the error {checked.error!r} is not expected"]
    assert checked.message is not None
    found = _content_faults(wanted["content"], checked.content)
    for name in ("stop_reason", "stop_sequence"):
        if checked.message[name] != wanted.get(name):
            found.append(f"{name} is {checked.message[name]!r} instead of {wanted.get(name)!r}")
    for name, count in wanted.get("usage", {}).items():
        seen = checked.message["usage"].get(name)
        if not (seen if count == "*" else seen == count):
            found.append(f"usage.{name} is {seen!r} instead of {count!r}")
    return found


def _content_faults(wanted: list[Mapping[str, Any]], seen: list[dict[str, Any]]) -> list[str]:
    kinds = [block["type"] for block in seen]
    if kinds != [block["type"] for block in wanted]:
        return [f"blocks {kinds} instead of {[block['type'] for block in wanted]}"]
    return [
        fault for number, pair in enumerate(zip(wanted, seen, strict=True)) for fault in _block_faults(number, *pair)
    ]


def _block_faults(number: int, wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        match name, value:
            case "has", part:
                agrees = part in seen["text"]
            case "raw", text:
                agrees = seen["input"] == text
            case "id", "*":
                agrees = seen["id"].startswith("toolu_")
            case "signature", "*":
                agrees = bool(seen["signature"])
            case _:
                agrees = json.dumps(seen[name], sort_keys=True) == json.dumps(value, sort_keys=True)
        if not agrees:
            yield f"block {number}: {name} of {dict(seen)!r} is not {value!r}"

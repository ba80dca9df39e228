"""Calls that a model or a server got wrong: nobody waits for them, and none becomes another (PROTOCOL 5.1)."""

import time

import pytest

from claudeproxy.translate.tool_calls import ToolCalls, mended


def calls(*deltas: list[dict[str, object]]) -> list[tuple[str, str, str]]:
    collected = ToolCalls()
    for delta in deltas:
        collected.receive(delta)
    return [(call.id, call.name, call.arguments) for call in collected.finish(cut=False)]


def piece(arguments: str | None = None, **fields: object) -> dict[str, object]:
    name = fields.pop("name", None)
    return {**fields, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "arguments",
    [
        '{"path":"x","content":"' + '<a href=\\"x\\">\\n' * 20_000,
        "```json" + "\n" * 100_000 + "x",
        "{" * 50_000,
        '{"a":1,' * 20_000,
    ],
    ids=["html", "fence", "brackets", "commas"],
)
def test_no_waiting(arguments: str) -> None:
    """Broken arguments are given up in time that grows with their length alone (rows 14, 71)."""
    started = time.process_time()
    assert mended(arguments, closing=True) == arguments
    assert time.process_time() - started < 1.0


def test_name_on_every_piece() -> None:
    """A server that repeats the name with every piece costs no more than one that does not (row 8)."""
    started = time.process_time()
    pieces = ['{"a":"', *["x}"] * 20_000, '"}']
    (call,) = calls(*([piece(each, name="w")] for each in pieces))
    assert call[2] == "".join(pieces)
    assert time.process_time() - started < 5.0


def test_one_id_for_two() -> None:
    """Two whole calls of one id are two calls (row 7)."""
    first, second = piece('{"a":1}', id="a", name="w"), piece('{"a":2}', id="a", name="Read")
    expected = [("a", "w", '{"a":1}'), ("a", "Read", '{"a":2}')]
    assert calls([first, second]) == expected
    assert calls([first], [second]) == expected
    assert calls([{**first, "index": 0}], [{**second, "index": 0}]) == expected


def test_empty_entries() -> None:
    """An entry with neither name nor arguments is no call, and an empty piece after a whole call is none either."""
    assert calls([piece("", index=0)]) == []
    collected = ToolCalls()
    collected.receive([piece("{}", index=0, id="a", name="w")])
    assert len(list(collected.complete())) == 1
    collected.receive([piece("", index=0, id="a", name="w")])
    assert list(collected.finish(cut=False)) == []

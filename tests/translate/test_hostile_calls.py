"""Calls that a model or a server got wrong: nobody waits for them, and none becomes another (PROTOCOL 5.1)."""

import time

import pytest

from claudeproxy.translate.arguments import mended
from claudeproxy.translate.tool_calls import ToolCalls


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
        '{"a":"' + "\n\\" * 50_000,
        '"\n\t' * 50_000,
        "{" + "\\ud83" * 50_000,
        '"\\' * 50_000 + "\n",
    ],
    ids=["html", "fence", "brackets", "commas", "controls", "quotes", "halves", "escapes"],
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


def test_turns_at_one_index() -> None:
    """Calls that share an index and repeat their ids keep their own arguments; an index of its own keeps a call whose
    id was given twice (rows 3, 7)."""
    pieces = [("a", "Bash", '{"comm'), ("b", "Read", '{"fi'), ("a", None, 'and":"a"}'), ("b", None, 'le":"b"}')]
    turns = [piece(text, index=0, id=id, name=name) for id, name, text in pieces]
    expected = [("a", "Bash", '{"command":"a"}'), ("b", "Read", '{"file":"b"}')]
    assert calls(*([each] for each in turns)) == expected
    assert calls(turns[:2], turns[2:]) == expected
    twice = [piece("", index=0, id="a", name="w"), piece('{"a":1}', index=0, id="a")]
    again = [piece("", index=1, id="a", name="w"), piece('{"a":2}', index=1, id="a")]
    assert calls(*([each] for each in twice + again)) == [("a", "w", '{"a":1}'), ("a", "w", '{"a":2}')]


def test_repetition() -> None:
    """The same whole call again is one call; without an id nobody knows, and it is two (rows 4, 7)."""
    named = piece('{"a":1}', index=0, id="a", name="w")
    assert calls([named], [named]) == calls([named, named]) == calls([named]) == [("a", "w", '{"a":1}')]
    assert len(calls([named], [{**named, "id": "b"}])) == 2
    assert len(calls([named], [{**named, "index": 1}])) == 2
    assert len(calls([piece('{"a":1}', index=0, name="w")] * 2)) == 2


def test_both_fields() -> None:
    """A delta that has a call in the new and in the legacy field has one call; another call there is another one."""
    collected = ToolCalls()
    collected.receive([piece('{"a":1}', index=0, id="a", name="w")])
    collected.receive_legacy({"name": "w", "arguments": {"a": 1}})
    collected.receive(None)
    collected.receive_legacy({"name": "Read", "arguments": "{}"})
    assert [call.name for call in collected.finish(cut=False)] == ["w", "Read"]


def test_blank_object() -> None:
    """A {} before the real arguments goes; two calls without an id stay two."""
    first, second = piece("{}", index=0, name="w"), piece('{"a":1}', index=0)
    assert calls([first], [second]) == [("", "w", '{"a":1}')]
    assert len(calls([first], [{**second, "function": {"name": "w", "arguments": '{"a":1}'}}])) == 2
    assert calls([first]) == [("", "w", "{}")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a":"b\nc\td"}', '{"a":"b\\nc\\td"}'),
        ('{"a":"\0"}', '{"a":"\\ufffd"}'),
        ('{"a":"b\n",}', '{"a":"b\\n"}'),
        ('{"a":"b\n"', '{"a":"b\\n"}'),
        ('{"a":"b\\\nc"}', '{"a":"b\\\nc"}'),  # behind a backslash: a line end, or a line that goes on?
        ('{"a":"b\nc}', '{"a":"b\nc}'),
        ('```JSON\n{"a":"b\nc"}\n```', '{"a":"b\\nc"}'),
        ('{"a":"\\ud83d"}', '{"a":"\\ufffd"}'),
        ('{"a":"\\uDE00\\ud83d\\ude00"}', '{"a":"\\ufffd\\ud83d\\ude00"}'),
        ('{"a":"\\\\ud83d", "b": 1.50}', '{"a":"\\\\ud83d", "b": 1.50}'),
        ('"\\ud83d"', '"\\ufffd"'),
        ('"{\\"a\\":\\"\\\\ud83d\\"}"', '{"a":"\\ufffd"}'),
    ],
)
def test_mended(arguments: str, expected: str) -> None:
    """Raw controls in strings and escapes of half a character are put right, and nothing else is touched (row 14)."""
    assert mended(arguments, closing=True) == expected


def test_whole_though_cut() -> None:
    """Of an answer that was cut, a whole call with a fault that can be mended is left; one without arguments is not
    (row 15)."""
    collected = ToolCalls()
    collected.receive([piece('{"a":"b\n"}', index=0, name="w"), piece("", index=1, name="Read")])
    assert [call.arguments for call in collected.finish(cut=True)] == ['{"a":"b\\n"}']
    assert list(collected.dropped) == ["Read"]


def test_halves_before_text() -> None:
    """A call that leaves early, for text that follows it, is as clean as the others (rows 20, 63)."""
    collected = ToolCalls()
    collected.receive([piece('{"a":"\\ud83d"}', index=0, name="w")])
    assert [call.arguments for call in collected.complete()] == ['{"a":"\\ufffd"}']


def test_empty_entries() -> None:
    """An entry with neither name nor arguments is no call, and an empty piece after a whole call is none either."""
    assert calls([piece("", index=0)]) == []
    collected = ToolCalls()
    collected.receive([piece("{}", index=0, id="a", name="w")])
    assert len(list(collected.complete())) == 1
    collected.receive([piece("", index=0, id="a", name="w")])
    assert list(collected.finish(cut=False)) == []

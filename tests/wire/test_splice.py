"""A request's bytes are edited where they must be, and nowhere else (PROTOCOL 4.10)."""

import json
from collections.abc import Iterable
from itertools import count
from time import perf_counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.signatures import PREFIX, Reasoning, sign
from claudeproxy.wire.json import NotJSON
from claudeproxy.wire.splice import with_members, with_model, without_thinking
from tests.strategies import nasty_texts

many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: JSON as a list of its parts: a text as it is written, or one of ("[", items) and ("{", pairs of name and value).
Written = Any
BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n  "])
NUMBERS = st.sampled_from(["1.0", "1", "12", "1e5", "-0", "-0.0", "1E+2", "9" * 30, "0.10"])


@st.composite
def strings(draw: st.DrawFn, text: str | None = None) -> str:
    """A string as some writer might spell it: any of its characters may be an escape."""
    text = draw(nasty_texts(halves=True)) if text is None else text
    spelt = []
    for character in text:
        escape = "".join(f"\\u{unit:04x}" for unit in _units(character))
        must = ord(character) < 32 or 0xD800 <= ord(character) < 0xE000
        forms = [json.dumps(character)[1:-1], escape, escape.replace("a", "A").replace("e", "E")]
        if not must and character not in '"\\':
            forms += [character] * 4
        spelt.append(draw(st.sampled_from(forms)))
    return '"' + "".join(spelt) + '"'


def _units(character: str) -> list[int]:
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2)]


def named(name: str) -> SearchStrategy[str]:
    return st.sampled_from(["plain", "odd"]).flatmap(
        lambda how: st.just(json.dumps(name)) if how == "plain" else strings(name)
    )


def values() -> SearchStrategy[Written]:
    """Any JSON, with names that stand twice."""
    scalars = st.sampled_from(["null", "true", "false"]) | NUMBERS | strings()
    keys = strings() | named("model") | named("messages") | st.sampled_from(['"a"', '"b"'])
    return st.recursive(
        scalars,
        lambda inner: (
            st.tuples(st.just("["), st.lists(inner, max_size=3))
            | st.tuples(st.just("{"), st.lists(st.tuples(keys, inner), max_size=3))
        ),
        max_leaves=8,
    )


SIGNATURES = st.sampled_from([PREFIX + "eJw", PREFIX, "", "EqQB", "xcp1.", "cp1", "CP1.x"])


@st.composite
def blocks(draw: st.DrawFn) -> Written:
    """A content block, most often a thinking one, with its members in any order; or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(values())
    kind = draw(st.sampled_from(["thinking", "thinking", "text", "tool_use"]))
    pairs = [
        (draw(named("type")), draw(named(kind))),
        (draw(named("signature")), draw(st.one_of(strings(draw(SIGNATURES)), values()))),
        *draw(
            st.lists(st.tuples(named("thinking") | named("signature") | strings(), values() | strings()), max_size=2)
        ),
    ]
    return ("{", draw(st.permutations(pairs)))


def messages() -> SearchStrategy[Written]:
    content = st.tuples(st.just("["), st.lists(blocks(), max_size=4)) | strings() | values()
    member = st.tuples(named("content"), content) | st.tuples(named("role"), strings("assistant"))
    return st.tuples(st.just("{"), st.lists(member, max_size=3)) | values()


def bodies() -> SearchStrategy[Written]:
    """A request's body, or something rather like one."""
    turns = st.tuples(st.just("["), st.lists(messages(), max_size=4))
    member = (
        st.tuples(named("model"), strings() | values())
        | st.tuples(named("messages"), turns | values())
        | st.tuples(strings() | named("tools"), values())
    )
    return st.tuples(st.just("{"), st.lists(member, max_size=5))


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A body written out, with blanks anywhere."""
    return draw(BLANKS) + _written(draw, draw(bodies())) + draw(BLANKS)


def _written(draw: st.DrawFn, value: Written) -> str:
    if isinstance(value, str):
        return value
    kind, inner = value

    def padded(text: str) -> str:
        return draw(BLANKS) + text + draw(BLANKS)

    if kind == "[":
        parts = [padded(_written(draw, each)) for each in inner]
    else:
        parts = [padded(name) + ":" + padded(_written(draw, each)) for name, each in inner]
    inside = ",".join(parts) or draw(BLANKS)
    return f"[{inside}]" if kind == "[" else f"{{{inside}}}"


#: In the place of a message that must not be there.
GONE = object()


class Pairs(list[tuple[str, Any]]):
    """An object whose members are kept as they stand."""

    def last(self, name: str) -> Any:
        return next((value for key, value in reversed(self) if key == name), None)


def read(data: bytes) -> Any:
    """JSON with the spelling of its numbers, and with all of its members."""
    text = data.decode()
    return json.loads(text, object_pairs_hook=Pairs, parse_int=lambda n: ("int", n), parse_float=lambda n: ("float", n))


def expected_models(body: Pairs, model: str) -> Pairs:
    return Pairs((name, model if name == "model" else value) for name, value in body)


def is_ours(block: Any) -> bool:
    signature = block.last("signature") if isinstance(block, Pairs) else None
    return isinstance(signature, str) and signature.startswith(PREFIX) and block.last("type") == "thinking"


def expected_turns(body: Pairs) -> Pairs:
    def turn(message: Any) -> Any:
        """The message without our thoughts; `GONE` if that was all of it."""
        if not isinstance(message, Pairs):
            return message
        kept = Pairs()
        for name, value in message:
            if name == "content" and _is_array(value):
                value = [block for block in value if not is_ours(block)]
            kept.append((name, value))
        had, has = message.last("content"), kept.last("content")
        return GONE if _is_array(had) and had and has == [] else kept

    return Pairs(
        (name, [left for each in value if (left := turn(each)) is not GONE])
        if name == "messages" and _is_array(value)
        else (name, value)
        for name, value in body
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, list) and not isinstance(value, Pairs)


def is_subsequence(part: bytes, whole: bytes) -> bool:
    rest = iter(whole)
    return all(byte in rest for byte in part)


def body_of(*messages: Any) -> bytes:
    return json.dumps({"model": "a", "messages": messages}).encode()


def turn(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def thought(signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "h],m}", "signature": signature}


OURS = thought(sign(Reasoning("thinking", "x")))
THEIRS = thought("EqQB")
TEXT = {"type": "text", "text": 'a "cp1.b" ]}'}


class ModelTests(SynchronousTestCase):
    """`with_model`."""

    @many
    @given(texts(), nasty_texts())
    def test_any(self, text: str, model: str) -> None:
        """In any JSON object the member `model` gets the other name, wherever it stands, and nothing else changes."""
        body = text.encode()
        found = with_model(body, model)
        self.assertEqual(read(found), expected_models(read(body), model))
        # The bytes outside: with a name that is nowhere in the text, the result is the text cut at that name.
        marker = next(mark for n in count() if (mark := f"mark{n}") not in text)
        place = 0
        for piece in with_model(body, marker).split(b'"%b"' % marker.encode()):
            self.assertTrue((place := body.find(piece, place)) >= 0)
            place += len(piece)

    def test_spelling(self) -> None:
        """Key order, numbers, blanks, escapes and members that stand twice stay as the client wrote them."""
        body = b' {"z":1.0 ,"\\u006dodel" : "a","n":[1e5,-0,{"model":1}],"model":12,"t":"\\u00e9\\ud800/", "model":1}\n'
        self.assertEqual(
            with_model(body, 'b"é'),
            b' {"z":1.0 ,"\\u006dodel" : "b\\"\xc3\xa9","n":[1e5,-0,{"model":1}],"model":"b\\"\xc3\xa9"'
            b',"t":"\\u00e9\\ud800/", "model":"b\\"\xc3\xa9"}\n',
        )

    def test_without(self) -> None:
        """A body without a model gets none."""
        for body in (b"{}", b' { "models" : [ ] } ', b'{"a":{"model":1}}'):
            self.assertEqual(with_model(body, "b"), body)

    def test_depth(self) -> None:
        """No depth is too deep, and none makes it slow."""
        deep = b'{"a":' + b'[{"b":' * 20_000 + b"1" + b"}]" * 20_000 + b',"model":"a"}'
        self.assertTrue(with_model(deep, "b").endswith(b']}],"model":"b"}'[2:]))

    def test_not_json(self) -> None:
        """What is no JSON is refused, not guessed at."""
        for body in (b'{"a":"', b'{"a":[}', b"{a:1}", b"{"):
            self.assertRaises(NotJSON, with_model, body, "b")

    def test_fast(self) -> None:
        """For a request of Claude Code's size both edits take less than a millisecond together, many times over."""
        schema = {"type": "object", "properties": {"model": {"type": "string", "enum": ["a", "b"]}}, "required": []}
        tools = [{"name": f"t{n}", "description": "Does it.\n" * 60, "input_schema": schema} for n in range(120)]
        body = json.dumps({"model": "claude-a", "messages": [turn(TEXT, THEIRS)], "tools": tools}).encode()
        self.assertGreater(len(body), 80_000)
        times = []
        for _ in range(20):
            begun = perf_counter()
            with_model(without_thinking(body, PREFIX)[0], "b")
            times.append(perf_counter() - begun)
        self.assertLess(min(times), 0.002)  # 0.2 ms here; a machine that is slow and busy is no reason to fail


class MembersTests(SynchronousTestCase):
    """`with_members`."""

    @many
    @given(texts(), st.dictionaries(st.sampled_from(["model", "a", "stream", "x\n"]), nasty_texts(), max_size=3))
    def test_any(self, text: str, values: dict[str, str]) -> None:
        """In any JSON object the named members get their values, wherever they stand; those that it lacks come last;
        and no other byte changes."""
        body = text.encode()
        before = read(body)
        found = with_members(body, values)
        lacks = [name for name in values if name not in dict(before)]
        replaced = Pairs((name, values.get(name, value)) for name, value in before)
        self.assertEqual(read(found), Pairs([*replaced, *((name, values[name]) for name in lacks)]))
        if len(lacks) == len(values):
            self.assertTrue(is_subsequence(body, found))

    def test_stream(self) -> None:
        """A request becomes one for a stream where it says so, or at its end."""
        stream = {"stream": True}
        self.assertEqual(with_members(b'{ "stream" : false, "a":1.0 }', stream), b'{ "stream" : true, "a":1.0 }')
        self.assertEqual(with_members(b' {"a": 1e0 }\n', stream), b' {"a": 1e0,"stream":true }\n')
        self.assertEqual(with_members(b"{ }", stream), b'{"stream":true }')
        self.assertEqual(with_members(b'{"stream":null,"stream":0}', stream), b'{"stream":true,"stream":true}')


class ThinkingTests(SynchronousTestCase):
    """`without_thinking`."""

    @many
    @given(texts())
    def test_any(self, text: str) -> None:
        """In any JSON object exactly our thinking blocks go, and messages that were nothing else; all other bytes stay
        in their order."""
        body = text.encode()
        found, removed = without_thinking(body, PREFIX)
        self.assertEqual(read(found), expected_turns(read(body)))
        self.assertTrue(is_subsequence(found, body))
        self.assertEqual(removed == 0, found == body)

    def test_places(self) -> None:
        """First, in the middle, last, several, alone: the commas are right."""
        cases: list[tuple[Iterable[Any], list[Any], int]] = [
            ((turn(OURS, TEXT), turn(TEXT)), [turn(TEXT), turn(TEXT)], 1),
            ((turn(TEXT, OURS, THEIRS), turn(TEXT)), [turn(TEXT, THEIRS), turn(TEXT)], 1),
            ((turn(TEXT, OURS),), [turn(TEXT)], 1),
            ((turn(OURS, OURS, TEXT, OURS, OURS, TEXT, OURS),), [turn(TEXT, TEXT)], 5),
            ((turn(TEXT), turn(OURS), turn(TEXT)), [turn(TEXT), turn(TEXT)], 1),
            ((turn(OURS), turn(TEXT), turn(OURS, OURS)), [turn(TEXT)], 3),
            ((turn(OURS), turn(OURS)), [], 2),
            ((turn(), turn(THEIRS), {"role": "user", "content": "cp1."}, 3), None, 0),  # type: ignore[list-item]
        ]
        for given_, left, number in cases:
            body = body_of(*given_)
            expected = body if left is None else body_of(*left)
            self.assertEqual(without_thinking(body, PREFIX), (expected, number))

    def test_blanks(self) -> None:
        """Of the blanks only those between what goes and its neighbours go with it."""
        block = b'{ "signature" : "cp1.x", "type" : "thinking" }'
        body = b'{"messages": [ {"content" : [\n %b ,\n 1.0 ] }, {"content":[ %b ]} ]  }' % (block, block)
        self.assertEqual(without_thinking(body, PREFIX), (b'{"messages": [ {"content" : [\n 1.0 ] } ]  }', 2))

    def test_escapes(self) -> None:
        """A signature, a key or a type that another writer spelt with escapes is known all the same."""
        for signature in (b"\\u0063p1.x", b"c\\u0070\\u0031\\u002e", b"cp1\\u002Ex"):
            block = b'{"t\\u0079pe":"\\u0074hinking","signatur\\u0065":"%b"}' % signature
            body = b'{"messag\\u0065s":[{"content":[%b,1]}]}' % block
            self.assertEqual(without_thinking(body, PREFIX), (b'{"messag\\u0065s":[{"content":[1]}]}', 1))

    def test_elsewhere(self) -> None:
        """Only blocks of messages are meant: the same object as a tool's input, or in a result, stays."""
        call = {"type": "tool_use", "id": "a", "name": "b", "input": OURS}
        result = {"type": "tool_result", "tool_use_id": "a", "content": [OURS]}
        body = json.dumps({"messages": [turn(call), turn(result)], "content": [OURS], "x": {"messages": [turn(OURS)]}})
        self.assertEqual(without_thinking(body.encode(), PREFIX), (body.encode(), 0))

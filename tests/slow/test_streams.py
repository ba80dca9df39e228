"""Damaged answers through the stream machines: what comes out is legal and ends once, whatever goes in (issue 3)."""

import json
from collections.abc import Callable, Iterable
from itertools import count
from random import Random

import pytest
from attrs import frozen

from claudeproxy.backends.generation import Machine
from claudeproxy.model.events import Event, Failed, MessageStop
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate.chat_stream import ChatStream
from claudeproxy.translate.expected import Expected
from claudeproxy.translate.names import Names
from claudeproxy.translate.ollama_stream import OllamaStream
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.responses_stream import ResponsesStream
from claudeproxy.wire.events import stream_bytes
from tests.contract.parts import Broke, Call, End, Opened, Part, Text, Thought, Writer, spelt
from tests.contract.stands import ChatWriter, LlamaWriter, OllamaWriter, ResponsesWriter
from tests.fakes import responses
from tests.fakes.cases import load_cases
from tests.fakes.scripts import Script, json_bytes
from tests.slow.chance import bent_bytes, bent_value, in_pieces, try_out
from tests.stream_checker import Checked, IllegalStream, check_stream

pytestmark = pytest.mark.slow

Maker = Callable[[Reply, Expected, Callable[[], str]], Machine]
LS = Call("Bash", ('{"comm', 'and":', '"ls"}'), id="call_ls")
CAT = Call("Read", ('{"path":"a.txt"}',), id="call_cat")
ANSWERS: tuple[tuple[Part, ...], ...] = (
    (Text("Hello"), Text(" world"), End()),
    (Opened(), Thought("Let me"), Thought(" see."), Text("<think>Hm</think>\n\nYes STOP no"), End("length")),
    (Thought("Hm."), Text("I look."), LS, CAT, End("tool")),
    (LS, Text("a"), LS, Thought("b"), CAT, End("tool")),
    (Text('```json\n{"name": "Bash"}\n```'), Call("Bash", ("{}",), id=""), Call("none", ("[1]",)), End("stop")),
    (Text("Hello"), Broke("the engine broke"), Text("late"), End()),
    (Text("漢字😀" * 50), Call("Bash", (json.dumps({"a": "b" * 20_000}),)), End("tool")),
)


def spelt_with(*writers: Callable[[], Writer]) -> list[bytes]:
    return [Script(steps=spelt(writer(), parts)).body_bytes() for writer in writers for parts in ANSWERS]


@frozen
class Dialect:
    """One API: its machine, what is damaged, and what parts its frames."""

    make: Maker
    bodies: list[bytes]
    gap: bytes
    mark: bytes


CHAT = Dialect(
    ChatStream,
    [body for case in load_cases() if (body := case.script.body_bytes())] + spelt_with(ChatWriter, LlamaWriter),
    b"\n\n",
    b"data: ",
)
OLLAMA = Dialect(OllamaStream, spelt_with(OllamaWriter), b"\n", b"")
RESPONSES = Dialect(
    ResponsesStream,
    [
        *spelt_with(ResponsesWriter),
        responses.llama_text("Hello", " world").body_bytes(),
        responses.llama_call("Bash", '{"command"', ':"ls"}').body_bytes(),
        responses.stream(responses.reasoning("a", "b", content=("c",)), responses.message("d")).body_bytes(),
        responses.whole(responses.message("Hello"), responses.call("Bash", "{}")).body_bytes(),
        Script(steps=responses.frames(responses.failed("rate_limit_exceeded", "slow down"))).body_bytes(),
    ],
    b"\n\n",
    b"data: ",
)


def damaged(chance: Random, dialect: Dialect) -> bytes:
    """One of the bodies, damaged in its values, in the order of its frames, or in its bytes."""
    body = chance.choice(dialect.bodies)
    if chance.random() < 0.7:
        frames = body.split(dialect.gap)
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            place = chance.randrange(len(frames))
            match chance.randrange(5):
                case 0:
                    frames.insert(chance.randrange(len(frames) + 1), frames[place])
                case 1 if len(frames) > 1:
                    del frames[place]
                case 2:
                    other = chance.randrange(len(frames))
                    frames[place], frames[other] = frames[other], frames[place]
                case 3:
                    stranger = chance.choice(chance.choice(dialect.bodies).split(dialect.gap))
                    frames.insert(place, stranger)
                case _:
                    chance.shuffle(frames)
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            place = chance.randrange(len(frames))
            frames[place] = _bent_frame(chance, frames[place], dialect)
        body = dialect.gap.join(frames)
    return bent_bytes(chance, body) if chance.random() < 0.3 else body


def _bent_frame(chance: Random, frame: bytes, dialect: Dialect) -> bytes:
    head, mark, data = frame.partition(dialect.mark) if dialect.mark else (b"", b"", frame)
    try:
        value = json.loads(data)
    except ValueError:
        return frame
    bent = json_bytes(bent_value(chance, value, [value]))
    return head + mark + bent


def expected(chance: Random) -> Expected:
    """What the request may have let us expect."""
    return Expected(
        "fake",
        chance.choice((0, 10, 4000)),
        chance.choice((0, 100, 4096)),
        stop_sequences=chance.choice(((), (), ("STOP",), ("a", "ab", "\n\n"), ("😀",))),
        silent=chance.random() < 0.05,
        names=chance.choice((Names(), Names.of(("Bash", "Read")), Names.of(("Bash", "Read", "x" * 90)))),
        used_ids=chance.choice((frozenset[str](), frozenset({"call_ls", "call_1"}))),
        one_call=chance.random() < 0.2,
        hides_thinking=chance.random() < 0.2,
        think_tags=chance.random() < 0.5,
        starts_thinking=chance.random() < 0.2,
        ends_without_done=chance.random() < 0.2,
        begun=chance.choice(("", "", "Hello", "{")),
        limit=chance.choice((0, 0, 7)),
    )


def answered(chance: Random, machine: Machine, pieces: Iterable[bytes]) -> list[Event]:
    """The events of an answer, as a relay causes them, and a little more than any relay does."""
    events: list[Event] = []
    for piece in pieces:
        if chance.random() < 0.05:
            events += machine.begin()
        events += machine.receive(piece)
        _looked_at(machine, events)
        if machine.over and chance.random() < 0.5:
            break
        if chance.random() < 0.01:
            events += machine.fail(bad_gateway("it fell silent"))
    if chance.random() < 0.6 or machine.settled:
        events += machine.close()
    else:
        events += machine.fail(bad_gateway("it broke off"))
    _looked_at(machine, events)
    assert machine.over
    return events + machine.receive(b"data: [DONE]\n\n") + machine.close() + machine.fail(bad_gateway("too late"))


def _looked_at(machine: Machine, events: list[Event]) -> None:
    ended = [event for event in events if isinstance(event, MessageStop | Failed)]
    assert len(ended) == machine.over, "it is over when the last event is out"
    assert not machine.heard_out or machine.settled
    assert all(isinstance(remark, str) and len(remark) < 2000 for remark in machine.remarks)


def judged(events: list[Event]) -> Checked | None:
    """The judged answer; None for one whose error shows a tag that damage has left without its end."""
    try:
        return check_stream(stream_bytes(events, "req_1"), raw_tools=True)
    except IllegalStream as fault:
        if "holds HTML" not in fault.sentence:
            raise
        return None


def tried(dialect: Dialect) -> Callable[[Random], object]:
    def attempt(chance: Random) -> None:
        machine = dialect.make(Reply("msg_1", "m"), expected(chance), map("u{}".format, count(1)).__next__)
        body = damaged(chance, dialect)
        events = answered(chance, machine, in_pieces(chance, body))
        judged(events)

    return attempt


@pytest.mark.parametrize("dialect", [CHAT, OLLAMA, RESPONSES], ids=["chat", "ollama", "responses"])
def test_damaged_answers(dialect: Dialect) -> None:
    """Whatever a backend sends, the answer is legal, ends exactly once, and no machine raises."""
    effort = try_out("damaged answers", tried(dialect))
    print(effort)


def split_alike(dialect: Dialect) -> Callable[[Random], object]:
    def attempt(chance: Random) -> None:
        body, told = damaged(chance, dialect), expected(chance)
        seen = []
        for pieces in ([body], in_pieces(chance, body)):
            machine = dialect.make(Reply("msg_1", "m"), told, map("u{}".format, count(1)).__next__)
            events = [event for piece in pieces for event in machine.receive(piece)] + machine.close()
            checked = judged(events)
            seen.append(checked and (checked.message, checked.error))
        assert seen[0] == seen[1]

    return attempt


@pytest.mark.parametrize("dialect", [CHAT, OLLAMA, RESPONSES], ids=["chat", "ollama", "responses"])
def test_damaged_answers_in_pieces(dialect: Dialect) -> None:
    """How a damaged answer is cut into pieces changes nothing of what comes of it."""
    effort = try_out("damaged answers in pieces", split_alike(dialect))
    print(effort)

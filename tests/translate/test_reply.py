"""A reply opens and closes blocks so that the sequence is legal (PROTOCOL 2.1)."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.events import Event, Usage
from claudeproxy.model.problems import bad_gateway
from claudeproxy.translate.message import MessageAssembly
from claudeproxy.translate.reply import LARGEST_PIECE, Reply, pieces
from claudeproxy.wire.events import stream_bytes
from tests import strategies
from tests.stream_checker import check_message, check_stream

Verb = Callable[[Reply], object]


def spoken(*verbs: Verb, reason: str = "end_turn") -> list[Event]:
    reply = Reply("msg_1", "m")
    reply.start(Usage(input=9))
    for verb in verbs:
        verb(reply)
    reply.end(reason, Usage(input=9, output=3))
    return reply.take()


VERBS = st.one_of(
    strategies.clean_texts(1).map(lambda text: lambda reply: reply.text(text)),
    strategies.clean_texts(1).map(lambda text: lambda reply: reply.thinking(text)),
    st.just(lambda reply: reply.open_thinking()),
    st.text("ab", max_size=3).map(lambda text: lambda reply: reply.sign(text)),
    st.just(lambda reply: reply.close_block()),
)


class ReplyTests(SynchronousTestCase):
    """`Reply`."""

    def test_text(self) -> None:
        """Text after text goes on in the same block."""
        found = check_stream(stream_bytes(spoken(lambda r: r.text("a"), lambda r: r.text("b"))))
        self.assertEqual(found.content, [{"type": "text", "text": "ab"}])

    def test_kinds(self) -> None:
        """Anything else closes the open block; a thinking block is always signed; a call is whole."""
        events = spoken(
            lambda r: r.thinking("t"),
            lambda r: r.text("a"),
            lambda r: r.tool_call("toolu_1", "Bash", '{"a":1}'),
            lambda r: r.text("b"),
            lambda r: r.open_thinking(),
            lambda r: r.sign("sig"),
            reason="tool_use",
        )
        found = check_stream(stream_bytes(events))
        self.assertEqual(
            [block["type"] for block in found.content], ["thinking", "text", "tool_use", "text", "thinking"]
        )
        self.assertEqual([found.content[0]["signature"], found.content[4]["signature"]], ["", "sig"])
        self.assertEqual(found.calls[0]["input"], {"a": 1})

    @given(st.lists(VERBS, max_size=8))
    def test_any_order(self, verbs: list[Verb]) -> None:
        """Whatever is said in whatever order, the stream is legal, and so is the message made of it."""
        events = spoken(*verbs)
        streamed = check_stream(stream_bytes(events)).message
        assembly = MessageAssembly()
        for event in events:
            assembly.add(event)
        self.assertEqual(check_message(assembly.message).message, streamed)

    @given(st.lists(VERBS, max_size=5))
    def test_failure(self, verbs: list[Verb]) -> None:
        """A failure may come at any moment, is the last word, and comes once."""
        reply = Reply("msg_1", "m")
        reply.start(Usage(input=9))
        for verb in verbs:
            verb(reply)
        reply.fail(bad_gateway("m"))
        reply.fail(bad_gateway("again"))
        found = check_stream(stream_bytes(reply.take(), "req_1"))
        assert found.error is not None
        self.assertEqual((found.error.message, reply.over), ("m", True))

    def test_taken_once(self) -> None:
        """What was taken is not given again."""
        reply = Reply("msg_1", "m")
        reply.start(Usage())
        reply.start(Usage())
        self.assertEqual((len(reply.take()), len(reply.take())), (1, 0))

    @given(st.text(max_size=30), st.integers(0, 3000))
    def test_pieces(self, text: str, times: int) -> None:
        """A long text leaves in pieces of at most 16 KB, none of them cuts a character, and nothing is lost."""
        whole = text * times
        found = pieces(whole)
        self.assertEqual("".join(found).encode("utf-8", "replace"), whole.encode("utf-8", "replace"))
        for piece in found:
            self.assertLessEqual(len(piece.encode("utf-8", "surrogatepass")), LARGEST_PIECE)

    def test_large_arguments(self) -> None:
        """Arguments of a megabyte are legal pieces."""
        arguments = '{"text":"' + "€😀" * 150_000 + '"}'
        events = spoken(lambda r: r.tool_call("toolu_1", "Write", arguments), reason="tool_use")
        (call,) = check_stream(stream_bytes(events)).calls
        self.assertEqual(len(call["input"]["text"]), 300_000)

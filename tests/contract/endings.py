"""The contract, second half: failures, clients that go away, clients that read slowly (PROTOCOL 3; STYLE 5)."""

from collections.abc import Iterator, Mapping

from claudeproxy.backends.client import KEPT_ALIVE
from tests.contract.answers import LS, THINKING, TOOLS, ContractCase
from tests.contract.parts import Broke, Call, End, Opened, Part, Text, Thought
from tests.fakes.callers import Caller
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, rendered
from tests.fakes.network import HIGH_WATER
from tests.fakes.scripts import Cut, Hang, Headers, Script, Send, Step, Wait
from tests.stream_checker import Checked, check_error, check_message, check_stream


class Failures(ContractCase):
    """Errors before the stream and in it."""

    def refused(self, caller: Caller, status: int) -> str:
        self.assertEqual(caller.status, status, caller.raw)
        self.assertTrue(caller.ended)
        return check_error(caller.json, status).message

    def test_statuses(self) -> None:
        """A refusal keeps its class and its words, in Anthropic's envelope, whether a stream was wanted or not."""
        for status, expected in ((400, 400), (401, 401), (403, 403), (404, 404), (429, 429), (500, 500), (503, 529)):
            for stream in (True, False):
                refusal = self.stand.refusal(status, "some words")
                caller = self.stand.play(refusal, stream=stream)
                if self.stand.passes_on:
                    self.assert_as_it_came(caller, refusal)
                    continue
                self.assertIn("some words", self.refused(caller, expected))
                self.assertTrue(caller.headers["request-id"].startswith("req_"))

    def test_retry_after(self) -> None:
        """How long to wait is passed on."""
        caller = self.stand.play(self.stand.refusal(429, "slow down", {"retry-after": "17"}))
        self.refused(caller, 429)
        self.assertEqual(caller.headers["retry-after"], "17")

    def test_no_retry(self) -> None:
        """That the proxy's own key is wrong is said once: nobody is to try again."""
        caller = self.stand.play(self.stand.refusal(401, "no"))
        self.refused(caller, 401)
        told = None if self.stand.passes_on else "false"  # whose key it is, only a reader knows
        self.assertEqual(caller.headers.get("x-should-retry"), told)

    def test_overflow(self) -> None:
        """A prompt that is too long is refused in the words that make Claude Code compact, numbers included."""
        for stream in (True, False):
            caller = self.stand.play(self.stand.overflow(210_344, 200_000), stream=stream)
            self.assertEqual(self.refused(caller, 400), "prompt is too long: 210344 tokens > 200000 maximum")

    def test_failed_before_the_first_word(self) -> None:
        """A failure told inside an answer that has said nothing is an HTTP error, unless work was known to go on."""
        caller = self.stand.say(Opened(), Broke("the engine broke"))
        if self.stand.tells_progress:
            checked = self.judged(caller)
            self.assertEqual((checked.content, checked.error and checked.error.type), ([], "api_error"))
        else:
            self.assertGreaterEqual(caller.status, 500)
            self.assertIn("the engine broke", self.refused(caller, caller.status))

    def test_failed_in_the_middle(self) -> None:
        """A failure in the middle is an error event, after what was said; nothing follows it."""
        script = self.stand.script(Text("Hello"), Broke("the engine broke"), Text("too late"), End())
        caller = self.stand.play(script)
        if self.stand.passes_on:
            self.assert_as_it_came(caller, script)
            return
        checked = self.judged(caller)
        self.assertEqual((checked.text, checked.finished), ("Hello", False))
        assert checked.error is not None
        self.assertIn("the engine broke", checked.error.message)

    def test_failed_whole(self) -> None:
        """Without a stream it is a status, not half a message."""
        caller = self.stand.say(Text("Hello"), Broke("the engine broke"), stream=False)
        self.assertGreaterEqual(caller.status, 500)
        self.refused(caller, caller.status)

    def test_own_key(self) -> None:
        """A backend that repeats the proxy's key in its words tells it nobody: no client, no operator, no log."""
        words = f"Incorrect key. Received: Bearer {BACKEND_KEY}."
        middle = self.stand.script(Text("Hello"), Broke(words))
        for script in (self.stand.refusal(401, words), self.stand.script(Opened(), Broke(words)), middle):
            for stream in (True, False):
                caller = self.stand.play(script, stream=stream)
                record = self.stand.ask("GET", "/admin/requests/last").raw
                for said in (caller.raw, record):
                    self.assertIn(b"Received: Bearer", said)
                    self.assertNotIn(BACKEND_KEY.encode(), said)
        self.assertNotIn(BACKEND_KEY, rendered(self.stand.events))

    def test_nobody_there(self) -> None:
        """A backend that is not there may come back: an overload, that names it."""
        self.stand = self.kind(base_url=f"http://127.0.0.1:9001{self.kind.base_path}")
        for stream in (True, False):
            caller = self.stand.say(stream=stream)
            self.stand.pass_time(1)  # less than the grace before the headers
            self.assertIn("fake", self.refused(caller, 529))

    def test_redirect(self) -> None:
        """A redirect is not followed with credentials."""
        caller = self.stand.play(Script(status=307, headers={"location": "http://127.0.0.1:9000/elsewhere"}))
        self.refused(caller, 502)
        self.assertEqual(len(self.stand.asked), 1)

    def test_redirect_that_goes_on(self) -> None:
        """Nobody reads on what a redirect says: its connection is given up."""
        caller = self.stand.play(Script(status=307, steps=[*_sent(b"This has moved"), Hang()]))
        self.refused(caller, 502)
        self.assertTrue(self.stand.asked[0].is_gone)

    def test_unknown_packing(self) -> None:
        """Nor an answer in a packing that was not asked for and that nobody here can undo."""
        headers = {**self.stand.headers, "content-encoding": "br"}
        script = Script(headers=headers, steps=[*_sent(b"\x8b"), Hang()])
        caller = self.stand.play(script)
        if self.stand.passes_on:
            self.stand.pass_time(60)  # nothing is put between what nobody here can read
            self.assert_as_it_came(caller, script)
            self.assertEqual(caller.headers["content-encoding"], "br")
            return
        self.refused(caller, 502)
        self.assertTrue(self.stand.asked[0].is_gone)

    def test_endless_refusal(self) -> None:
        """A refusal whose words never end is a failure all the same, after the patience of the settings."""
        for stream in (True, False):
            self.stand = self.kind(timeout_ms=30_000)
            caller = self.stand.play(Script(status=500, steps=[*_sent(b'{"error":'), Hang()]), stream=stream)
            self.stand.pass_time(31)
            self.assertEqual(caller.ended, not self.stand.passes_on)  # half a text is not ended, but cut
            self.assertTrue(caller.ended or caller.lost)
            self.assertNotIn(b"message_stop", caller.body)
            self.assertTrue(self.stand.asked[0].is_gone)


class Truncation(ContractCase):
    """What is cut never looks like an end."""

    def assert_failed(self, caller: Caller, said: str) -> Checked:
        checked = self.judged(caller)
        self.assertEqual((checked.text, checked.finished), (said, False))
        assert checked.error is not None
        return checked

    def test_broken(self) -> None:
        """A connection that breaks in the middle is an error event, with what was said before it."""
        self.assert_failed(self.stand.say(Text("Hello"), Text(" world"), Cut()), "Hello world")

    def test_unended(self) -> None:
        """So is a body that ends without the answer's last word."""
        script = self.stand.script(Text("Hello"), Text(" world"))
        self.assert_failed(self.stand.play(script), "Hello world")

    def test_in_a_thought(self) -> None:
        """In a thought as well."""
        checked = self.assert_failed(self.stand.say(Thought("Let me"), Cut(), **THINKING), "")
        self.assertEqual(checked.thinking, "Let me")

    def test_in_a_call(self) -> None:
        """Nobody runs a call that was cut."""
        cut = Call("Bash", ('{"command":"rm -rf /tm',), whole=False)
        for ending in ((Cut(),), ()):
            script = self.stand.script(Text("a"), cut, *ending)
            checked = self.judged(self.stand.play(script, **TOOLS))
            self.assertIsNotNone(checked.error)
            self.assertFalse(checked.finished)

    def test_whole(self) -> None:
        """Without a stream it is a status, not half a message."""
        for ending in ((Cut(),), ()):
            if self.stand.passes_on:
                script = self.stand.whole(Text("Hello"), *ending)
                self.assert_as_it_came(self.stand.play(script, stream=False), script)
                continue
            caller = self.stand.say(Text("Hello"), *ending, stream=False)
            self.assertGreaterEqual(caller.status, 500)
            check_error(caller.json, caller.status)

    def test_before_the_first_word(self) -> None:
        """A connection that breaks before anything was said is an overload, which clients repeat."""
        for parts in ((Headers(), Cut()), (Opened(), Cut())):
            for stream in (True, False):
                caller = self.stand.say(*parts, stream=stream)
                if caller.status == 200:
                    error = check_stream(caller.body).error
                    self.assertEqual(error and error.type, "overloaded_error")
                else:
                    self.assertEqual(check_error(caller.json, 529).type, "overloaded_error")

    def test_silence(self) -> None:
        """A backend that falls silent in the middle is given up after the patience of the settings."""
        self.stand = self.kind(timeout_ms=60_000)
        caller = self.stand.say(Text("Hello"), Hang())
        self.stand.pass_time(59)
        self.assertFalse(caller.ended)
        self.stand.pass_time(2)
        self.assert_failed(caller, "Hello")
        self.assertTrue(self.stand.asked[0].is_gone)

    def test_nonsense(self) -> None:
        """What is no answer at all is a failure, not silence."""
        for words in (b"<html>Log in</html>", b"", b"null"):
            script = Script(headers=self.stand.headers, steps=[*_sent(words)])
            caller = self.stand.play(script)
            if self.stand.passes_on:
                self.assert_as_it_came(caller, script)
                continue
            self.assertGreaterEqual(caller.status, 500, words)
            check_error(caller.json, caller.status)


def _sent(words: bytes) -> Iterator[Step]:
    if words:
        yield Send(words)


class Leaving(ContractCase):
    """A client that goes away takes the backend's work along, in every phase."""

    PHASES: dict[str, tuple[Part, ...]] = {  # noqa: RUF012
        "before the headers": (Hang(),),
        "after the headers": (Headers(), Hang()),
        "before the first token": (Opened(), Hang()),
        "in a thought": (Opened(), Thought("Hm"), Hang()),
        "in the text": (Text("Hello"), Hang()),
        "in a call": (Text("Hello"), Call("Bash", ('{"comm',), whole=False), Hang()),
        "after a call": (LS, Hang()),
    }

    def scripts(self) -> Iterator[tuple[str, Script]]:
        for name, parts in self.PHASES.items():
            yield name, self.stand.script(*parts)
        yield "after the last token", self.stand.unended(Text("Hello"), End()).then(Hang())
        yield "in an error", Script(status=500, steps=[*_sent(b'{"error":'), Hang()])

    def assert_left(self, caller: Caller, politely: bool) -> None:
        """At once nothing of the request is left over, and nothing is written to whoever has left."""
        got = caller.raw
        caller.leave() if politely else caller.vanish()
        self.assertTrue(all(each.is_gone for each in self.stand.asked))
        self.assertEqual(self.stand.timers, [])
        self.assertEqual([event["outcome"] for event in self.stand.request_lines], ["client_gone"])
        self.assertEqual(len(self.stand.proxy._exchanges), 0)
        self.stand.pass_time(KEPT_ALIVE)  # whoever asked whether the backend lives leaves its connection to others
        self.assertEqual(self.stand.open_ends, [])
        self.stand.pass_time(120)
        self.assertEqual(caller.raw, got)
        self.assertEqual(len(self.stand.request_lines), 1)
        self.assertEqual([each for each in self.stand.events if each["log_level"].name in ("error", "critical")], [])

    def test_phases(self) -> None:
        """In each phase, streamed or not, politely or not, soon or late: the backend is hung up on, at once."""
        for name, script in self.scripts():
            for stream in (True, False):
                for politely in (False, True):
                    for waited in (0.0, 2.5, 15.0):
                        if name == "after the last token" and waited > 2.5:
                            continue  # the answer has been ended for the client by then
                        with self.subTest(f"{name}, stream: {stream}, politely: {politely}, after {waited} s"):
                            self.stand = self.kind()
                            self.stand.pass_time(10)
                            caller = self.stand.play(script, stream=stream, **THINKING, **TOOLS)
                            self.stand.pass_time(waited)
                            self.assertEqual([each.is_gone for each in self.stand.asked], [False])
                            self.assert_left(caller, politely)

    def test_connecting(self) -> None:
        """While the connection to the backend is being made, that is given up."""
        for stream in (True, False):
            for waited in (0.0, 2.5):
                self.stand = self.kind()
                self.answer(Text("Hello"), End())  # now nothing is left to be asked of the backend first
                self.stand.pass_time(10)
                self.stand.fake.received.clear()
                self.stand.events.clear()
                self.stand.network.black_holes.add(BACKEND_PORT)
                caller = self.stand.say(stream=stream)
                self.stand.pass_time(waited)
                [connector] = self.stand.network.connecting
                caller.vanish()
                self.assertTrue(connector.was_stopped)
                self.assertEqual([event["outcome"] for event in self.stand.request_lines], ["client_gone"])
                self.assertEqual(len(self.stand.proxy._exchanges), 0)
                self.stand.network.black_holes.clear()
                self.stand.pass_time(10)  # whoever asks now whether the backend is there has its answer
                self.assertEqual((self.stand.timers, self.stand.open_ends, self.stand.asked), ([], [], []))

    def test_slow_reader(self) -> None:
        """While it does not read what is there for it."""
        self.stand.pass_time(10)
        caller = self.stand.caller()
        caller.transport.pauseProducing()
        self.stand.fake.plays(self.stand.script(*[Text("x" * 4096)] * 100, End()))
        caller.ask("POST", "/v1/messages", self.stand.request())
        self.assertTrue(self.stand.asked[0].is_paused)
        self.assert_left(caller, politely=False)

    def test_others_stay(self) -> None:
        """Who goes away takes nobody along."""
        leaves, stays = (self.stand.say(Text(a), Wait(1), Text(b), Wait(1), End()) for a, b in ("ab", "cd"))
        self.stand.pass_time(1.5)
        leaves.vanish()
        self.stand.pass_time(20)
        self.assertEqual(self.judged(stays).text, "cd")
        self.assertEqual([each.is_gone for each in self.stand.asked], [True, False])

    def test_after_the_end(self) -> None:
        """Who goes away with the whole answer has had it: the log says so."""
        caller = self.stand.say(Text("Hello"), End())
        caller.vanish()
        self.stand.pass_time(10)
        self.assertEqual([event["outcome"] for event in self.stand.request_lines], ["end_turn"])
        self.assertEqual(self.stand.timers, [])


class Returning(ContractCase):
    """A client that lost its patience with a long wait and asks again (issue 5)."""

    SESSION = {"x-claude-code-session-id": "11111111-2222"}  # noqa: RUF012
    #: What the model says after a minute and a half.
    LATE: tuple[Part, ...] = (Wait(90), Text("Hello"), Wait(1), End())

    def lose(self, *parts: Part, after: float, stream: bool = True) -> Caller:
        """A first client, which leaves after so many seconds."""
        script = self.stand.script(*parts)
        caller = self.stand.play(script, self.SESSION, stream=stream)
        self.stand.pass_time(after)
        caller.vanish()
        self.stand.pass_time(1)
        return caller

    def again(self, headers: Mapping[str, str] | None = None, stream: bool = True) -> Caller:
        request = self.stand.request(stream=stream)
        return self.stand.ask("POST", "/v1/messages", request, headers or self.SESSION)

    def assert_idle(self) -> None:
        self.stand.pass_time(40)
        self.assertEqual((self.stand.timers, self.stand.open_ends), ([], []))
        self.assertEqual(len(self.stand.proxy._exchanges), 0)

    def test_retry(self) -> None:
        """The retry gets all of the answer that is being made; the backend is asked once, whatever it had told."""
        for before in ((), (Headers(),), (Opened(),)):
            for streams in ((True, True), (True, False), (False, False), (False, True)):
                with self.subTest(f"{before}, streams: {streams}"):
                    self.stand = self.kind()
                    self.lose(*before, *self.LATE, after=70, stream=streams[0])
                    if self.stand.passes_on:  # nobody holds what nobody reads: it is hung up on, and asked anew
                        self.assertEqual([each.is_gone for each in self.stand.asked], [True])
                        self.assertEqual(self.again().status, 200)
                        self.assertEqual(len(self.stand.asked), 2)
                        self.assert_idle()
                        continue
                    retry = self.again(stream=streams[1])
                    self.stand.pass_time(30)
                    checked = self.judged(retry) if streams[1] else check_message(retry.json)
                    self.assertEqual((checked.text, checked.finished), ("Hello", True))
                    self.assertEqual([each.is_gone for each in self.stand.asked], [False])
                    self.assertTrue(self.stand.request_lines[-1]["joined"])
                    self.assert_idle()

    def test_meanwhile(self) -> None:
        """An answer that came while nobody listened is there for who asks again."""
        self.lose(*self.LATE, after=85)
        self.stand.pass_time(10)
        self.stand.fake.plays(self.stand.script(Text("New"), End()))
        self.assertEqual(self.judged(self.again()).text, "New" if self.stand.passes_on else "Hello")
        self.assert_idle()

    def test_failed_meanwhile(self) -> None:
        """One that failed then is not handed on."""
        self.lose(Wait(80), Text("Hel"), Cut(), after=75)
        self.stand.pass_time(8)
        self.stand.fake.plays(self.stand.script(Text("New"), End()))
        self.assertEqual(self.judged(self.again()).text, "New")
        self.assert_idle()

    def test_too_late(self) -> None:
        """Nobody came back: the backend is hung up on."""
        self.lose(Opened(), Hang(), after=70)
        self.assertEqual([each.is_gone for each in self.stand.asked], [self.stand.passes_on])
        self.stand.pass_time(15)
        self.assertEqual([each.is_gone for each in self.stand.asked], [True])
        self.assert_idle()

    def test_interrupt(self) -> None:
        """Who leaves within a minute, or with a part of the answer, does so on purpose: at once nobody works on."""
        for parts, waited in (((Opened(), Hang()), 58), ((Wait(80), Text("Hel"), Hang()), 85)):
            self.stand = self.kind()
            self.lose(*parts, after=waited)
            self.assertEqual([each.is_gone for each in self.stand.asked], [True])
            self.assert_idle()

    def test_others(self) -> None:
        """Another session gets an answer of its own."""
        self.lose(*self.LATE, after=70)
        self.stand.fake.plays(self.stand.script(Text("New"), End()))
        self.assertEqual(self.judged(self.again({"x-claude-code-session-id": "3333"})).text, "New")
        self.assert_idle()


class SlowReading(ContractCase):
    """A client that reads slowly slows the backend down (STYLE P13, P33)."""

    PIECE = "x" * 4096
    COUNT = 500

    def flood(self) -> Script:
        return self.stand.script(*[Text(self.PIECE)] * self.COUNT, End())

    def paused(self, script: Script) -> Caller:
        caller = self.stand.caller()
        caller.transport.pauseProducing()
        self.stand.fake.plays(script)
        return caller.ask("POST", "/v1/messages", self.stand.request())

    def test_bounded(self) -> None:
        """A client that does not read pauses the backend: no more than the connections' buffers is held for it."""
        caller = self.paused(self.flood())
        self.stand.pass_time(3600)
        [received] = self.stand.asked
        self.assertTrue(received.is_paused)
        self.assertLess(received.written, 4 * HIGH_WATER)
        self.assertLess(caller.transport.most_waiting, 3 * HIGH_WATER)
        caller.transport.resumeProducing()
        self.stand.network.pump()
        checked = self.judged(caller)
        self.assertTrue(checked.finished)
        self.assertEqual(len(checked.text), len(self.PIECE) * self.COUNT)
        self.assertLess(caller.transport.most_waiting, 3 * HIGH_WATER)

    def test_stop_and_go(self) -> None:
        """However often it stops and goes on, nothing is lost and nothing comes twice."""
        caller = self.paused(self.flood())
        for _ in range(40):
            caller.transport.resumeProducing()
            for _ in range(3):
                caller.transport.advance()
            caller.transport.pauseProducing()
            self.stand.pass_time(7)
        caller.transport.resumeProducing()
        self.stand.network.pump()
        self.assertEqual(self.judged(caller).text, self.PIECE * self.COUNT)

    def test_last_bytes(self) -> None:
        """What it has not read yet when the answer ends is not lost."""
        caller = self.paused(self.stand.script(Text("x" * HIGH_WATER), Text("y"), End()))
        self.stand.pass_time(50)
        caller.transport.resumeProducing()
        self.stand.pass_time(10)
        checked = self.judged(caller)
        self.assertTrue(checked.finished)
        self.assertEqual(checked.text, "x" * HIGH_WATER + "y")

    def test_without_a_stream(self) -> None:
        """One message waits for its reader as well, and then is whole."""
        caller = self.stand.caller()
        caller.transport.pauseProducing()
        self.stand.fake.plays(self.stand.whole(*[Text(self.PIECE)] * self.COUNT, End()))
        caller.ask("POST", "/v1/messages", self.stand.request(stream=False))
        self.stand.pass_time(50)
        caller.transport.resumeProducing()
        self.stand.network.pump()
        self.assertEqual(len(check_message(caller.json).text), len(self.PIECE) * self.COUNT)

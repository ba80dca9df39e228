"""A backend that goes, comes back and changes (issue 4, "Probing")."""

from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.client import QUESTION_TIME
from claudeproxy.backends.profile import NOTHING, Facts
from claudeproxy.backends.recognition import Recognised
from claudeproxy.backends.recovery import AT_ONCE, FRESH, OFFER_TIME, Acquaintance, in_words
from claudeproxy.backends.watch import PAUSES, Watch
from claudeproxy.model.problems import Refusal, overloaded
from claudeproxy.translate.dialects import DIALECTS
from tests.fakes.house import BACKEND_PORT, House, body
from tests.fakes.openai import json_body, silent, text
from tests.stream_checker import check_error, check_stream

AWAY = Refusal(overloaded("Backend box cannot be reached: refused"))
GENERIC = Recognised(DIALECTS["generic"], {"m": NOTHING})


class WatchTests(SynchronousTestCase):
    """`Watch`."""

    def setUp(self) -> None:
        self.clock, self.times = Clock(), list[float]()
        self.faults: list[object] = []
        self.watch = Watch(self.clock, self.ask, self.faults.append)

    async def ask(self) -> None:
        self.times.append(self.clock.seconds())
        if len(self.times) == 2:
            raise ZeroDivisionError

    def test_pauses(self) -> None:
        """The pauses grow to half a minute and stay; a fault is told and stops nothing."""
        self.watch.begin()
        self.watch.begin()
        self.clock.pump([1.0] * 120)
        self.assertEqual(self.times, [1, 3, 8, 18, 48, 78, 108])
        self.assertEqual(len(self.faults), 1)
        self.watch.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_afresh(self) -> None:
        """After an end it begins with the short pauses again."""
        self.watch.begin()
        self.clock.pump([1.0] * 10)
        self.watch.end()
        self.times.clear()
        self.watch.begin()
        self.clock.advance(PAUSES[0])
        self.assertEqual(self.times, [11])


class AcquaintanceTests(SynchronousTestCase):
    """`Acquaintance`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.questions: list[Deferred[Recognised]] = []
        self.about: list[tuple[str, Deferred[Facts | None]]] = []
        self.events: list[LogEvent] = []
        log = Logger(namespace="test", observer=self.events.append)  # type: ignore[arg-type]
        self.box = Acquaintance("box", self.ask, lambda found: in_words(found, found.dialect.name), self.clock, log)
        self.box.start()

    async def ask(self) -> Recognised:
        self.questions.append(Deferred())
        return await self.questions[-1]

    async def ask_of(self, model: str) -> Facts | None:
        self.about.append((model, Deferred()))
        return await self.about[-1][1]

    def many(self, count: int) -> Recognised:
        """A server that is asked about each of its models."""
        return Recognised(DIALECTS["ollama"], {f"m{number}": NOTHING for number in range(count)}, ask=self.ask_of)

    @property
    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events]

    def told(self) -> str:
        """The one line that was logged since the last time."""
        (line,) = self.lines
        self.events.clear()
        return line

    def facts(self, model: str = "m") -> Deferred[Facts]:
        return Deferred.fromCoroutine(self.box.facts(model))

    def test_all_is_well(self) -> None:
        """It is asked once, told once, and nothing waits for its time."""
        self.questions[0].callback(GENERIC)
        self.assertIn("backend box speaks generic and offers m", self.told().replace("  ", " "))
        self.successResultOf(self.facts())
        self.clock.advance(FRESH - 1)
        self.successResultOf(self.facts())
        self.assertEqual((len(self.questions), self.clock.getDelayedCalls()), (1, []))

    def test_away_and_back(self) -> None:
        """One line when it goes and one when it comes back, however often it is asked between."""
        self.questions[0].errback(AWAY)
        self.assertIn("away", self.told())
        for number, pause in enumerate((*PAUSES, PAUSES[-1]), 1):
            self.clock.advance(pause)
            self.assertEqual(len(self.questions), number + 1)
            if number < 6:
                self.questions[-1].errback(AWAY)
        self.assertEqual(self.lines, [])
        self.questions[-1].callback(GENERIC)
        self.assertIn("box is back: it speaks generic", self.told())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_back_as_another(self) -> None:
        """What was known is forgotten when it is back; until then requests go by it."""
        self.questions[0].callback(evolve(GENERIC, common=Facts(window=1)))
        self.events.clear()
        self.box.doubt()
        self.questions[1].errback(AWAY)
        self.assertIn("away", self.told())
        asked = self.facts()
        self.questions[2].errback(AWAY)
        self.assertEqual(self.successResultOf(asked).window, 1)
        self.clock.advance(1)
        self.questions[3].callback(evolve(GENERIC, common=Facts(window=2)))
        self.assertIn("window 2", self.told())
        self.assertEqual(self.successResultOf(self.facts()).window, 2)

    def test_back_by_a_request(self) -> None:
        """A request asks a backend that is away, without waiting for the watch, and ends the watch."""
        self.questions[0].errback(AWAY)
        asked = self.facts()
        self.questions[1].callback(evolve(GENERIC, common=Facts(window=1)))
        self.assertEqual(self.successResultOf(asked).window, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unfounded_doubt(self) -> None:
        """A request that did not reach it makes it be asked; if it is there nothing is said."""
        self.questions[0].callback(GENERIC)
        self.events.clear()
        self.box.doubt()
        self.box.doubt()
        self.questions[1].callback(GENERIC)
        self.assertEqual((len(self.questions), self.lines, self.clock.getDelayedCalls()), (2, [], []))

    def test_growing_old(self) -> None:
        """Old facts are asked anew in the background, once; a change is one line, and no request waits."""
        self.questions[0].callback(evolve(GENERIC, common=Facts(window=1)))
        self.events.clear()
        self.clock.advance(FRESH)
        for _ in range(3):
            self.assertEqual(self.successResultOf(self.facts()).window, 1)
        self.assertEqual(len(self.questions), 2)
        self.questions[1].callback(evolve(GENERIC, common=Facts(window=2)))
        self.assertIn("box has changed: it now speaks generic and offers m; window 2", self.told())
        self.assertEqual(self.successResultOf(self.facts()).window, 2)
        self.clock.advance(FRESH)
        self.facts()
        self.questions[2].callback(evolve(GENERIC, common=Facts(window=2)))
        self.assertEqual(self.lines, [])

    def test_busy(self) -> None:
        """A server that is known and too busy to say what it is has not gone."""
        self.questions[0].callback(evolve(GENERIC, common=Facts(window=1)))
        self.events.clear()
        self.clock.advance(FRESH)
        self.facts()
        self.clock.advance(QUESTION_TIME)
        self.questions[1].errback(AWAY)
        self.assertEqual(self.successResultOf(self.facts()).window, 1)
        self.assertEqual((self.lines, self.clock.getDelayedCalls()), ([], []))

    def test_waiters(self) -> None:
        """A request that is cancelled while it waits leaves the others, and the question, in peace."""
        one, other = self.facts(), self.facts()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.questions[0].callback(evolve(GENERIC, common=Facts(window=1)))
        self.assertEqual(self.successResultOf(other).window, 1)

    def test_stop(self) -> None:
        """After the stop nothing is asked and nothing is said; it may be started again."""
        self.questions[0].errback(AWAY)
        self.clock.advance(1)
        self.events.clear()
        self.box.stop()
        self.questions[1].errback(AWAY)
        self.box.doubt()
        self.assertEqual((len(self.questions), self.lines, self.clock.getDelayedCalls()), (2, [], []))
        self.box.start()
        self.questions[2].errback(AWAY)
        self.assertIn("away", self.told())

    def test_unawaited(self) -> None:
        """Where the family is sure no request waits to hear more."""
        log = Logger(namespace="test", observer=self.events.append)  # type: ignore[arg-type]
        box = Acquaintance("sure", self.ask, str, self.clock, log, is_awaited=False)
        box.start()
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(box.facts("m"))), NOTHING)
        self.questions[1].callback(evolve(GENERIC, common=Facts(window=1)))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(box.facts("m"))).window, 1)

    def test_models_one_by_one(self) -> None:
        """Where models are asked about one by one, few are at once; in time or not all are offered."""
        self.questions[0].callback(self.many(50))
        offered = Deferred.fromCoroutine(self.box.offered())
        self.assertEqual(len(self.about), AT_ONCE)
        for _, question in self.about[:AT_ONCE]:
            question.callback(Facts(window=1))
        self.assertEqual(len(self.about), 2 * AT_ONCE)
        self.clock.advance(OFFER_TIME)
        found = self.successResultOf(offered)
        self.assertEqual((len(found), sum(each.window for each in found.values())), (50, AT_ONCE))
        self.assertEqual(len(self.about), 2 * AT_ONCE)
        for _, question in self.about:  # the list grows: those that nobody waits for are asked about, too
            if not question.called:
                question.callback(None)
        self.assertEqual(len(self.about), 50)

    def test_model_changes(self) -> None:
        """A model's own facts grow old, too, and a change is one line."""
        self.questions[0].callback(self.many(1))
        asked = self.facts("m0")
        self.about[0][1].callback(Facts(window=1))
        self.assertEqual(self.successResultOf(asked).window, 1)
        self.clock.advance(FRESH)
        self.facts("m0")
        self.questions[1].callback(self.many(1))
        self.events.clear()
        self.about[1][1].callback(Facts(window=2))
        self.assertIn("m0 of box has changed: window 2", self.told())
        self.assertEqual(self.successResultOf(self.facts("m0")).window, 2)

    def test_unknown_names(self) -> None:
        """Names that nobody knows are not kept."""
        self.questions[0].callback(self.many(1))
        for number in range(3):
            asked = self.facts(f"unknown{number}")
            self.about[-1][1].callback(None)
            self.assertEqual(self.successResultOf(asked), NOTHING)
        self.assertEqual(len(self.box._models), 0)

    def test_hostile_names(self) -> None:
        """A name cannot write lines of its own into the log, and many do not fill it."""
        words = in_words(Recognised(DIALECTS["generic"], {"a\nb": NOTHING, **self.many(9).models}), "generic")
        self.assertIn("a?b, m0, m1 and 7 more", words)


class HouseTests(SynchronousTestCase):
    """The same with the whole proxy."""

    def setUp(self) -> None:
        properties = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 1}
        self.owner, self.properties = "llamacpp", properties
        others = {
            ("GET", "/v1/models"): lambda _: json_body({"data": [{"id": "m", "owned_by": self.owner}]}),
            ("GET", "/props"): lambda _: json_body(self.properties),
        }
        self.house = House("auto", others=others)
        self.house.pass_time(1)

    def leave(self) -> Any:
        """The backend is gone; what brings it back."""
        listener = self.house.network.listeners.pop(BACKEND_PORT)
        for end in self.house.network.ends:
            if end.port == BACKEND_PORT:
                end.abortConnection()
        self.house.pass_time(1)
        return listener

    def said(self, word: str) -> int:
        return len([line for line in self.house.lines if word in line])

    def test_down_at_start(self) -> None:
        """A backend that is down does not stop the proxy: its requests get 529 and its name, until it is back."""
        listener = self.house.network.listeners.pop(BACKEND_PORT)
        settings = self.house.settings.backends[0]
        self.house.reset(backends=(evolve(settings, name="other", timeout_ms=5000),))
        for _ in range(2):
            caller = self.house.ask("POST", "/v1/messages", body())
            self.house.pass_time(3)
            self.assertIn("other", check_error(caller.json, 529).message)
        self.assertEqual(self.said("other is away"), 1)
        listed = self.house.ask("GET", "/v1/models")
        self.house.pass_time(2)
        self.assertEqual(listed.status, 200)
        self.house.network.listeners[BACKEND_PORT] = listener
        self.house.pass_time(31)
        self.assertEqual(self.said("other is back: it speaks llama.cpp"), 1)
        self.assertTrue(check_stream(self.house.chat(text("Hello")).body).finished)
        self.assertIs(self.house.fake.chats[-1].json["return_progress"], True)
        self.assertEqual(self.house.network.timers("Watch"), [])

    def test_gone_and_back(self) -> None:
        """A request finds that it is gone; when it is back, its new window is known without a request."""
        self.house.chat(text("a"))
        listener = self.leave()
        caller = self.house.ask("POST", "/v1/messages", body())
        self.house.pass_time(1)
        check_error(caller.json, 529)
        self.assertEqual((self.said("is away"), self.said("fake is back")), (1, 0))
        self.properties = {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 1}
        self.house.network.listeners[BACKEND_PORT] = listener
        self.house.pass_time(10)
        self.assertEqual((self.said("is away"), self.said("is back: it speaks llama.cpp")), (1, 1))
        (entry, *_) = self.house.ask("GET", "/v1/models").json["data"]
        self.assertEqual(entry["max_input_tokens"], 8192)

    def test_loading(self) -> None:
        """A llama.cpp that still loads its model is not taken for another server."""
        self.house.fake.others["GET", "/props"] = lambda _: json_body({"error": {"message": "Loading model"}}, 503)
        self.house.reset(backends=(evolve(self.house.settings.backends[0], name="slow"),))
        self.house.pass_time(2)
        self.assertEqual(self.said("slow is away"), 1)
        self.house.fake.others["GET", "/props"] = lambda _: json_body(self.properties)
        self.house.pass_time(10)
        self.assertEqual(self.said("slow is back: it speaks llama.cpp"), 1)

    def test_vanishing_client(self) -> None:
        """A client that leaves before the backend answers says nothing of the backend."""
        self.house.fake.plays(silent(headers=False))
        caller = self.house.ask("POST", "/v1/messages", body())
        self.house.pass_time(1)
        asked = len(self.house.fake.received)
        caller.vanish()
        self.house.pass_time(30)
        self.assertEqual((len(self.house.fake.received), self.said("is away")), (asked, 0))

    def test_closed(self) -> None:
        """A proxy that stops asks nobody any more."""
        self.leave()
        self.house.ask("POST", "/v1/messages", body())
        self.house.pass_time(1)
        self.assertEqual(len(self.house.network.timers("Watch")), 1)
        self.house.proxy.stopService()
        self.house.pass_time(30)
        self.assertEqual(self.house.network.timers("Watch"), [])

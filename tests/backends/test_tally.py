"""The desk that counts."""

import time
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.interfaces import Count
from claudeproxy.backends.tally import Tally
from claudeproxy.backends.unusable import BadTokenizer
from claudeproxy.model.problems import Refusal, overloaded
from claudeproxy.translate.learning import Learned
from claudeproxy.translate.prompt_size import PromptScale
from claudeproxy.wire.json import encode


def body(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@define
class Counter:
    """A tokenizer file that knows one number, or is of no use."""

    tokens: int | None
    asked: int = 0

    async def count(self, body: object) -> int:
        self.asked += 1
        if self.tokens is None:
            raise BadTokenizer("backends.b.tokenizers: no such file")
        return self.tokens


@define(eq=False)
class Server:
    """A server that counts when it is told to."""

    questions: list[Deferred[int | None]] = field(factory=list)

    async def ask(self) -> int | None:
        question: Deferred[int | None] = Deferred()
        self.questions.append(question)
        return await question


class TallyTests(SynchronousTestCase):
    """`Tally`."""

    def setUp(self) -> None:
        self.learned, self.server, self.changes = Learned(), Server(), 0
        self.said: list[str] = []
        self.tally = self.with_tokenizers()

    def with_tokenizers(self, **files: Any) -> Tally:
        log = Logger(namespace="test", observer=lambda event: self.said.append(formatEvent(event)))  # type: ignore[arg-type]
        return Tally("b", self.learned, PromptScale(), files, self.change, log=log)

    def change(self) -> None:
        self.changes += 1

    def count(self, text: str, model: str = "m", can_count: bool = True) -> Deferred[Count]:
        asked, size = body(text), self.tally.measure(body(text), "")
        ask = self.server.ask if can_count else None
        return Deferred.fromCoroutine(self.tally.count(model, encode(asked), asked, size, ask))

    def best(self, text: str) -> Count:
        size = self.tally.measure(body(text), "")
        counting = self.tally.count("m", encode(body(text)), body(text), size, None)
        return self.successResultOf(Deferred.fromCoroutine(counting))

    def test_exact(self) -> None:
        """The server's own count is the best; it is remembered, and teaches."""
        counting = self.count("Hello there")
        self.assertNoResult(counting)
        self.server.questions[0].callback(11)
        self.assertEqual(self.successResultOf(counting), Count(11, "exact", "m"))
        self.assertEqual(self.successResultOf(self.count("Hello there")), Count(11, "exact", "m"))
        self.assertEqual(self.best("Hello there"), Count(11, "exact", "m"))
        self.assertEqual((len(self.server.questions), self.changes), (1, 1))
        self.assertEqual(self.best("Hello, you over there").source, "learned")

    def test_each_source(self) -> None:
        """A server that cannot tell, or fails: then the tokenizer, then what was learned, then an estimate."""
        self.assertEqual(self.successResultOf(self.count("Hi", can_count=False)).source, "estimate")
        self.tally.learn("m", self.tally.measure(body("Hello you"), ""), 8)
        self.assertEqual(self.successResultOf(self.count("Hi", can_count=False)).source, "learned")
        for outcome in (None, Refusal(overloaded("busy"))):
            counting = self.count("Hi")
            question = self.server.questions.pop()
            question.callback(None) if outcome is None else question.errback(outcome)
            self.assertEqual(self.successResultOf(counting).source, "learned")
        self.tally = self.with_tokenizers(m=Counter(7))
        counting = self.count("Hi")
        self.server.questions.pop().callback(None)
        self.assertEqual(self.successResultOf(counting), Count(7, "tokenizer", "m"))

    def test_estimates_learn(self) -> None:
        """An estimate is not remembered: the next one knows more."""
        text = "It was a bright cold day in April. " * 30
        before = self.successResultOf(self.count(text, can_count=False))
        self.tally.learn("m", self.tally.measure(body(text), ""), before.tokens + 40)
        after = self.successResultOf(self.count(text, can_count=False))
        self.assertEqual(after, Count(before.tokens + 40, "learned", "m", counted=before.tokens + 40))

    def test_tokenizers(self) -> None:
        """A model's own file is used, or that for all models; one that is of no use is told of once."""
        own, other = Counter(5), Counter(6)
        self.tally = self.with_tokenizers(**{"m": own, "*": other})
        self.assertEqual(self.successResultOf(self.count("Hi", can_count=False)), Count(5, "tokenizer", "m"))
        self.assertEqual(self.successResultOf(self.count("Hi", "n", can_count=False)), Count(6, "tokenizer", "n"))
        self.successResultOf(self.count("Hi", "n", can_count=False))
        self.assertEqual((own.asked, other.asked), (1, 1))
        bad = Counter(None)
        self.tally = self.with_tokenizers(m=bad)
        for text in ("one", "two"):
            self.assertEqual(self.successResultOf(self.count(text, can_count=False)).source, "estimate")
        self.assertEqual(bad.asked, 2)
        self.assertEqual(self.said, ["counts of m are only estimated: backends.b.tokenizers: no such file"])

    def test_images(self) -> None:
        """A tokenizer sees no images: their tokens are added."""
        self.tally = self.with_tokenizers(m=Counter(5))
        part = {"type": "image_url", "image_url": {"url": "http://example.org/x.png"}}
        asked = {"messages": [{"role": "user", "content": [part]}]}
        size = self.tally.measure(asked, "openai")
        counting = self.tally.count("m", encode(asked), asked, size, None)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(counting)).tokens, 5 + 765)

    def test_asked_once(self) -> None:
        """Who asks for what is just being counted waits for the same answer; another model is another question."""
        counting = [self.count("Hi"), self.count("Hi")]
        self.count("Hi", "n")
        self.assertEqual(len(self.server.questions), 2)
        self.server.questions[0].callback(3)
        self.assertEqual([self.successResultOf(each).tokens for each in counting], [3, 3])

    def test_few_at_once(self) -> None:
        """No more than four questions are with the server at a time; the others follow in their order."""
        counting = [self.count(f"text {number}") for number in range(30)]
        self.assertEqual(len(self.server.questions), 4)
        for number in range(30):
            self.server.questions[number].callback(number + 1)
            self.assertEqual(self.successResultOf(counting[number]).tokens, number + 1)
            self.assertEqual(len(self.server.questions), min(30, number + 5))

    def test_cancelled(self) -> None:
        """Who goes away leaves the others in peace, whether waiting for a turn or for the answer."""
        counting = [self.count(f"text {number}") for number in range(6)]
        second = self.count("text 0")
        for gone in (counting[0], counting[4], counting[1]):
            gone.cancel()
            self.failureResultOf(gone, CancelledError)
        for number in range(6):
            self.server.questions[number].callback(number + 1)
        self.assertEqual(self.successResultOf(second).tokens, 1)
        self.assertEqual([self.successResultOf(counting[each]).tokens for each in (2, 3, 5)], [3, 4, 6])
        self.assertEqual(self.successResultOf(self.count("text 4")).tokens, 5, "it was counted all the same")

    def test_no_turn_lost(self) -> None:
        """However a question ends, its turn comes back."""
        for number in range(12):
            counting = self.count(f"text {number}")
            question = self.server.questions.pop()
            if number % 3 == 0:
                question.errback(Refusal(overloaded("busy")))
            elif number % 3 == 1:
                question.errback(ZeroDivisionError())
                self.failureResultOf(counting, ZeroDivisionError)
            else:
                question.callback(number)
        for number in range(4):
            self.count(f"new {number}")
        self.assertEqual(len(self.server.questions), 4)

    def test_bounded(self) -> None:
        """Counts are remembered up to a bound; that goes which nobody asked for longest."""
        self.tally = Tally("b", self.learned, PromptScale(), memory=2)
        for text in ("one", "two", "one", "three"):
            counting = self.count(text)
            for question in self.server.questions:
                question.callback(5)
            self.server.questions.clear()
            self.successResultOf(counting)
        self.assertEqual([self.best(text).source for text in ("one", "two", "three")], ["exact", "learned", "exact"])

    def test_remembered_is_cheap(self) -> None:
        """What was counted before is answered in well below a millisecond."""

        async def known() -> int:
            return 9

        asked = body("Hello")
        encoded, size = encode(asked), self.tally.measure(asked, "")
        fastest = 1.0
        for _ in range(200):
            begun = time.perf_counter()
            counting = Deferred.fromCoroutine(self.tally.count("m", encoded, asked, size, known))
            fastest = min(fastest, time.perf_counter() - begun)
            self.assertEqual(self.successResultOf(counting).tokens, 9)
        self.assertLess(fastest, 0.00025)

    def test_learned(self) -> None:
        """A finished answer's count is worth keeping; one that is not believed is not."""
        size = self.tally.measure(body("Hello"), "")
        self.tally.learn("m", size, 12)
        self.tally.learn("m", size, 0)
        self.assertEqual(self.changes, 1)
        self.assertEqual(self.best("Hello").tokens, 12)

"""The reader of documents: what it finds, what it remembers, and who waits for whom; without a thread."""

import base64
from collections.abc import Callable

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.documents import DocumentReader, Result
from claudeproxy.model.anthropic import (
    Base64Source,
    Block,
    ContentSource,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    TextBlock,
    TextSource,
    ToolResultBlock,
    URLSource,
)
from claudeproxy.model.documents import Paper, Papers
from claudeproxy.wire.pdf import BAD_BASE64, NOT_A_PDF
from tests.fakes.pdfs import pdf


def text_of(data: bytes) -> str:
    """Its base64."""
    return base64.b64encode(data).decode()


ONE, TWO, THREE = (text_of(pdf(text)) for text in ("one", "two", "three"))


def document(data: str, media_type: str = "application/pdf") -> DocumentBlock:
    """A block with a document."""
    return DocumentBlock(Base64Source(media_type, data))


def asking(*blocks: Block) -> MessagesRequest:
    """A request whose last turn holds ``blocks``."""
    turns = (Message("user", (TextBlock("hello"),)), Message("assistant", (TextBlock("hi"),)), Message("user", blocks))
    return MessagesRequest("m", turns)


@define(eq=False)
class FakeThread:
    """Runs work at once, or, when ``held``, as the test says."""

    held: bool = False
    ran: int = 0
    waiting: list[tuple[Callable[[], Result], Deferred[Result]]] = field(factory=list)

    def __call__(self, work: Callable[[], Result]) -> Deferred[Result]:
        done: Deferred[Result] = Deferred()
        self.waiting.append((work, done))
        if not self.held:
            self.go_on()
        return done

    def go_on(self) -> None:
        """Finish the oldest work."""
        work, done = self.waiting.pop(0)
        self.ran += 1
        done.callback(work())


class DocumentReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.thread = FakeThread()
        self.reader = DocumentReader(self.thread)

    def start(self, *blocks: Block, images: bool = False) -> Deferred[Papers]:
        """Somebody asks."""
        return Deferred.fromCoroutine(self.reader.read(asking(*blocks), images))

    def read(self, *blocks: Block, images: bool = False) -> Papers:
        """Somebody asks and has the answer at once."""
        return self.successResultOf(self.start(*blocks, images=images))

    def test_nothing(self) -> None:
        """A request without a PDF has its empty answer at once, and no thread is troubled."""
        others = (
            TextBlock("x"),
            ImageBlock(Base64Source("image/png", ONE)),
            document(ONE, "text/plain"),
            DocumentBlock(URLSource("http://127.0.0.1/a.pdf")),
            DocumentBlock(TextSource("x")),
            ToolResultBlock("t", (TextBlock("x"),)),
        )
        self.assertEqual((self.read(*others), self.thread.ran), ({}, 0))

    def test_everywhere(self) -> None:
        """PDFs are found at top level, in tool results and in documents made of blocks, however deep."""
        inner = DocumentBlock(ContentSource((DocumentBlock(ContentSource((document(THREE),))), TextBlock("x"))))
        papers = self.read(
            document(ONE), ToolResultBlock("t", (TextBlock("x"), document(TWO, "Application/PDF"), inner))
        )
        self.assertEqual(papers, {ONE: Paper(("one",)), TWO: Paper(("two",)), THREE: Paper(("three",))})

    def test_unreadable(self) -> None:
        """What cannot be read has its reason, beside those that can."""
        papers = self.read(document(ONE), document("abcde"), document(text_of(b"hello")), document("\ud800"))
        expected = {ONE: Paper(("one",)), "abcde": BAD_BASE64, text_of(b"hello"): NOT_A_PDF, "\ud800": BAD_BASE64}
        self.assertEqual(papers, expected)

    def test_once(self) -> None:
        """A document is read once, however often it is in a request and in later ones."""
        first = self.read(document(ONE), document(ONE))
        self.assertEqual((self.read(document(ONE), TextBlock("and?")), self.thread.ran), (first, 1))

    def test_with_images(self) -> None:
        """With pictures and without are two readings, each remembered."""
        for _ in range(2):
            with_images, without = self.read(document(ONE), images=True)[ONE], self.read(document(ONE))[ONE]
            assert isinstance(with_images, Paper)
            assert isinstance(without, Paper)
            self.assertEqual((len(with_images.images), without.images, self.thread.ran), (1, (), 2))

    def test_shared(self) -> None:
        """Whoever asks for a document that is being read waits for the same reading."""
        self.thread.held = True
        first, second = self.start(document(ONE)), self.start(document(ONE))
        self.assertEqual(len(self.thread.waiting), 1)
        self.thread.go_on()
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))
        self.assertEqual(self.thread.waiting, [])

    def test_one_at_a_time(self) -> None:
        """Only one document is being read at any time; the others have their turn afterwards."""
        self.thread.held = True
        asked = [self.start(document(data)) for data in (ONE, TWO, THREE)]
        for number, waiting in enumerate(asked):
            self.assertEqual(len(self.thread.waiting), 1)
            self.assertNoResult(waiting)
            self.thread.go_on()
            self.assertEqual(len(self.successResultOf(waiting)), 1, number)

    def test_cancelled(self) -> None:
        """One who goes away leaves the others waiting in peace, and what was read is remembered."""
        self.thread.held = True
        first, second = self.start(document(ONE)), self.start(document(ONE))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.thread.go_on()
        self.assertEqual(self.successResultOf(second), {ONE: Paper(("one",))})
        self.assertEqual(self.read(document(ONE)), {ONE: Paper(("one",))})

    def test_all_cancelled(self) -> None:
        """When all who waited are gone, the reading ends all the same, and the next document has its turn."""
        self.thread.held = True
        gone, queued, staying = (self.start(document(data)) for data in (ONE, TWO, THREE))
        for waiting in (gone, queued):
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        for _ in range(3):
            self.thread.go_on()
        self.assertEqual(self.successResultOf(staying), {THREE: Paper(("three",))})
        self.assertEqual(len(self.read(document(ONE), document(TWO))), 2)

    def test_fault(self) -> None:
        """A thread that fails fails those who wait, and is tried again for the next; the turn is not lost."""
        self.thread.held = True
        first, second = self.start(document(ONE)), self.start(document(TWO))
        self.thread.waiting.pop()[1].errback(MemoryError())
        self.failureResultOf(first, MemoryError)
        self.thread.go_on()
        self.assertEqual(self.successResultOf(second), {TWO: Paper(("two",))})
        self.thread.held = False
        self.assertEqual(self.read(document(ONE)), {ONE: Paper(("one",))})

    def test_memory(self) -> None:
        """What was not asked for longest is forgotten when there is no more room."""
        self.reader = DocumentReader(self.thread, memory=130)
        for data in (ONE, TWO, ONE, THREE, ONE):
            self.read(document(data))
        self.assertEqual(self.thread.ran, 3)
        self.read(document(TWO))
        self.assertEqual(self.thread.ran, 4)

    def test_too_large_to_remember(self) -> None:
        """A document larger than all the room is read, not remembered, and drives nothing else out."""
        large = text_of(pdf("x" * 200))
        self.reader = DocumentReader(self.thread, memory=130)
        for data in (ONE, large, large, ONE):
            self.assertEqual(len(self.read(document(data))), 1)
        self.assertEqual(self.thread.ran, 3)

    @given(st.lists(st.sampled_from([ONE, TWO, THREE, "abcde"]), max_size=4), st.integers(0, 400))
    def test_any(self, asked: list[str], memory: int) -> None:
        """Whatever is asked for and however little room there is, each document of a request has its answer."""
        reader = DocumentReader(FakeThread(), memory=memory)
        for _ in range(2):
            papers = self.successResultOf(Deferred.fromCoroutine(reader.read(asking(*map(document, asked)), False)))
            self.assertEqual(set(papers), set(asked))

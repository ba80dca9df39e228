"""Which slot of a server a conversation is answered in (issue 5, part 3)."""

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.slots import SlotBook


class SlotBookTests(SynchronousTestCase):
    """Slots are kept for those that had them."""

    def test_one(self) -> None:
        """Where there is but one there is nothing to choose."""
        for count in (0, 1):
            self.assertIsNone(SlotBook(count).take(1))

    def test_sticky(self) -> None:
        """A conversation is answered where it was answered before, whatever came between."""
        book = SlotBook(3)
        first = book.take(1)
        assert first is not None
        book.give_back(first)
        for thread in (2, 3):
            other = book.take(thread)
            assert other is not None
            book.give_back(other)
        self.assertEqual(book.take(1), first)

    def test_side(self) -> None:
        """Small requests share a slot among them, and leave that of the conversation alone."""
        book = SlotBook(2)
        main = book.take(1)
        assert main is not None
        book.give_back(main)
        sides = []
        for thread in range(2, 6):
            side = book.take(thread, side=True)
            assert side is not None
            sides.append(side)
            book.give_back(side)
        self.assertEqual(set(sides), {1 - main})
        self.assertEqual(book.take(1), main)

    def test_least_recently_used(self) -> None:
        """A new conversation gets the slot that was used longest ago."""
        book = SlotBook(2)
        for thread in (1, 2, 1):
            number = book.take(thread)
            assert number is not None
            book.give_back(number)
        self.assertEqual(book.take(3), 1)
        self.assertEqual(book.take(1), 0)

    def test_busy(self) -> None:
        """A busy slot is never named: whoever names one waits for it, though another may be free first."""
        book = SlotBook(2)
        self.assertEqual([book.take(1), book.take(2), book.take(3), book.take(1)], [0, 1, None, None])
        book.give_back(1)
        self.assertEqual(book.take(3), 1)

"""Our `define` and `frozen` beside those of attrs."""

import linecache
import subprocess
import sys
from typing import Any

import attrs
from attrs import field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model import kinds

CLASSES = ["Value", "Machine", "Derived", "Named", "Silent", "Folded"]
TEXTS = ["a", "A", "b"]
#: What the whole house must not keep once it is imported.
_LOOK = """
import linecache
import claudeproxy.service.tree
kept = [name for name in linecache.cache if "claudeproxy" in name]
assert not kept, kept
"""


def _classes(define: Any, frozen: Any) -> dict[str, Any]:
    """The same classes by either decorator."""

    @frozen
    class Value:
        plain: Any
        hidden: Any = field(default=1, repr=False)
        shortened: str = field(default="a long text", repr=lambda value: value[:3])

    @define(eq=False)
    class Machine:
        _inner: Any
        late: int = field(init=False)

    @frozen
    class Derived(Value):
        more: Any = None

    @define
    class Named:
        name: str

        def __repr__(self) -> str:
            return "its own words"

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self)

        def __hash__(self) -> int:
            return 1

    @define(repr=False)
    class Silent:
        name: str

    @frozen
    class Folded:
        text: str = field(eq=str.lower)
        beside: int = field(default=0, eq=False)

    return {each.__name__: each for each in (Value, Machine, Derived, Named, Silent, Folded)}


class KindsTests(SynchronousTestCase):
    """What a class gets, and what it does not."""

    @given(st.sampled_from(["Value", "Machine", "Derived", "Named"]), st.text() | st.integers() | st.lists(st.none()))
    def test_shown(self, name: str, value: Any) -> None:
        """An instance is shown in attrs' own words."""
        ours, theirs = (_classes(*pair)[name] for pair in ((kinds.define, kinds.frozen), (attrs.define, attrs.frozen)))
        self.assertEqual(repr(ours(value)), repr(theirs(value)).replace("test_kinds._classes.<locals>.", ""))

    def test_not_shown(self) -> None:
        """Who wants no words gets none."""
        self.assertIn(" object at 0x", repr(_classes(kinds.define, kinds.frozen)["Silent"]("secret")))

    def test_around(self) -> None:
        """One that holds itself can be shown, as attrs shows it."""
        for define in (kinds.define, attrs.define):
            machine = _classes(define, attrs.frozen)["Machine"](None)
            machine._inner = machine
            self.assertEqual(repr(machine), "Machine(_inner=..., late=NOTHING)")

    @given(st.sampled_from(CLASSES), st.sampled_from(CLASSES), st.sampled_from(TEXTS), st.sampled_from(TEXTS))
    def test_compared(self, one: str, other: str, mine: str, his: str) -> None:
        """Two instances are equal where attrs' are, and have the same hash then."""
        ours, theirs = _classes(kinds.define, kinds.frozen), _classes(attrs.define, attrs.frozen)
        found, expected = ((each[one](mine), each[other](his)) for each in (ours, theirs))
        self.assertEqual(found[0] == found[1], expected[0] == expected[1])
        self.assertEqual(found[0] != found[1], expected[0] != expected[1])
        self.assertEqual(found[0] == mine, expected[0] == mine)
        if type(expected[0]).__hash__ is None:
            self.assertRaises(TypeError, hash, found[0])
        elif found[0] == found[1]:
            self.assertEqual(hash(found[0]), hash(found[1]))

    def test_beside(self) -> None:
        """What does not count when it is compared does not count in the hash."""
        folded = _classes(kinds.define, kinds.frozen)["Folded"]
        self.assertEqual({folded("A", 1), folded("a", 2)}, {folded("a")})

    def test_otherwise_alike(self) -> None:
        """All else is as attrs makes it: slots, fields, what is hashable, frozenness."""
        ours, theirs = _classes(kinds.define, kinds.frozen), _classes(attrs.define, attrs.frozen)
        for name, one in ours.items():
            other = theirs[name]
            self.assertEqual(one.__slots__, other.__slots__)
            self.assertEqual(one.__hash__ is None, other.__hash__ is None)
            self.assertEqual([each.name for each in attrs.fields(one)], [each.name for each in attrs.fields(other)])
            self.assertEqual(attrs.has(one), attrs.has(other))
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            ours["Value"]("x").plain = "y"
        self.assertEqual(attrs.evolve(ours["Value"]("x"), plain="y"), ours["Value"]("y"))

    def test_no_source(self) -> None:
        """The source of what attrs writes is not kept."""
        before = set(linecache.cache)
        _classes(kinds.define, kinds.frozen)
        self.assertEqual(set(linecache.cache) - before, set())
        subprocess.run([sys.executable, "-c", _LOOK], check=True, timeout=60)

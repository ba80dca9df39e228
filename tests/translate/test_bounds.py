"""Which bounds go into a grammar (PROTOCOL 7.7.19; each row was tried with llama.cpp's compiler)."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.bounds import unheld
from claudeproxy.translate.schemas import cleaning
from claudeproxy.wire.json import decode

TEXT, LIST, WHOLE = {"type": "string"}, {"type": "array"}, {"type": "integer"}


class BoundsTests(SynchronousTestCase):
    """`unheld`, and what `cleaning` makes of it."""

    def assert_held(self, *schemas: dict[str, Any]) -> None:
        for schema in schemas:
            self.assertEqual(unheld(schema), {}, schema)

    def assert_lost(self, *schemas: dict[str, Any]) -> None:
        """All bounds of each of these go, and that is told."""
        for schema in schemas:
            bounds = dict.fromkeys([name for name in schema if name != "type"], True)
            self.assertEqual(unheld(schema), bounds, schema)

    def test_counts(self) -> None:
        """Small counts are held; those that would be written out at length, and those that are none, are not."""
        self.assert_held(LIST | {"minItems": 1, "maxItems": 64}, TEXT | {"minLength": 0, "maxLength": 512})
        self.assert_lost(LIST | {"maxItems": 65}, LIST | {"minItems": 2000}, TEXT | {"maxLength": 513})
        for count in (-1, 2.5, 3.0, "3", None, True, 10**30):
            self.assert_lost(TEXT | {"minLength": count}, LIST | {"minItems": count})

    def test_what_nothing_fits(self) -> None:
        """A lower bound above the upper one would keep the server at work for ever."""
        self.assert_held(LIST | {"minItems": 3, "maxItems": 3}, WHOLE | {"minimum": 3, "maximum": 3})
        self.assert_lost(
            LIST | {"minItems": 5, "maxItems": 3},
            TEXT | {"minLength": 5, "maxLength": 3},
            WHOLE | {"minimum": 3, "maximum": 2},
            WHOLE | {"exclusiveMinimum": 3, "exclusiveMaximum": 4},
            WHOLE | {"minimum": 1, "exclusiveMaximum": 1},
        )

    def test_boundless(self) -> None:
        """An upper bound that no answer reaches goes without a word."""
        self.assertEqual(unheld(TEXT | {"maxLength": 524_288}), {"maxLength": False})
        self.assertEqual(unheld(TEXT | {"minLength": 524_288}), {"minLength": True})

    def test_numbers(self) -> None:
        """Bounds of integers are held as far as they are such themselves."""
        self.assert_held(
            WHOLE | {"minimum": 0, "maximum": 2**53},
            WHOLE | {"exclusiveMinimum": 3, "exclusiveMaximum": 5},
            {"type": "number", "minimum": 0.5, "maximum": 0.1},
        )
        for bound in (2**63, -(2**63), 0.5, "3", None, True, 1e300):
            self.assert_lost(WHOLE | {"maximum": bound}, WHOLE | {"exclusiveMinimum": bound})

    def test_formats(self) -> None:
        """Of formats those are held that every compiler knows or leaves alone."""
        self.assert_held(*(TEXT | {"format": name} for name in ("date", "time", "date-time", "uuid", "uri", "email")))
        self.assert_held({"type": ["string", "null"], "format": "date"})
        self.assert_lost({"format": "uri"}, TEXT | {"format": "rubbish"}, WHOLE | {"format": "date"})
        self.assert_lost(TEXT | {"format": ["date"]}, TEXT | {"format": None})

    def test_patterns(self) -> None:
        """Of expressions those are held that mean the same to everybody, and no text of theirs needs an escape."""
        plain = ("^wf_[a-z0-9-]{6,}$", "^[A-Z]$", "^a{2,2}b{0,3}$", "^a/b*$", "^[A-Za-z_0-9-]{1,3}/x?$")
        self.assert_held(*(TEXT | {"pattern": each} for each in plain))
        other = (
            *("[a-z]+", "^a", "a$", "^$", "^.*$", '^[^"]*$', "^(a|b)$", "^a+?$", r"^\d$", "^[z-a]$", "^[a-]-b]$"),
            *("^a{5,3}$", "^a{5000}$", "^[a$", "^*$", "^a**$", "^(?!x)a$", "^\n$", "^a$\n", "^[]$"),
        )
        self.assert_lost(*(TEXT | {"pattern": each} for each in other))
        self.assert_lost({"pattern": "^a$"}, WHOLE | {"pattern": "^a$"}, TEXT | {"pattern": 3})

    def test_schema(self) -> None:
        """They go at any depth where there is a grammar, and nowhere else; a property may be called like them."""
        inner = {"maxLength": TEXT | {"maxLength": 9000, "minLength": 1}, "pattern": TEXT | {"pattern": "^a"}}
        schema = {"type": "object", "properties": inner}
        found = cleaning(schema, "grammar")
        self.assertEqual(decode(found.json)["properties"], {"maxLength": TEXT | {"minLength": 1}, "pattern": TEXT})
        self.assertEqual(found.lost, (".maxLength", ".pattern"))
        self.assertEqual(decode(cleaning(schema, "full").json), schema)

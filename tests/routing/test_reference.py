"""What the documents say about the settings is what the declarations say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.routing.cells import dialect_cells
from claudeproxy.routing.reference import dialects, reference
from claudeproxy.routing.sources import Sources, declared, settle
from claudeproxy.translate.dialects import DIALECTS

ROOT = Path(__file__).parents[2]


class ReferenceTests(SynchronousTestCase):
    def test_a_row_for_each_setting(self) -> None:
        """Every setting has one row with its names, type, default and meaning."""
        heading, rule, *rows = reference().splitlines()
        self.assertEqual(len(rows), len(declared()))
        for row in (heading, rule, *rows):
            self.assertEqual(len(re.split(r"(?<!\\)\|", row)), 8, row)
        self.assertIn(
            "| `port` | `PORT` | `--port` | a whole number from 0 to 65535 | `8080` | The port to listen on; 0 is any "
            "free one. |",
            rows,
        )
        self.assertTrue(any(row.startswith("| `backends.NAME.api_key` | `PROVIDER_API_KEY` |  |") for row in rows))

    def test_readme(self) -> None:
        """The README holds exactly this table."""
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        self.assertIn(f"\n\n{reference()}\n", readme)
        self.assertIn(f"\n\n{dialects()}\n", readme)

    def test_a_row_for_each_dialect(self) -> None:
        """Every dialect has a row with the cells in which it differs; what is shown could stand in a settings file."""
        rows = dialects().splitlines()[2:]
        self.assertEqual(len(rows), len(DIALECTS))
        for row in rows:
            name, *cells = re.findall(r"`([^`]+)`", row)
            told = tomllib.loads("\n".join(cells))
            chosen = dialect_cells().read(told)
            shown = {cell: getattr(DIALECTS[name], cell) for cell, _ in chosen}
            self.assertEqual(dict(chosen), shown)


class EnvironmentExampleTests(SynchronousTestCase):
    def setUp(self) -> None:
        lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
        pairs = [line.removeprefix("#").partition("=") for line in lines if re.match(r"#?[A-Z_]+=", line)]
        self.example = {name: value.strip("'") for name, _, value in pairs}

    def test_names(self) -> None:
        """`.env.example` names every environment variable, and no other."""
        self.assertEqual(set(self.example), {each.env for each in declared()})

    def test_values(self) -> None:
        """Its values are good ones, and where a setting has a default that is what it shows."""
        settled = settle(Sources(environ=self.example))
        self.assertEqual(settled.settings.backends[0].base_url, "http://127.0.0.1:8000/v1")
        for each in declared():
            if isinstance(each.default, int):
                self.assertEqual(self.example[each.env], str(each.default).lower())

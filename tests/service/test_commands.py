"""The commands beside twistd: what they print, and the statuses that they end with."""

import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model import problems as problem_makers
from claudeproxy.model.problems import Problem
from claudeproxy.routing.expectations import Secret
from claudeproxy.routing.settings import Settings
from claudeproxy.service import command_check, command_env, command_why, trace_parts
from claudeproxy.service.asking import Daemon, NetworkCommand, NoAnswer, address_of
from claudeproxy.service.claude_env import Facts, as_shell, notes, variables
from claudeproxy.service.commands import COMMANDS, DONE, FAILED, MISUSED, main
from claudeproxy.service.explaining import OUTCOMES
from tests.fakes.house import BACKEND_PORT, House, body
from tests.fakes.network import Network
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import Cut, Script, Wait, error, json_body, llama_text, text

BACKEND = f"http://127.0.0.1:{BACKEND_PORT}"
SESSION = {"x-claude-code-session-id": "0123456789abcdef"}


class Ran:
    """What a command did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandCase(SynchronousTestCase):
    """Commands at work in a network in memory."""

    def setUp(self) -> None:
        self.environ: dict[str, str] = {}
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for module in (command_check, command_env, command_why):
            self.patch(module, "here", lambda: (self.environ, self.folder))

    def run_in(self, network: Network, command: NetworkCommand, *arguments: str) -> Ran:
        """The command with these arguments, to its end."""
        out, err = io.StringIO(), io.StringIO()
        command.parseOptions(arguments)
        done = Deferred.fromCoroutine(command.act(network, out, err))
        network.pass_time(15)
        return Ran(self.successResultOf(done), out.getvalue(), err.getvalue())


class LineTests(SynchronousTestCase):
    """The command line."""

    def run_line(self, *arguments: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        return Ran(main(arguments, out, err), out.getvalue(), err.getvalue())

    def test_version(self) -> None:
        """`--version` is claudeproxy's own, before and behind a command."""
        for arguments in (("--version",), *((name, "--version") for name, *_ in COMMANDS)):
            ran = self.run_line(*arguments)
            self.assertEqual(ran.status, DONE)
            self.assertRegex(ran.out, r"^claudeproxy \S")
            self.assertNotIn("Twisted", ran.out)

    def test_misused(self) -> None:
        """What cannot be understood is said, with the status for it."""
        for arguments, words in (
            ((), "check, env"),
            (("whence",), "whence"),
            (("why",), "--last"),
            (("why", "--last", "req_1"), "--last"),
            (("why", "req_1", "req_2"), "one request"),
            (("env", "--json", "--export"), "not both"),
            (("check", "--nonsense"), "nonsense"),
        ):
            ran = self.run_line(*arguments)
            shell = "false\n" if "env" in arguments else ""
            self.assertEqual((ran.status, ran.out), (MISUSED, shell), arguments)
            self.assertIn(words, ran.err)
        for arguments in (("check", "--json", "--nonsense"), ("why", "--json")):
            ran = self.run_line(*arguments)
            self.assertEqual((ran.status, len(ran.json["faults"])), (MISUSED, 1))

    def test_broken(self) -> None:
        """Whatever happens to `env`, the shell stops."""
        out = io.StringIO()
        self.patch(command_env.Command, "run", lambda self, out, err: 1 // 0)
        self.assertRaises(ZeroDivisionError, main, ("env",), out, io.StringIO())
        self.assertEqual(out.getvalue(), "false\n")

    def test_encoding(self) -> None:
        """What the output's encoding does not have is spelt otherwise."""
        written = io.BytesIO()
        with io.TextIOWrapper(written, "ascii") as out:
            status = main(("units", "--prefix=/nowhere/\u00e9\udcff"), out, out)
            out.flush()
            self.assertEqual(status, FAILED)
            self.assertIn(b"/nowhere/\\xe9\\udcff", written.getvalue())

    def test_reactor(self) -> None:
        """Each command runs its own reactor, and its status is the process's."""
        environ = {**os.environ, "PORT": "1", "PROVIDER": "openai", "PROVIDER_BASE_URL": "http://127.0.0.1:1/v1"}
        root = str(Path(__file__).parents[2])
        for command, status in (("check", FAILED), ("env", FAILED), ("why --list", FAILED), ("why", MISUSED)):
            done = subprocess.run(
                [sys.executable, "-m", "claudeproxy", *command.split()],
                env={**environ, "PYTHONPATH": root},
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_pipe(self) -> None:
        """Who reads no further, such as `head`, gets no traceback."""
        root = str(Path(__file__).parents[2])
        done = subprocess.run(
            f"{sys.executable} -m claudeproxy check --help | true",
            shell=True,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.stderr, "")


class WhyTests(CommandCase):
    """`why`."""

    def setUp(self) -> None:
        super().setUp()
        self.house = House("llama.cpp", models={"sonnet": "qwen"})

    def why(self, *arguments: str) -> Ran:
        return self.run_in(self.house.network, command_why.Command(), *arguments)

    def test_story(self) -> None:
        """Route, rewrites, waits, tokens and outcome, in sentences."""
        steps = llama_text("a", prompt=40, cached=30).steps
        self.house.fake.plays(Script(steps=[Wait(15), *steps]))
        caller = self.house.ask("POST", "/v1/messages", body(stop_sequences=["x"], zork=1), SESSION)
        self.house.pass_time(16)
        ran = self.why(caller.headers["request-id"])
        self.assertEqual((ran.status, ran.err), (DONE, ""))
        for words in (
            f"{caller.headers['request-id']}: POST /v1/messages",
            "claude-sonnet-4-5 is qwen at fake, because the model map has an entry for its family",
            "not sent, because the backend has no use for it: zork",
            "in the backend's stead: stop_sequences",
            "1 messages, 0 tools",
            "sent after 0.000 s to http://127.0.0.1:9000",
            "first token after 15.000 s",
            "begun after 2.000 s, before the backend had said anything",
            "kept waiting by 1 pings",
            "40 in, 30 of them cached",
            "a conversation that begins",
            "status 200 after 15.000 s",
            "the model came to its end",
        ):
            self.assertIn(words, ran.out)

    def test_failures(self) -> None:
        """A repetition, and what the client was told."""
        self.house.fake.plays(Script(steps=[Cut()]))
        self.house.fake.plays(error(429, {"error": {"message": "not so fast"}}))
        self.house.ask("POST", "/v1/messages", body())
        ran = self.why("--last")
        self.assertIn("because the connection was stale", ran.out)
        self.assertIn("the backend refused", ran.out)
        self.assertIn("not so fast", ran.out)

    def test_untold_counts(self) -> None:
        """A cache that nobody told of is not compared with what it should have held."""
        self.house.fake.plays(llama_text("a", prompt=4000, cached=30))
        self.house.fake.plays(error(400, {"error": {"message": "no"}}))
        for _ in range(2):
            self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.assertIn("the backend did not tell its counts\n", self.why("--last").out)

    def test_every_outcome(self) -> None:
        """Each word for how a request ended has a sentence, those of Anthropic's stop reasons too."""
        problems = [
            each(**{name: 1 if name != "message" else "" for name in signature(each).parameters})
            for each in vars(problem_makers).values()
            if isfunction(each) and each.__annotations__.get("return") is Problem
        ]
        self.assertGreater(len(problems), 15)
        self.assertEqual({each.outcome for each in problems} - OUTCOMES.keys(), set())

    def test_joined(self) -> None:
        """What was asked of the backend before the request came is told so."""
        self.house.reset(interrupt_ms=1000, grace_ms=0)
        self.house.fake.plays(Script(steps=[Wait(5), *llama_text("a").steps]))
        first = self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(2)
        first.vanish()
        self.house.ask("POST", "/v1/messages", body(), SESSION)
        self.house.pass_time(4)
        self.assertIn("sent 2.000 s before to http", self.why("--last").out)

    def test_no_role(self) -> None:
        """Messages that are none are told, too."""
        self.house.ask("POST", "/v1/messages", body(messages="Hi"))
        self.assertIn("the last message is nobody's: text (2)", self.why("--last").out)

    def test_terminal(self) -> None:
        """Nothing that a server says is an order to the terminal."""
        self.house.fake.plays(error(429, {"error": {"message": "a\x1b]0;canary\x07\nb\x9b31m"}}))
        self.house.ask("POST", "/v1/messages", body(), {"user-agent": b"x\x1b[2Jy"})
        out = self.why("--last").out
        self.assertIn("canary", out)
        self.assertTrue(all(each.isprintable() for each in out.split("\n")))

    def test_cache_break(self) -> None:
        """Where a prefix broke, and why."""
        for answer in ("Ho", "Changed"):
            said = [("user", "Hi"), ("assistant", answer), ("user", "And?"), ("assistant", "Yes"), ("user", "So?")]
            self.house.fake.plays(llama_text("a", prompt=4000, cached=30))
            messages = [{"role": role, "content": words} for role, words in said]
            self.house.ask("POST", "/v1/messages", body(messages=messages), SESSION)
        out = self.why("--last").out
        self.assertIn("not the request before it with more at its end: assistant message changed (at message 1)", out)
        self.assertRegex(out, r"\d+% of it could still have been cached")

    def test_list(self) -> None:
        """One line each, the newest first."""
        self.assertIn("No request", self.why("--list").out)
        for _ in range(3):
            self.house.chat(text("a"))
        lines = self.why("--list", "--limit=2").out.splitlines()
        self.assertEqual(len(lines), 2)
        self.assertIn("claude-sonnet-4-5 -> fake/qwen", lines[0])

    def test_json(self) -> None:
        """All of it, for programs."""
        self.house.chat(text("a"))
        self.assertEqual(self.why("--last", "--json").json["route"]["model"], "qwen")

    def test_unknown(self) -> None:
        """A request that is not known, a daemon that is not there, an address that is none, settings that are wrong."""
        for arguments, status, words in (
            (("req_x",), FAILED, "not known"),
            (("--last", "--url=http://127.0.0.1:1"), FAILED, "no daemon answers at http://127.0.0.1:1"),
            (("--last", "--url=localhost:8080"), FAILED, "expected an address"),
            (("--last", "--url=http://[::1"), FAILED, "expected an address"),
            (("--last", "--url=http://x:99999"), FAILED, "expected an address"),
            (("--last", "--url=http://"), FAILED, "expected an address"),
            (("--last", "--config=none.toml"), MISUSED, "cannot be read"),
        ):
            ran = self.why(*arguments)
            self.assertEqual((ran.status, ran.out), (status, ""), arguments)
            self.assertIn(words, ran.err)

    def test_not_ours(self) -> None:
        """Another server's JSON is no record of ours; nor are its words an order to a terminal."""
        for said in ({"data": [1]}, {"x": []}, {"data": [{"id": "x"}]}, [], 7):
            others = {
                ("GET", f"/admin/requests{end}"): lambda body, said=said: json_body(said) for end in ("", "/last")
            }
            house = House(others=others)
            for arguments in (("--list",), ("--last",), ("--last", "--json")):
                ran = self.run_in(house.network, command_why.Command(), *arguments, f"--url={BACKEND}")
                self.assertEqual(ran.status, FAILED, (said, arguments))
                self.assertIn("no claudeproxy", ran.err)
        evil = {"error": {"message": "\x1b[31mred\x9b\u202e\nand more"}}
        house = House(others={("GET", "/admin/requests/last"): lambda body: error(400, evil)})
        ran = self.run_in(house.network, command_why.Command(), "--last", f"--url={BACKEND}")
        self.assertTrue(all(line.isprintable() for line in ran.err.split("\n")), ran.err)
        ran = self.run_in(house.network, command_why.Command(), "--last", "--json", f"--url={BACKEND}")
        self.assertTrue(ran.out.isascii())

    def test_no_key_shown(self) -> None:
        """Neither what asks a daemon nor what is known of it shows the key."""
        daemon = Daemon.at("http://127.0.0.1:1", "canary", Network())
        self.assertNotIn("canary", repr(daemon) + repr(Facts("http://h", {}, "canary")))

    def test_key(self) -> None:
        """An admin key comes from the command line or the environment; the settings may know no more than its hash."""
        self.house.reset(admin_keys=(Secret("admin-key"),), recorder_content=True)
        self.house.chat(text("a"))
        self.assertIsNone(self.why("--last", "--json").json["content"])
        self.assertIn("request", self.why("--last", "--json", "--key=admin-key").json["content"])
        self.environ["CLAUDEPROXY_KEY"] = "admin-key"
        self.assertIn("request", self.why("--last", "--json").json["content"])
        self.environ["CLAUDEPROXY_KEY"] = "wrong"
        self.assertIsNone(self.why("--last", "--json").json["content"])


def llama(window: int = 32_768, tools: bool = True) -> dict[tuple[str, str], Any]:
    """What llama.cpp tells of itself."""
    caps = {"supports_tools": tools}
    props = {"default_generation_settings": {"n_ctx": window}, "total_slots": 2, "chat_template_caps": caps}
    return {("GET", "/props"): lambda body: json_body(props)}


class CheckTests(CommandCase):
    """`check`."""

    def check(self, house: House, *arguments: str, **environ: str) -> Ran:
        self.environ |= {"PROVIDER": "openai", "PROVIDER_BASE_URL": f"{BACKEND}/v1", **environ}
        return self.run_in(house.network, command_check.Command(), *arguments)

    def house(self, **others: Any) -> House:
        house = House(**others)
        house.fake.models = ["qwen", "gemma"]
        return house

    def test_ready(self) -> None:
        """Where each backend is, what it is and who says so, its models, and where names lead."""
        house = House(others={("GET", "/props"): llama()["GET", "/props"]})
        ran = self.check(house, DEFAULT_MODEL="fake-model", PROVIDER_DIALECT="llama.cpp")
        self.assertEqual((ran.status, ran.err), (DONE, ""))
        for words in (
            f"{BACKEND}/v1",
            "speaks llama.cpp",
            "the dialect is set",
            "2 at once",
            "32768",
            "tools",
            "Ready.",
        ):
            self.assertIn(words, ran.out)
        found = self.check(house, "--json").json
        self.assertEqual(found["backends"][0]["models"][0]["window"], 32_768)
        self.assertEqual(found["targets"][0]["model"], "fake-model")
        self.assertEqual(found["faults"], [])

    def test_away(self) -> None:
        """A backend that does not answer is a fault."""
        ran = self.check(self.house(), PROVIDER_BASE_URL="http://127.0.0.1:7/v1")
        self.assertEqual(ran.status, FAILED)
        self.assertIn("fault: Backend openai cannot be reached", ran.out)
        self.assertIn("Not ready.", ran.out)

    def test_target(self) -> None:
        """So is a target that its backend does not offer."""
        ran = self.check(self.house(), MODEL_MAP_JSON='{"haiku": "gemma", "opus": "huge"}')
        self.assertEqual(ran.status, FAILED)
        self.assertIn("fault: opus leads to huge, which openai does not offer; it has qwen, gemma", ran.out)
        self.assertRegex(ran.out, r"haiku +-> +openai/gemma +offered")

    def test_warnings(self) -> None:
        """What will work badly: no default, no tools, no window, a small window."""
        self.assertIn("set default_model", self.check(self.house()).out)
        self.assertIn("its window is not told", self.check(self.house(), DEFAULT_MODEL="qwen").out)
        house = House(others={("GET", "/props"): llama(8192, tools=False)["GET", "/props"]})
        out = self.check(house, PROVIDER_DIALECT="llama.cpp", DEFAULT_MODEL="fake-model").out
        self.assertIn("its template has no place for tools", out)
        self.assertIn("too small for Claude Code's tools", out)

    def test_ollama(self) -> None:
        """Ollama with its own small window."""
        house = House(backend={"provider": "ollama", "base_url": BACKEND, "dialect": "auto"}, make_fake=FakeOllama)
        found = {"PROVIDER": "ollama", "PROVIDER_BASE_URL": BACKEND, "OLLAMA_NUM_CTX": "4096"}
        ran = self.check(house, **found)
        self.assertIn("speaks ollama", ran.out)
        self.assertIn("num_ctx = 4096 is too small", ran.out)

    def test_exposed_file(self) -> None:
        """A settings file with secrets that others can read is warned of; one without, or one's own, is not."""
        file = self.folder / "proxy.toml"
        table = f'[backends.main]\nprovider = "openai"\nbase_url = "{BACKEND}/v1"\n'
        for text_, mode, warned in (
            ('keys = ["canary"]\n' + table, 0o644, True),
            (table + 'api_key = "canary"\n', 0o640, True),
            ('keys = ["canary"]\n' + table, 0o600, False),
            (table, 0o644, False),
            (f'keys = ["sha256:{"0" * 64}"]\nadmin_keys = ["a=sha256:{"1" * 64}"]\n{table}', 0o644, False),
            (f'admin_keys = {{ a = "plain:canary" }}\n{table}', 0o640, True),
        ):
            file.write_text(text_)
            file.chmod(mode)
            self.environ.clear()
            ran = self.run_in(self.house().network, command_check.Command(), "--config=proxy.toml")
            self.assertEqual("chmod 600" in ran.out, warned, text_)
            self.assertNotIn("canary", ran.out)

    def test_no_doors(self) -> None:
        """What would keep the daemon from opening its doors is found out, too; nothing is opened for that."""
        file = self.folder / "key.pem"
        file.write_text("no key")
        for words, found in (
            ("no certificate in PEM format", {"LISTEN": f"ssl:8443:interface=127.0.0.1:privateKey={file}"}),
            ("port: expected", {"LISTEN": "tcp:99999:interface=127.0.0.1"}),
            ("Unknown endpoint type", {"ADMIN_LISTEN": "bogus:1"}),
            ("foo means nothing", {"LISTEN": "tcp:0:interface=127.0.0.1 tcp:1:interface=127.0.0.1:foo=bar"}),
            ("mode: expected", {"ADMIN_LISTEN": "unix:s.sock:mode=999"}),
            ("No such file", {"LISTEN": "unix:nowhere/s.sock"}),
            ("too long", {"LISTEN": "unix:" + "x" * 120}),
            ("a file in the socket's place", {"ADMIN_LISTEN": "unix:key.pem"}),
            ("host (HOST): ", {"HOST": "nosuchhost.invalid", "CLAUDEPROXY_KEYS": "k"}),
            ("Cannot assign", {"LISTEN": "tcp:0:interface=192.0.2.1", "CLAUDEPROXY_KEYS": "k"}),
            ("needs keys", {"LISTEN": "haproxy:tcp:0"}),
        ):
            self.environ.clear()
            ran = self.check(self.house(), **found)
            self.assertEqual((ran.status, ran.out), (MISUSED, ""), found)
            self.assertIn(words, ran.err)
        self.environ.clear()
        (self.folder / "s.sock").unlink(missing_ok=True)
        good = f"unix:{self.folder}/s.sock systemd:domain=INET:name=http tcp6:0:interface=\\:\\:1"
        ran = self.check(self.house(), LISTEN=good, CLAUDEPROXY_KEYS="k")
        self.assertEqual((ran.status, ran.err), (DONE, ""))
        self.assertFalse((self.folder / "s.sock").exists())
        self.patch(trace_parts, "_is_there", lambda package: False)
        self.assertIn("claudeproxy[otel]", self.check(self.house(), TRACING="true").err)

    def test_bad_settings(self) -> None:
        """All faults of the settings at once, and the daemon's options are taken."""
        ran = self.check(self.house(), "--host=not a host", PORT="eighty")
        self.assertEqual((ran.status, ran.out), (MISUSED, ""))
        self.assertIn("PORT", ran.err)
        self.assertIn("--host", ran.err)
        self.assertEqual(self.check(self.house(), "--json", PORT="eighty").json["settings"], "bad")


class EnvTests(CommandCase):
    """`env`."""

    def env(self, house: House, *arguments: str, **environ: str) -> Ran:
        self.environ |= environ
        return self.run_in(house.network, command_env.Command(), *arguments)

    def exported(self, ran: Ran) -> dict[str, str]:
        """The variables, as a shell takes them."""
        lines = [shlex.split(line, comments=True) for line in ran.out.splitlines()]
        return dict(words[1].split("=", 1) for words in lines if words and words[0] == "export")

    def test_from_the_daemon(self) -> None:
        """Address, key, model and window are those of the running daemon."""
        house = House("llama.cpp", others=llama(32_768), default_model="fake-model")
        found = self.exported(self.env(house, "--url=http://127.0.0.1:8080"))
        self.assertEqual(
            found,
            {
                "ANTHROPIC_BASE_URL": "http://127.0.0.1:8080",
                "ANTHROPIC_API_KEY": "none",
                "ANTHROPIC_MODEL": "fake-model",
                "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "42768",
                "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "4096",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            },
        )

    def test_small_window(self) -> None:
        """A small window needs more than it is, an eighth of it for the answer, and is too small for tools."""
        house = House("llama.cpp", others=llama(8192))
        ran = self.env(house, "--url=http://127.0.0.1:8080", "--model=fake-model")
        self.assertEqual(self.exported(ran)["CLAUDE_CODE_MAX_CONTEXT_TOKENS"], "18192")
        self.assertEqual(self.exported(ran)["CLAUDE_CODE_MAX_OUTPUT_TOKENS"], "1024")
        self.assertIn('--bare --tools ""', ran.out)

    def test_without_a_daemon(self) -> None:
        """If none runs, the backends are asked; where the map leads families elsewhere, that is said."""
        house = House("llama.cpp", others=llama(65_536))
        found = self.exported(
            self.env(
                house,
                PORT="7",
                PROVIDER="openai",
                PROVIDER_BASE_URL=f"{BACKEND}/v1",
                PROVIDER_DIALECT="llama.cpp",
                DEFAULT_MODEL="fake-model",
                MODEL_MAP_JSON='{"haiku": "small", "opus": "fake-model"}',
            )
        )
        self.assertEqual(found["CLAUDE_CODE_MAX_CONTEXT_TOKENS"], "75536")
        self.assertEqual(found["ANTHROPIC_DEFAULT_HAIKU_MODEL"], "small")
        self.assertNotIn("ANTHROPIC_DEFAULT_OPUS_MODEL", found)
        self.assertEqual(found["API_TIMEOUT_MS"], "3600000")
        self.assertEqual(found["ANTHROPIC_BASE_URL"], "http://127.0.0.1:7")

    def test_key(self) -> None:
        """A daemon with keys needs one: given, it is asked and named; else there is a place for it."""
        house = House(keys=(Secret("client-key"),))
        ran = self.env(house, "--url=http://127.0.0.1:8080")
        self.assertEqual(ran.status, FAILED)
        self.assertIn("key is needed", ran.err)
        found = self.exported(self.env(house, "--url=http://127.0.0.1:8080", CLAUDEPROXY_KEY="client-key"))
        self.assertEqual(found["ANTHROPIC_API_KEY"], "client-key")
        del self.environ["CLAUDEPROXY_KEY"]
        known = {"PROVIDER": "openai", "PROVIDER_BASE_URL": f"{BACKEND}/v1"}
        # The daemon has been started with keys that are not in these settings.
        self.assertEqual(self.exported(self.env(house, **known))["ANTHROPIC_API_KEY"], "YOUR_KEY")
        known["CLAUDEPROXY_KEYS"] = "client-key"
        self.assertEqual(self.exported(self.env(house, **known))["ANTHROPIC_API_KEY"], "YOUR_KEY")

    def test_json(self) -> None:
        """The same for programs."""
        found = self.env(House(), "--url=http://127.0.0.1:8080", "--json").json
        self.assertEqual(found["variables"]["ANTHROPIC_BASE_URL"], "http://127.0.0.1:8080")
        self.assertEqual(set(found["why"]), set(found["variables"]))

    def test_not_ours(self) -> None:
        """Another server at that address is told from a proxy."""
        ran = self.env(House(others={("GET", "/v1/models"): lambda body: json_body([])}), f"--url={BACKEND}")
        self.assertEqual((ran.status, ran.out), (FAILED, "false\n"))

    def test_failures(self) -> None:
        """Without variables the shell stops, rather than start a Claude Code that asks Anthropic; JSON says why."""
        house = House()
        for environ, options, status in (
            ({"PORT": "7", "PROVIDER": "openai", "PROVIDER_BASE_URL": "http://127.0.0.1:9/v1"}, (), FAILED),
            ({}, ("--url=http://127.0.0.1:9",), FAILED),
            ({}, ("--url=http://[::1",), FAILED),
            ({"PORT": "eighty"}, (), MISUSED),
        ):
            self.environ = dict(environ)
            ran = self.env(house, *options)
            self.assertEqual(ran.status, status)
            done = subprocess.run(["sh", "-c", 'eval "$1" && echo started', "sh", ran.out], capture_output=True)
            self.assertEqual(done.stdout, b"", ran.out)
            ran = self.env(house, *options, "--json")
            self.assertEqual(ran.status, status)
            self.assertEqual("claudeproxy: " + "\n".join(ran.json["faults"]) + "\n", ran.err)

    def test_windows(self) -> None:
        """The README's rule: below 100,000 it is 10,000 more, and an eighth for the answer, or less if the model has
        less; what the proxy counts with beats the window."""
        for window, longest, believed, told in (
            (8_192, None, 0, ("18192", "1024")),
            (32_768, 2_000, 0, ("42768", "2000")),
            (99_999, None, 0, ("109999", "12499")),
            (100_000, None, 0, ("100000", None)),
            (131_072, 8_192, 0, ("131072", "8192")),
            (32_768, None, 60_000, ("70000", "4096")),
            (32_768, None, 200_000, ("200000", None)),
        ):
            entry = {"max_input_tokens": window, "max_tokens": longest}
            settings = evolve(House().settings, client_window=believed)
            facts = Facts("http://127.0.0.1:8080", {"m": entry}, settings=settings)
            found = {each.name: each.value for each in variables(facts, "m")}
            names = ("CLAUDE_CODE_MAX_CONTEXT_TOKENS", "CLAUDE_CODE_MAX_OUTPUT_TOKENS")
            self.assertEqual(tuple(map(found.get, names)), told)

    def shell(self, facts: Facts, present: tuple[str, ...] = ()) -> str:
        return "\n".join(as_shell(list(variables(facts, present=present)), list(notes(facts))))

    def test_quoted(self) -> None:
        """Whatever a server calls its models, a shell runs none of it."""
        nasty = "x'; touch canary; echo \n touch canary\n"
        entries: Mapping[str, Mapping[str, Any]] = {nasty: {}, "other\n touch canary": {}}
        said = self.shell(Facts("http://127.0.0.1:8080", entries))
        done = subprocess.run(
            ["sh", "-c", 'eval "$1" && printf %s "$ANTHROPIC_MODEL"', "sh", said],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, nasty, ""))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_another_token(self) -> None:
        """A token for another place does not go to the proxy."""
        said = self.shell(Facts("http://127.0.0.1:8080", {}), ("ANTHROPIC_AUTH_TOKEN",))
        self.assertIn("\nunset ANTHROPIC_AUTH_TOKEN\n", said)

    def test_anthropic(self) -> None:
        """Claude Code knows Anthropic's own models better than we do."""
        facts = Facts("http://127.0.0.1:8080", {"claude-opus-4-5": {"max_input_tokens": 200_000}}, anthropic=True)
        self.assertNotIn("MODEL", self.shell(facts))

    def test_addresses(self) -> None:
        """A daemon that listens everywhere is asked on loopback."""
        for host, url in (
            ("0.0.0.0", "http://127.0.0.1:8080"),
            ("::", "http://[::1]:8080"),
            ("::1", "http://[::1]:8080"),
        ):
            settings = House(host=host, keys=(Secret("k"),)).settings
            self.assertEqual(address_of(settings), url)

    def test_several_addresses(self) -> None:
        """Of several addresses a client takes the plainest, and operators their own, sockets included."""
        ssl, plain, socket = "ssl:8443:interface=127.0.0.1", "tcp:9090", "unix:/run/a.sock"
        for listen, admin, client, operator in (
            ((ssl, plain), (), "http://127.0.0.1:9090", "http://127.0.0.1:9090"),
            ((ssl, socket), (), "https://127.0.0.1:8443", "unix:/run/a.sock"),
            ((plain,), ("tcp:9091:interface=127.0.0.1",), "http://127.0.0.1:9090", "http://127.0.0.1:9091"),
            (("tcp6:9090",), (socket,), "http://[::1]:9090", "unix:/run/a.sock"),
        ):
            settings = Settings(listen=listen, admin_listen=admin)
            self.assertEqual((address_of(settings), address_of(settings, operators=True)), (client, operator))
        self.assertRaises(NoAnswer, address_of, Settings(listen=("systemd:domain=INET:index=0",)))
        self.assertRaises(NoAnswer, address_of, Settings(listen=(socket,)))

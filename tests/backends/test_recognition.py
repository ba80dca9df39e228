"""What kind of server a backend is, and how it counts (PROTOCOL 6.2, appendix C)."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.translate.dialects import dialect_of_host
from tests.fakes.house import BACKEND_KEY, BACKEND_PORT, House, body
from tests.fakes.openai import Answer, Cut, Script, Wait, error, json_body, silent, text
from tests.stream_checker import check_stream

MODELS, PROPS = ("GET", "/v1/models"), ("GET", "/props")
COUNT, RENDER, TOKENIZE = (
    ("POST", "/v1/chat/completions/input_tokens"),
    ("POST", "/apply-template"),
    ("POST", "/tokenize"),
)
PROPERTIES = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 1}


def owned(by: object, *names: str) -> Answer:
    """A list of models with an owner."""
    return lambda _: json_body({"data": [{"id": name, "owned_by": by} for name in names or ("m",)]})


def always(script: Script) -> Answer:
    """The same answer to every request."""
    return lambda _: script


class RecognitionTests(SynchronousTestCase):
    """A backend whose dialect is ``auto``."""

    def sent(self, others: dict[tuple[str, str], Answer]) -> dict[str, Any]:
        """What is sent to a backend that answers so."""
        self.house = House("auto", others=others)
        caller = self.house.ask("POST", "/v1/messages", body())
        self.house.pass_time(30)
        self.assertTrue(check_stream(caller.body).finished)
        return dict(self.house.fake.chats[-1].json)

    def test_owner(self) -> None:
        """The word in the list of models tells."""
        self.assertIs(self.sent({MODELS: owned("llamacpp"), PROPS: always(json_body({}))})["return_progress"], True)
        self.assertNotIn("return_progress", self.sent({MODELS: owned("vllm")}))
        self.assertNotIn("top_k", self.sent({MODELS: owned("library")}))

    def test_properties(self) -> None:
        """llama.cpp under another owner's name is known by its properties."""
        self.assertIs(self.sent({PROPS: always(json_body(PROPERTIES))})["return_progress"], True)

    def test_unknown(self) -> None:
        """A server that tells nothing, or nonsense, is asked in the words that all understand."""
        for answer in (
            error(404, {"error": "no"}),
            error(500, "<html>"),
            json_body([]),
            json_body({"data": None}),
            json_body({"data": [None, 5, {"id": 7}, {"owned_by": ["llamacpp"]}, {}]}),
            Script(steps=[Cut()]),
            silent(),
            silent(headers=False),
        ):
            sent = self.sent({MODELS: always(answer)})
            self.assertNotIn("return_progress", sent)
            self.assertEqual(sent["max_tokens"], 64)

    def test_asked_once(self) -> None:
        """It is asked once, with the backend's key, however many requests wait for it."""
        house = House(
            "auto", others={MODELS: always(Script(headers={}, steps=[Wait(2), *json_body({"data": []}).steps]))}
        )
        callers = [house.ask("POST", "/v1/messages", body()) for _ in range(3)]
        house.pass_time(5)
        for caller in callers:
            self.assertTrue(check_stream(caller.body).finished)
        (asked,) = (each for each in house.fake.received if each.path == "/v1/models")
        self.assertEqual(asked.header("authorization"), f"Bearer {BACKEND_KEY}")

    def test_asked_again(self) -> None:
        """A backend that was away is asked again by the next request."""
        house = House("auto", others={MODELS: owned("llamacpp"), PROPS: always(json_body(PROPERTIES))})
        listener = house.network.listeners.pop(BACKEND_PORT)
        house.reset(
            backends=(house.settings.backends[0].__class__("again", "openai", base_url="http://127.0.0.1:9000/v1"),)
        )
        house.pass_time(10)
        house.network.listeners[BACKEND_PORT] = listener
        house.ask("POST", "/v1/messages", body())
        self.assertIs(house.fake.chats[-1].json["return_progress"], True)

    def test_models(self) -> None:
        """The models of a backend that was recognised can be asked for by their names."""
        house = House("auto", others={MODELS: owned("vllm", "one", "two/three")})
        listed = [each["id"] for each in house.ask("GET", "/v1/models").json["data"]]
        self.assertLessEqual({"one", "two/three"}, set(listed))
        house.ask("POST", "/v1/messages", body(model="two/three"))
        self.assertEqual(house.fake.chats[-1].json["model"], "two/three")

    def test_told(self) -> None:
        """The log says what was found."""
        house = House("auto", others={MODELS: owned("vllm", "one")})
        self.assertTrue([line for line in house.lines if "vllm" in line and "one" in line])


CAPS = {"supports_tools": True, "supports_system_role": True, "supports_parallel_tool_calls": True}
SHOW, PS = ("POST", "/api/show"), ("GET", "/api/ps")


class LearnedTests(SynchronousTestCase):
    """What each kind of server tells of its models, as the list of models shows it (issue 4, "Probing")."""

    def learned(self, others: dict[tuple[str, str], Answer], dialect: str = "auto", **backend: Any) -> None:
        self.house = House(dialect, backend, others)

    def entry(self, name: str) -> dict[str, Any]:
        listed = self.house.ask("GET", "/v1/models?limit=1000")
        self.house.pass_time(3)
        return next(each for each in listed.json["data"] if each["id"] == name)

    def able(self, name: str) -> dict[str, bool]:
        """The abilities that are said to be there or not."""
        return {ability: told["supported"] for ability, told in self.entry(name)["capabilities"].items()}

    def asked(self, path: str) -> int:
        return len([each for each in self.house.fake.received if each.path == path])

    def log_of(self, word: str) -> list[str]:
        return [line for line in self.house.lines if word in line]

    def test_llama(self) -> None:
        """llama.cpp: the window of a slot, the template's view, the model's eyes; one line of the log."""
        told = {
            "default_generation_settings": {"n_ctx": 4096},
            "total_slots": 2,
            "modalities": {"vision": True, "audio": False},
            "chat_template": "{% if enable_thinking %}",
            "chat_template_caps": CAPS | {"supports_parallel_tool_calls": False},
        }
        self.learned({MODELS: owned("llamacpp", "tiny"), PROPS: always(json_body(told))})
        self.assertEqual(self.entry("tiny")["max_input_tokens"], 4096)
        able = self.able("tiny")
        self.assertTrue(able["tool_use"] and able["image_input"] and able["thinking"] and not able["effort"])
        (line,) = self.log_of("speaks")
        for words in ("fake", "llama.cpp", "offers tiny", "window 4096", "2 at once", "no place for several calls"):
            self.assertIn(words, line)
        self.assertNotIn(BACKEND_KEY, line)
        self.assertEqual(self.asked("/slots"), 0)

    def test_llama_without_properties(self) -> None:
        """llama.cpp that hides its properties may show its slots."""
        slots = [{"id": 0, "n_ctx": 2048, "is_processing": False}, {"id": 1, "n_ctx": 2048, "is_processing": True}]
        self.learned({MODELS: owned("llamacpp"), ("GET", "/slots"): always(json_body(slots))})
        self.assertEqual(self.entry("m")["max_input_tokens"], 2048)
        self.assertIn("2 at once", self.log_of("speaks")[0])
        self.assertIsNone(self.entry("m")["capabilities"])
        for answer in (error(501, {"error": "no"}), json_body({}), json_body([None]), Script(steps=[Cut()])):
            self.learned({MODELS: owned("llamacpp"), ("GET", "/slots"): always(answer)})
            self.assertIsNone(self.entry("m")["max_input_tokens"])

    def test_no_tools(self) -> None:
        """A template without tools: for every request that has some a warning and a header, never silence."""
        told = PROPERTIES | {"chat_template_caps": CAPS | {"supports_tools": False}}
        self.learned({MODELS: owned("llamacpp"), PROPS: always(json_body(told))})
        tools = [{"name": "Bash", "description": "Runs", "input_schema": {"type": "object"}}]
        for count in (1, 2, 3):
            caller = self.house.ask("POST", "/v1/messages", body(tools=tools))
            self.assertIn("tools", caller.headers["x-claudeproxy-dropped"])
            self.assertNotIn("tools", self.house.fake.chats[-1].json)
            self.assertEqual(len(self.log_of("gets no tools")), count)
        self.house.ask("POST", "/v1/messages", body())
        self.assertEqual(len(self.log_of("gets no tools")), 3)
        self.assertIn("no place for tools", self.log_of("speaks")[0])
        self.assertFalse(self.able("m")["tool_use"])

    def test_router(self) -> None:
        """llama.cpp as a router: each model is asked for by its name, and never loaded by being asked."""
        properties = PROPERTIES | {"role": "router"}
        self.learned({MODELS: owned("llamacpp", "a/one", "two"), PROPS: always(json_body(properties))})
        self.house.ask("POST", "/v1/messages", body(model="a/one"))
        queries = [each.query for each in self.house.fake.received if each.path == "/props"]
        self.assertEqual(queries, ["", "model=a%2Fone&autoload=false"])
        self.assertEqual(self.entry("two")["max_input_tokens"], 4096)
        self.assertIs(self.house.fake.chats[-1].json["return_progress"], True)

    def test_vllm(self) -> None:
        """vLLM: each model has its window; no ability is told."""
        entries = [{"id": name, "owned_by": "vllm", "max_model_len": size} for name, size in (("a", 8), ("b", 9))]
        self.learned({MODELS: always(json_body({"data": entries}))})
        self.assertEqual([self.entry(name)["max_input_tokens"] for name in "ab"], [8, 9])
        self.assertIsNone(self.entry("a")["capabilities"])
        self.assertIn("windows 8 to 9", self.log_of("speaks")[0])

    def test_lmstudio(self) -> None:
        """LM Studio: its own list says more; models that cannot answer are left out."""
        told = [
            {
                "key": "a",
                "type": "llm",
                "loaded_instances": [{"id": "a", "config": {"context_length": 8192}}],
                "capabilities": {"vision": True, "trained_for_tool_use": False},
            },
            {"key": "vectors", "type": "embedding"},
        ]
        self.learned(
            {
                MODELS: owned("organization_owner", "a", "vectors"),
                ("GET", "/api/v1/models"): always(json_body({"models": told})),
            }
        )
        self.assertEqual(self.entry("a")["max_input_tokens"], 8192)
        self.assertEqual((self.able("a")["image_input"], self.able("a")["tool_use"]), (True, False))
        self.assertRaises(StopIteration, self.entry, "vectors")

    def test_lmstudio_older(self) -> None:
        """An older one answers with 200 where it has nothing; then its older list is asked."""
        older = {"data": [{"id": "a", "type": "llm", "loaded_context_length": 4096, "capabilities": ["tool_use"]}]}
        for answer in (json_body({"error": "Unexpected endpoint"}), error(404, {}), Script(steps=[Cut()])):
            self.learned(
                {
                    MODELS: owned("organization_owner", "a"),
                    ("GET", "/api/v1/models"): always(answer),
                    ("GET", "/api/v0/models"): always(json_body(older)),
                }
            )
            self.assertEqual(self.entry("a")["max_input_tokens"], 4096)
            self.assertTrue(self.able("a")["tool_use"])

    def test_openrouter(self) -> None:
        """A service that is known by its name is asked for facts, and stays what it is; its limit is obeyed."""
        entry = {
            "id": "a/b",
            "context_length": 4096,
            "top_provider": {"max_completion_tokens": 32},
            "supported_parameters": ["tools"],
            "architecture": {"input_modalities": ["text"]},
        }
        self.learned({MODELS: always(json_body({"data": [entry]}))}, "openrouter")
        told = self.entry("a/b")
        self.assertEqual((told["max_input_tokens"], told["max_tokens"]), (4096, 32))
        self.house.ask("POST", "/v1/messages", body(model="a/b", thinking={"type": "adaptive"}))
        sent = self.house.fake.chats[-1].json
        self.assertEqual(sent["max_tokens"], 32)
        self.assertNotIn("reasoning", sent)
        self.assertIn("speaks openrouter", self.log_of("speaks")[0])

    def test_ollama_compat(self) -> None:
        """Ollama's OpenAI paths: its own paths tell what the model can, and the window that it is loaded with."""
        show = {"capabilities": ["completion", "vision"], "model_info": {"x.context_length": 131072}}
        loaded = {"models": [{"name": "m:latest", "model": "m:latest", "context_length": 4096}]}
        written = show | {"parameters": 'stop "<end>"\nnum_ctx   8192\ntemperature 0.6'}
        for shown, running, window in (
            (show, loaded, 4096),
            (written, loaded, 4096),
            (written, {"models": []}, 8192),
            (show, {"models": []}, None),
            (show, [], None),
        ):
            others = {MODELS: owned("library", "m"), SHOW: always(json_body(shown)), PS: always(json_body(running))}
            self.learned(others)
            self.assertEqual(self.entry("m")["max_input_tokens"], window)
            able = self.able("m")
            self.assertEqual((able["image_input"], able["tool_use"], able["thinking"]), (True, False, False))

    def test_hosts(self) -> None:
        """A well-known host is known in any case of letters, with the root's dot and as a customer's own."""
        for host, name in (
            ("API.OpenAI.com", "openai"),
            ("openrouter.ai.", "openrouter"),
            ("api.kimi.com", "kimi"),
            ("mine.openai.azure.com", "openai"),
            ("Mine.OpenAI.Azure.com.", "openai"),
        ):
            dialect = dialect_of_host(host)
            self.assertEqual(dialect and dialect.name, name, host)
        for host in ("kimi.com.example", "notapi.kimi.com", "openai.azure.com.example", ".", "azure.com"):
            self.assertIsNone(dialect_of_host(host), host)

    def test_ollama_by_its_version(self) -> None:
        """Ollama whose models have a namespace's name for their owner, or that has none, is known by its version."""
        version = {("GET", "/api/version"): always(json_body({"version": "0.12.3"}))}
        show = {"capabilities": ["completion", "tools"], "parameters": "num_ctx 8192"}
        self.learned({MODELS: owned("someone", "someone/m"), SHOW: always(json_body(show)), **version})
        self.assertEqual(self.entry("someone/m")["max_input_tokens"], 8192)
        empties: tuple[dict[str, Any], ...] = ({"data": []}, {"object": "list", "data": None})
        for empty in empties:
            self.learned({MODELS: always(json_body(empty)), **version})
            self.assertIn("speaks ollama-compat", self.log_of("speaks")[0])

    def test_others_with_a_version(self) -> None:
        """Other servers with such a path, and those that fail on it, are not taken for Ollama."""
        path = ("GET", "/api/version")
        for owner, answer in (
            ("koboldcpp", json_body({"version": "0.7.0"})),
            ("someone", json_body({"version": "1", "commit": "c"})),
            ("someone", json_body({"version": 5})),
            ("someone", json_body({"error": "Unexpected endpoint"})),
            ("someone", json_body(["version"])),
            ("someone", error(503, {})),
            ("someone", Script(steps=[Cut()])),
        ):
            self.learned({MODELS: owned(owner, "m"), path: always(answer)})
            self.assertIn("speaks generic", self.log_of("speaks")[0])
        self.learned({MODELS: owned("vllm", "m")})
        self.assertEqual(self.asked("/api/version"), 0)

    def test_lmstudio_without_models(self) -> None:
        """LM Studio that has nothing to list is known by the path of its own list, by its shape alone."""
        path, empty = ("GET", "/api/v0/models"), {MODELS: always(json_body({"object": "list", "data": []}))}
        self.learned({**empty, path: always(json_body({"object": "list", "data": []}))})
        self.assertIn("speaks lmstudio", self.log_of("speaks")[0])
        for answer in (json_body({"error": "Unexpected endpoint"}), error(404, {"data": []}), json_body([])):
            self.learned({**empty, path: always(answer)})
            self.assertIn("speaks generic", self.log_of("speaks")[0])

    def test_settings(self) -> None:
        """The settings' cells are the last word."""
        told = PROPERTIES | {"chat_template_caps": CAPS | {"supports_tools": False}}
        cells = (("tools", "yes"),)
        self.learned({MODELS: owned("llamacpp"), PROPS: always(json_body(told))}, cells=cells)
        self.assertTrue(self.able("m")["tool_use"])

    def test_in_time(self) -> None:
        """The list of models does not wait for a backend that accepts and never answers."""
        self.learned({MODELS: always(silent(headers=False))})
        listed = self.house.ask("GET", "/v1/models")
        self.house.pass_time(2)
        self.assertTrue(listed.ended)


class CountTests(SynchronousTestCase):
    """count_tokens on llama.cpp."""

    def counted(self, others: dict[tuple[str, str], Answer]) -> tuple[int, str]:
        self.house = House("llama.cpp", others={PROPS: always(json_body(PROPERTIES)), **others})
        caller = self.house.ask("POST", "/v1/messages/count_tokens", body(stream=None, system="S"))
        self.house.pass_time(30)
        self.assertEqual(caller.status, 200)
        return caller.json["input_tokens"], caller.headers["x-claudeproxy-count-source"]

    def test_exact(self) -> None:
        """The server counts the very messages that would be sent, and none of its slots generates."""
        self.assertEqual(self.counted({COUNT: always(json_body({"input_tokens": 77}))}), (77, "exact"))
        (asked,) = (each for each in self.house.fake.received if each.path.endswith("/input_tokens"))
        self.house.ask("POST", "/v1/messages", body(system="S"))
        self.assertEqual(asked.json["messages"], self.house.fake.chats[-1].json["messages"])
        self.assertNotIn("stream", asked.json)

    def test_older(self) -> None:
        """An older server renders and tokenizes."""
        others = {RENDER: always(json_body({"prompt": "<s>Hi"})), TOKENIZE: always(json_body({"tokens": [1, 2, 3]}))}
        self.assertEqual(self.counted(others), (3, "exact"))
        (asked,) = (each for each in self.house.fake.received if each.path == "/tokenize")
        self.assertEqual((asked.json["content"], asked.json["parse_special"]), ("<s>Hi", True))

    def test_estimate(self) -> None:
        """A server that cannot, will not, or does not answer: a count is never worth an error."""
        for answer in (
            error(404, {}),
            error(501, "no"),
            json_body({"input_tokens": "7"}),
            json_body([]),
            Script(steps=[Cut()]),
            silent(),
        ):
            tokens, source = self.counted({COUNT: always(answer)})
            self.assertEqual(source, "estimate")
            self.assertGreater(tokens, 5)

    def test_unreachable(self) -> None:
        """Nor if the server is away."""
        house = House("llama.cpp")
        house.network.listeners.pop(BACKEND_PORT)
        house.pass_time(10)
        caller = house.ask("POST", "/v1/messages/count_tokens", body())
        house.pass_time(10)
        self.assertEqual(caller.headers["x-claudeproxy-count-source"], "estimate")

    def test_refused(self) -> None:
        """A request that could not be sent cannot be counted either."""
        house = House("llama.cpp")
        self.assertEqual(house.ask("POST", "/v1/messages/count_tokens", body(container="c")).status, 400)

    def test_answers(self) -> None:
        """A message is still answered while nobody can count."""
        house = House("llama.cpp")
        self.assertTrue(check_stream(house.chat(text("a")).body).finished)

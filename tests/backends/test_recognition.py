"""What kind of server a backend is, and how it counts (PROTOCOL 6.2, appendix C)."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

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
        self.assertEqual(listed, ["one", "two/three"])
        house.ask("POST", "/v1/messages", body(model="two/three"))
        self.assertEqual(house.fake.chats[-1].json["model"], "two/three")

    def test_told(self) -> None:
        """The log says what was found."""
        house = House("auto", others={MODELS: owned("vllm", "one")})
        self.assertTrue([line for line in house.lines if "vllm" in line and "one" in line])


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

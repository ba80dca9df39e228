"""Everything lossy is said (issue 3): what of a request is dropped, and what is done in another way than was asked."""

import json
from base64 import b64encode
from typing import Any, ClassVar

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chat_request import to_chat, without_thinking
from claudeproxy.translate.dialects import CHAT_DIALECTS, DIALECTS, Dialect
from claudeproxy.translate.names import shortened
from claudeproxy.translate.ollama_request import to_ollama
from claudeproxy.translate.responses_request import to_responses
from claudeproxy.translate.schemas import Cleaned, Memory, cleaned, cleaning
from claudeproxy.translate.signatures import Reasoning, sign
from claudeproxy.translate.translation import STRICT, Policy, Translation
from claudeproxy.wire.json import Raw, decode, encode
from claudeproxy.wire.requests import Parsed, parse_messages

BASE = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
LONG = "mcp__a-server__" + "x" * 60
SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
FORMAT: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
IN_WORDS = "output_config.format (asked for in words)"
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
CALL = {"type": "tool_use", "id": "a", "name": "n", "input": {}}


def tool(name: str = "Bash", **fields: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": {"type": "object"}} | fields


def parsed(**fields: Any) -> Parsed:
    return parse_messages(json.dumps(BASE | fields).encode())


def chat(dialect: str | Dialect = "generic", model: str = "m", policy: Policy = STRICT, **fields: Any) -> Translation:
    spoken = CHAT_DIALECTS[dialect] if isinstance(dialect, str) else dialect
    return to_chat(parsed(**fields).request, model, spoken, policy)


def responses(dialect: str | Dialect = "openai", **fields: Any) -> Translation:
    spoken = DIALECTS[dialect] if isinstance(dialect, str) else dialect
    return to_responses(parsed(**fields).request, "gpt-5.2", spoken)


def ollama(**fields: Any) -> Translation:
    return to_ollama(parsed(**fields).request, "m", DIALECTS["ollama"], 4096)


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content[0] if isinstance(content[0], str) else list(content)}


def turns(*content: Any) -> dict[str, Any]:
    """A request with these blocks in the user's only turn."""
    return {"messages": [user(*content)]}


def picture(kind: str, data: bytes = b"hi") -> dict[str, Any]:
    source = {"type": "base64", "media_type": kind, "data": b64encode(data).decode()}
    return {"type": "image", "source": source}


class EmulatedTests(SynchronousTestCase):
    """`Translation.emulated`: what the caller may rely on elsewhere, and the proxy or a word stands in for here."""

    def test_nothing(self) -> None:
        """A request that is sent as it was asked says nothing, in every dialect."""
        for name, dialect in CHAT_DIALECTS.items():
            choice = {"type": "any" if dialect.tool_choice == "field" else "auto"}
            self.assertEqual(chat(name, tools=[tool()], tool_choice=choice).emulated, ())
        self.assertEqual((ollama().emulated, responses().emulated), ((), ()))

    def test_stop_sequences(self) -> None:
        """Stop sequences that the proxy watches for are named, once."""
        for found in (chat(stop_sequences=["a", "b"]), ollama(stop_sequences=["a"]), responses(stop_sequences=["a"])):
            self.assertEqual((found.emulated, found.dropped), (("stop_sequences",), ()))

    def test_no_answer(self) -> None:
        """max_tokens 0 is named, because one token is generated and thrown away."""
        for found in (chat(max_tokens=0), ollama(max_tokens=0), responses(max_tokens=0)):
            self.assertEqual(found.emulated, ("max_tokens",))

    def test_named_choice(self) -> None:
        """A named tool_choice is named where the backend just gets that one tool."""
        asked: dict[str, Any] = {"tools": [tool(), tool("Read")], "tool_choice": {"type": "tool", "name": "Bash"}}
        for name, dialect in CHAT_DIALECTS.items():
            told = ("tool_choice",) if dialect.tool_choice_named == "only" else ()
            told = ("tool_choice (asked for in words)",) if dialect.tool_choice == "words" else told
            self.assertEqual(chat(name, **asked).emulated, told)
        self.assertEqual(ollama(**asked).emulated, ("tool_choice (asked for in words)",))
        self.assertEqual(ollama(**asked | {"tool_choice": {"type": "none"}}).emulated, ("tool_choice",))

    def test_one_call(self) -> None:
        """disable_parallel_tool_use is named where only the proxy keeps the first call."""
        asked: dict[str, Any] = {"tools": [tool()], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
        told = ("tool_choice.disable_parallel_tool_use",)
        for name, dialect in CHAT_DIALECTS.items():
            self.assertEqual(chat(name, **asked).emulated, () if dialect.parallel_flag else told)
        self.assertEqual((ollama(**asked).emulated, responses(**asked).emulated), (told, ()))

    def test_examples(self) -> None:
        """input_examples are named, because they are sent as words of the description."""
        found = chat(tools=[tool(input_examples=[{}]), tool("Read", input_examples=[{}])])
        self.assertEqual(found.emulated, ("tools.input_examples",))

    def test_search(self) -> None:
        """A server's search for tools is named, because all deferred tools are offered instead."""
        kind = "tool_search_tool_regex_20251119"
        found = chat(tools=[{"type": kind, "name": "s"}, tool("Cron", defer_loading=True)])
        self.assertEqual(found.emulated, (f"tools.{kind}",))

    def test_schema(self) -> None:
        """A schema that the model is only asked for in words is named, and one that is enforced is not."""
        for dialect in DIALECTS.values():
            told = () if dialect.schema_output == "json_schema" else (IN_WORDS,)
            self.assertEqual(responses(dialect, **FORMAT).emulated, told)
        self.assertEqual(ollama(**FORMAT).emulated, ())


class DroppedTests(SynchronousTestCase):
    """`Translation.dropped`: what was asked for and is not sent."""

    def lost(self, dialect: str, *blocks: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """In a chat, and in the Responses API."""
        history: dict[str, Any] = {
            "messages": [user("1"), assistant(*blocks, {"type": "text", "text": "2"}), user("3")]
        }
        return chat(dialect, **history).dropped, responses(dialect, **history).dropped

    def test_redacted(self) -> None:
        """Redacted thoughts mean nothing to another model: they are left out, and named."""
        for name in CHAT_DIALECTS:
            for found in self.lost(name, {"type": "redacted_thinking", "data": "x"}):
                self.assertEqual(found, ("redacted_thinking",))

    def test_thoughts(self) -> None:
        """Earlier thoughts are named where they do not go back to the model, however the dialect takes them."""
        entry = {"type": "reasoning.text", "text": "hm", "index": 0}
        details = THOUGHT | {"signature": sign(Reasoning("reasoning_details", [entry]))}
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
        hidden = {"type": "thinking", "thinking": "", "signature": "EqQB"}
        cipher = hidden | {"signature": sign(Reasoning("responses", item))}
        ours = hidden | {"signature": sign(Reasoning("reasoning_content", "hm"))}
        for block, name, in_chat, in_responses in (
            (THOUGHT, "generic", True, True),
            (THOUGHT, "openai", True, True),
            (THOUGHT, "llama.cpp", False, False),
            (THOUGHT, "openrouter", True, False),
            (details, "openrouter", False, False),
            (hidden, "deepseek", True, True),
            (ours, "deepseek", False, False),
            (cipher, "openai", True, False),
            (cipher, "deepseek", True, True),
            (THOUGHT | {"thinking": "", "signature": ""}, "generic", False, False),
            (hidden | {"signature": sign(Reasoning("reasoning_content"))}, "generic", False, False),
        ):
            found = [bool(names) for names in self.lost(name, block)]
            self.assertEqual(found, [in_chat, in_responses], (block, name))
        self.assertEqual(self.lost("generic", THOUGHT), (("messages.thinking",),) * 2)

    def test_citations(self) -> None:
        """Citations that a document or a search result is to have are named, here and in a tool's result; switched
        off they are not."""
        for kind, rest in (
            ("document", {"source": {"type": "text", "media_type": "text/plain", "data": "x"}}),
            ("search_result", {"source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]}),
        ):
            for enabled in (True, False):
                block = {"type": kind, "citations": {"enabled": enabled}} | rest
                result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
                told = (f"{kind}.citations",) if enabled else ()
                self.assertEqual(parsed(**turns(block)).unknown, ())
                self.assertEqual(chat(**turns(block)).dropped, told)
                self.assertEqual(chat(messages=[user("1"), assistant(CALL), user(result)]).dropped, told)

    def test_image_types(self) -> None:
        """An image that the server cannot decode is replaced by a note that says so, and named; by setting, refused."""
        for kind, told in (
            ("image/webp", ("image (image/webp)",)),
            ("image/WebP", ("image (image/webp)",)),
            ("image/png", ()),
            ("image/gif", ()),
        ):
            found = chat("llama.cpp", **turns(picture(kind)))
            self.assertEqual(found.dropped, told)
            self.assertEqual(isinstance(found.body["messages"][0]["content"], str), bool(told))
            self.assertEqual(chat("openai", **turns(picture(kind))).dropped, ())
        refuse = Policy(refuse_images=True)
        self.assertRaises(Refusal, chat, "llama.cpp", policy=refuse, **turns(picture("image/webp")))
        blind = evolve(DIALECTS["llama.cpp"], images="no")
        self.assertEqual(chat(blind, **turns(picture("image/webp"))).dropped, ("image",))

    def test_animation(self) -> None:
        """Of a GIF that moves, a server that is known to decode only the first picture shows only that; this is
        named."""
        head = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
        moving = picture("image/gif", head + b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00" + b"x" * 2000)
        told = ("image (all pictures of a GIF but the first)",)
        self.assertEqual(chat("llama.cpp", **turns(moving)).dropped, told)
        self.assertEqual(chat("llama.cpp", **turns(picture("image/gif", head + b"x" * 2000))).dropped, ())
        self.assertEqual(chat("openai", **turns(moving)).dropped, ())
        moving["source"]["data"] = "?"
        self.assertEqual(chat("llama.cpp", **turns(moving)).dropped, ())

    def test_keywords(self) -> None:
        """What a grammar cannot hold of a tool's schema, or of the answer's, is named by its keyword, once."""
        inner = {"type": "string", "pattern": "^a", "format": "tel", "$comment": "x", "minLength": 1}
        schema = SCHEMA | {"properties": {"a": inner, "b": inner, "pattern": {"maxLength": 3000}}}
        keywords = ("pattern", "format", "maxLength")
        found = chat("llama.cpp", tools=[tool(input_schema=schema)])
        self.assertEqual(found.dropped, tuple(f"tools.input_schema.{each}" for each in keywords))
        asked: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        told = tuple(f"output_config.format.schema.{each}" for each in keywords)
        self.assertEqual(chat("llama.cpp", **asked).dropped, told)
        self.assertEqual(chat("vllm", tools=[tool(input_schema=schema)], **asked).dropped, ())

    def test_loose_schema(self) -> None:
        """A schema for the answer that OpenAI does not enforce is named; so is a format without one."""
        loose: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
        self.assertEqual(chat("openai", **loose).dropped, ("output_config.format (as a wish, not enforced)",))
        self.assertEqual(chat("vllm", **loose).dropped, ())
        for format in ({"type": "json_schema"}, {"type": "yaml", "schema": SCHEMA}):
            self.assertEqual(chat("vllm", output_config={"format": format}).dropped, ("output_config.format",))

    def test_effort(self) -> None:
        """An effort that is not sent is named: where the dialect or the model has no word for it, without thinking,
        and beside a budget that takes its place."""
        told = ("output_config.effort",)
        effort: dict[str, Any] = {"output_config": {"effort": "low"}}
        asked: dict[str, Any] = {"thinking": {"type": "adaptive"}} | effort
        for name, model, lost in (
            *(("generic", "m", told), ("ollama-compat", "m", told), ("glm", "m", told), ("kimi", "kimi-k2.6", told)),
            *(("openai", "gpt-4o", told), ("openai", "gpt-5.2", ()), ("kimi", "kimi-k3", ()), ("deepseek", "m", ())),
            *(("llama.cpp", "m", ()), ("vllm", "m", ()), ("lmstudio", "m", ()), ("openrouter", "m", ())),
        ):
            self.assertEqual(chat(name, model, **asked).dropped, lost, (name, model))
            self.assertEqual(chat(name, model, **effort).dropped, told, (name, model))
        self.assertEqual((ollama(**asked).dropped, ollama(**effort).dropped), ((), told))
        self.assertEqual(responses(**asked).dropped, ())
        budget: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 9000}
        self.assertEqual(chat("openrouter", **effort | budget).dropped, told)
        self.assertEqual(chat("openai", "gpt-5.2", **asked | {"output_config": {"effort": "heroic"}}).dropped, told)

    def test_refused_thinking(self) -> None:
        """Of a model that refuses to think the budget and the effort are named; that it may think at will is not."""
        budget: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 9000}
        effort: dict[str, Any] = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
        adaptive: dict[str, Any] = {"thinking": {"type": "adaptive"}}
        for asked, told in ((budget, ("thinking",)), (effort, ("output_config.effort",)), (adaptive, ())):
            self.assertEqual(without_thinking(chat("lmstudio", **asked)).dropped, told)
        plain = chat("generic")
        self.assertIs(without_thinking(plain), plain)

    def test_limit(self) -> None:
        """An answer that may not be as long as was asked for is named with its limit."""
        short = evolve(DIALECTS["openai"], max_output=50)
        for translate in (chat, responses):
            self.assertEqual(translate(short).dropped, ("max_tokens (at most 50)",))
            self.assertEqual(translate(short, max_tokens=50).dropped, ())

    def test_budget_within_the_limit(self) -> None:
        """And so is a budget for thinking that had no room in it; one that has stays as it is."""
        asked = {"max_tokens": 64_000, "thinking": {"type": "enabled", "budget_tokens": 31_999}}
        for name, field, cut in (
            ("llama.cpp", "thinking_budget_tokens", 6000),
            ("openrouter", "reasoning", {"max_tokens": 6000}),
        ):
            short = evolve(DIALECTS[name], max_output=8000)
            found = chat(short, **asked)
            self.assertEqual((found.body["max_tokens"], found.body[field]), (8000, cut))
            self.assertEqual(found.dropped, ("max_tokens (at most 8000)", "thinking.budget_tokens (within 8000)"))
            fits = chat(short, **{**asked, "thinking": {"type": "enabled", "budget_tokens": 2000}})
            self.assertEqual(fits.dropped, ("max_tokens (at most 8000)",))


class ToolNameTests(SynchronousTestCase):
    """4.1.8 and 4.1.12: the tool that is found later is the tool that is offered."""

    reference: ClassVar = {"type": "tool_result", "tool_use_id": "a"}

    def test_reference(self) -> None:
        """A tool_reference names the tool as the model knows it, wherever the reference stands."""
        found = self.reference | {"content": [{"type": "tool_reference", "tool_name": LONG}]}
        added = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": LONG}}
        searched = {"tool_references": [{"type": "tool_reference", "tool_name": LONG}]}
        served = {"type": "tool_search_tool_result", "tool_use_id": "s", "content": searched}
        tools = [tool(LONG, defer_loading=True)]
        for history in (
            [user("1"), assistant(CALL), user(found)],
            [user("1"), {"role": "system", "content": [added]}],
            [user("1"), assistant(served), user("2")],
        ):
            body = decode(encode(chat(messages=history, tools=tools).body))
            self.assertEqual([each["function"]["name"] for each in body["tools"]], [shortened(LONG)])
            said = json.dumps(body["messages"])
            self.assertEqual((shortened(LONG) in said, LONG in said), (True, False))

    def test_order(self) -> None:
        """With a server's search all tools are offered from the beginning, in an order that no result changes; without
        one those that are loaded come last, in the order in which they were found."""
        found = [self.reference | {"content": [{"type": "tool_reference", "tool_name": name}]} for name in ("D", "B")]
        history = [user("1")]
        for result in found:
            history += [assistant(CALL), user(result)]
        tools = [tool("A"), tool("B", defer_loading=True), tool("C"), tool("D", defer_loading=True)]
        search = {"type": "tool_search_tool_bm25_20251119", "name": "s"}
        for length in (1, 3, 5):
            names = self.names(history[:length], [search, *tools])
            self.assertEqual(names, ["A", "B", "C", "D"])
        orders = [self.names(history[:length], tools) for length in (1, 3, 5)]
        self.assertEqual(orders, [["A", "C"], ["A", "C", "D"], ["A", "C", "D", "B"]])

    def names(self, history: list[Any], tools: list[Any]) -> list[str]:
        return [each["function"]["name"] for each in chat(messages=history, tools=tools).body["tools"]]


class PrefillTests(SynchronousTestCase):
    """An answer that the client began, together with wishes that are said in words."""

    begun: ClassVar[dict[str, Any]] = {"messages": [user("Hi"), assistant('{"a":')]}

    def test_schema(self) -> None:
        """The words stand before the answer that was begun, which stays the last message; no form is enforced that
        would begin it anew."""
        for name, dialect in CHAT_DIALECTS.items():
            if dialect.prefill == "refuse":
                continue
            found = chat(name, **self.begun, **FORMAT)
            said = found.body["messages"]
            self.assertEqual([each["role"] for each in said], ["user", "assistant"])
            self.assertIn("It must fit this JSON Schema", said[0]["content"])
            self.assertEqual((said[1]["content"], found.begun), ('{"a":', '{"a":'))
            self.assertNotIn("response_format", found.body)
            self.assertEqual(found.emulated, (IN_WORDS,))

    def test_other_apis(self) -> None:
        """The same in Ollama's API and in the Responses API, and where there is no user before the answer."""
        said = ollama(**self.begun, **FORMAT).body
        self.assertEqual(
            ([each["role"] for each in said["messages"]], "format" in said), (["user", "assistant"], False)
        )
        body = responses("llama.cpp", **self.begun, **FORMAT).body
        self.assertEqual([each["role"] for each in body["input"]], ["user", "user", "assistant"])
        self.assertNotIn("text", body)
        alone = chat(messages=[assistant("{")], system="S", **FORMAT).body["messages"]
        self.assertEqual([each["role"] for each in alone], ["system", "user", "assistant"])

    def test_tool_choice(self) -> None:
        """Ollama's words for a tool_choice stand before it, too."""
        found = ollama(**self.begun, tools=[tool()], tool_choice={"type": "any"})
        self.assertEqual([each["role"] for each in found.body["messages"]], ["user", "assistant"])
        self.assertIn("Answer this time with a call", found.body["messages"][0]["content"])


class ReferenceTests(SynchronousTestCase):
    """Schemas whose references bring in much."""

    words: ClassVar = [f"word number {number}" for number in range(2000)]
    schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {f"p{number}": {"$ref": "#/$defs/Words"} for number in range(100)},
        "$defs": {"Words": {"type": "string", "enum": words}},
    }

    def test_large(self) -> None:
        """A schema whose references would make it many times as large keeps them; for a grammar, any value does in
        some places, and that is named."""
        size = len(encode(self.schema))
        full = cleaning(self.schema, "full")
        self.assertEqual((decode(full.json), full.lost), (self.schema, ()))
        grammar = cleaning(self.schema, "grammar")
        self.assertLess(len(grammar.json), size + max(size, 2**16) + 1000)
        self.assertEqual((b"$ref" in bytes(grammar.json), grammar.lost), (False, (".$ref",)))
        found = chat("llama.cpp", tools=[tool(input_schema=self.schema)])
        self.assertEqual(found.dropped, ("tools.input_schema.$ref",))

    def test_one_large(self) -> None:
        """What is only referred to once is written out, however large."""
        schema = self.schema | {"properties": {"a": {"$ref": "#/$defs/Words"}}}
        for profile in ("full", "grammar"):
            found = cleaning(schema, profile)
            self.assertEqual(decode(found.json)["properties"]["a"]["enum"], self.words)
            self.assertEqual(found.lost, ())

    def test_kept(self) -> None:
        """References that stay lead somewhere, and what they lead to is cleaned like the rest."""
        bad = {"$ref": "#/$defs/Nowhere", "description": "D"}
        defs = {"Words": self.schema["$defs"]["Words"] | {"$comment": "x"}, "Next": {"$ref": "#/$defs/Words"}}
        schema = self.schema | {"properties": self.schema["properties"] | {"bad": bad}, "$defs": defs}
        found = cleaning(schema, "full")
        clean = decode(found.json)
        self.assertEqual((clean["properties"]["bad"], found.lost), ({"description": "D"}, (".$ref",)))
        self.assertEqual(clean["$defs"]["Next"], {"$ref": "#/$defs/Words"})
        self.assertNotIn("$comment", clean["$defs"]["Words"])

    def test_lost_references(self) -> None:
        """A reference to itself without end, or to nowhere, is named, and so is what is nested too deeply."""
        tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
        self.assertEqual(cleaning(tree, "full").lost, (".$ref",))
        self.assertEqual(cleaning({"properties": {"a": {"$ref": "#/x"}}}, "full").losses("s"), ["s.$ref"])
        deep: dict[str, Any] = {}
        for _ in range(300):
            deep = {"properties": {"a": deep}}
        self.assertEqual(cleaning(deep, "full").losses("s"), ["s (what is nested too deeply)"])

    def test_memory(self) -> None:
        """Schemas are remembered as long as their bytes fit, those used last above all."""
        memory = Memory(8000)
        made = {name: Cleaned(Raw(encode(name * 2000))) for name in "abc"}
        for name in "ab":
            memory.keep((b"x", name), made[name])
        memory.get((b"x", "a"))
        memory.keep((b"x", "c"), made["c"])
        found = [memory.get((b"x", name)) for name in "abc"]
        self.assertEqual(found, [made["a"], None, made["c"]])
        memory.keep((b"x" * 20_000, "d"), made["a"])
        self.assertEqual((memory.get((b"x" * 20_000, "d")), memory.size), (None, 0))
        self.assertEqual(bytes(cleaned(SCHEMA, "full")), encode(SCHEMA))


class SilentTurnTests(SynchronousTestCase):
    """A turn of the model's that holds nothing to show."""

    def test_prefix(self) -> None:
        """The head of the prompt is the same when the conversation goes on behind a turn of thoughts alone, or an empty
        one, in every dialect."""
        answered = [user("1"), assistant(CALL), user({"type": "tool_result", "tool_use_id": "a", "content": "A"})]
        for silent in (assistant(THOUGHT), assistant("")):
            for start in ([user("1")], answered):
                grown = [*start, silent, {"role": "system", "content": "S"}, user("2")]
                for dialect in DIALECTS.values():
                    for translate, field in ((chat, "messages"), (responses, "input")):
                        heads = [
                            [
                                encode(each)
                                for each in translate(dialect, messages=grown[:length], system="H").body[field]
                            ]
                            for length in (len(start), len(start) + 1, len(grown))
                        ]
                        self.assertEqual(heads[0], heads[1])
                        self.assertEqual(heads[2][: len(heads[0])], heads[0])
                        self.assertIn(b"(no answer)", heads[2][len(heads[0])])

    def test_end(self) -> None:
        """At the end of the conversation it is no answer begun, and its thoughts are named; so are those of a first
        turn."""
        for history in ([user("1"), assistant(THOUGHT)], [assistant(THOUGHT), user("1")]):
            for found in (chat("deepseek", messages=history), responses("deepseek", messages=history)):
                said = found.body.get("messages") or found.body["input"]
                self.assertEqual([each["role"] for each in said], ["user"])
                self.assertEqual((found.begun, found.dropped), ("", ("messages.thinking",)))

    def test_spoken_after_all(self) -> None:
        """Where the model speaks in the same turn after all, its words are all that is said."""
        history = [user("1"), assistant(THOUGHT), user(""), assistant("2"), user("3")]
        for found in (chat("deepseek", messages=history), responses("deepseek", messages=history)):
            said = found.body.get("messages") or found.body["input"]
            self.assertEqual([each["content"] for each in said if "role" in each], ["1", "2", "3"])


class BlockTests(SynchronousTestCase):
    """Blocks and tools that need more than this proxy has."""

    def test_container_upload(self) -> None:
        """A file for a container is refused by the name of its block, with what to do instead; never to be repeated."""
        for translate in (chat, responses, ollama):
            refusal = self.assertRaises(Refusal, translate, **turns({"type": "container_upload", "file_id": "f"}))
            problem = refusal.problem
            self.assertEqual((problem.status, problem.type), (400, "invalid_request_error"))
            self.assertEqual(problem.should_retry, False)
            self.assertIn("container_upload", problem.message)
            self.assertIn("send the file's content", problem.message)

    def test_screen(self) -> None:
        """A computer without the size of its screen is described without one."""
        for size in ({}, {"display_width_px": 1024}, {"display_width_px": None, "display_height_px": None}):
            found = chat(tools=[{"type": "computer_20251124", "name": "computer"} | size]).body["tools"][0]["function"]
            self.assertNotIn("None", found["description"])
            self.assertNotIn("screen has", found["description"])


class DemandTests(SynchronousTestCase):
    """Every `tool_choice`, where servers know none, or none while a model thinks."""

    def sent(self, dialect: str, **fields: Any) -> Translation:
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("Read", "Bash")]
        asked = {"model": "c", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
        return to_chat(parse_messages(json.dumps({**asked, **fields}).encode()).request, "m", DIALECTS[dialect])

    def test_in_words(self) -> None:
        """A server that ignores the field is asked in words, with the one tool alone if one is named."""
        for dialect in ("ollama-compat", "glm", "ollama"):
            for choice, names in (({"type": "any"}, ["Read", "Bash"]), ({"type": "tool", "name": "Bash"}, ["Bash"])):
                found = self.sent(dialect, tool_choice=choice)
                self.assertNotIn("tool_choice", found.body)
                self.assertEqual([each["function"]["name"] for each in found.body["tools"]], names)
                self.assertIn("Answer this time with a call of", str(found.body["messages"][-1]["content"]))
                self.assertEqual(found.emulated, ("tool_choice (asked for in words)",))
            self.assertEqual(self.sent(dialect, tool_choice={"type": "auto"}).emulated, ())
            none = self.sent(dialect, tool_choice={"type": "none"})
            self.assertNotIn("tools", none.body)
            self.assertFalse(none.names)

    def test_lmstudio(self) -> None:
        """LM Studio takes only words for a choice: the one tool is sent alone, and required."""
        found = self.sent("lmstudio", tool_choice={"type": "tool", "name": "Bash"})
        self.assertEqual((found.body["tool_choice"], len(found.body["tools"])), ("required", 1))

    def test_not_while_thinking(self) -> None:
        """Where a thinking model refuses a demand, the demand stands and the thinking is said to be dropped."""
        for dialect in ("deepseek", "kimi"):
            found = self.sent(dialect, tool_choice={"type": "any"}, thinking={"type": "adaptive"})
            self.assertEqual((found.body["tool_choice"], found.body["thinking"]["type"]), ("required", "disabled"))
            self.assertTrue(any(each.startswith("thinking (") for each in found.dropped))
            found = self.sent(dialect, thinking={"type": "adaptive"})
            self.assertEqual((found.body["thinking"]["type"], found.dropped), ("enabled", ()))

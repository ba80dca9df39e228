"""PROTOCOL 4.2 and 4.6 and appendices A and C, row by row: a request's fields to those of Chat Completions."""

import json
from typing import Any, ClassVar

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.problems import Refusal
from claudeproxy.translate.chat_request import to_chat, without_thinking
from claudeproxy.translate.dialects import CHAT_DIALECTS as DIALECTS
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.names import Names, shortened
from claudeproxy.translate.reply import Reply
from claudeproxy.translate.schemas import cleaned
from claudeproxy.translate.translation import STRICT, Policy, Translation
from claudeproxy.translate.web_search import is_web_search, no_results
from claudeproxy.wire.events import stream_bytes
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import parse_messages
from tests.stream_checker import Checked, check_stream

BASE = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
#: A name that OpenAI and its followers refuse.
LONG = "mcp__a-server__" + "x" * 60


def tool(name: str = "Bash", **fields: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": {"type": "object"}} | fields


def chat(
    dialect: str | Dialect = "generic", model: str = "m", *, policy: Policy = STRICT, session: str = "", **fields: Any
) -> Translation:
    spoken = DIALECTS[dialect] if isinstance(dialect, str) else dialect
    request = parse_messages(json.dumps(BASE | fields).encode()).request
    return to_chat(request, model, spoken, policy, session=session)


def body(dialect: str | Dialect = "generic", model: str = "m", **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = decode(encode(chat(dialect, model, **fields).body))
    return found


class Rows(SynchronousTestCase):
    """Common to all tests here."""

    def assertRefused(self, says: str, *args: Any, **fields: Any) -> None:
        """A clean 400 that names the field, not to be repeated."""
        problem = self.assertRaises(Refusal, chat, *args, **fields).problem
        self.assertEqual((problem.status, problem.type), (400, "invalid_request_error"))
        self.assertEqual(problem.should_retry, False)
        self.assertIn(says, problem.message)


class FieldTests(Rows):
    """The rows of 4.2 that are not about tools."""

    def test_frame(self) -> None:
        """model, system, messages and stream; and nothing that was not asked for."""
        found = body(stream=False, system="S")
        self.assertEqual(
            found,
            {
                "model": "m",
                "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
                "stream": True,
                "max_tokens": 100,
                "stream_options": {"include_usage": True},
            },
        )
        self.assertEqual(body("openai", system="S")["messages"][0], {"role": "developer", "content": "S"})

    def test_max_tokens(self) -> None:
        """max_tokens: under the preset's name, clamped to what the backend bears; 0 asks for one token."""
        for name in DIALECTS:
            field = "max_completion_tokens" if name == "openai" else "max_tokens"
            self.assertEqual(body(name)[field], 100)
            self.assertEqual(body(name, max_tokens=0)[field], 1)
            self.assertEqual(body(evolve(DIALECTS[name], max_output=64), max_tokens=128_000)[field], 64)
            self.assertEqual(len({"max_tokens", "max_completion_tokens"} & body(name).keys()), 1)
        for model in ("kimi-k3", "moonshotai/Kimi-K3-preview"):
            self.assertEqual(body("kimi", model)["max_completion_tokens"], 100)

    def test_sampling(self) -> None:
        """temperature, top_p, top_k: forwarded; dropped and named for reasoning models that refuse them."""
        asked = {"temperature": 0, "top_p": 0.5, "top_k": 7}
        for name, dialect in DIALECTS.items():
            found = chat(name, **asked)
            self.assertEqual((found.body["temperature"], found.body["top_p"]), (0, 0.5))
            self.assertEqual(found.body.get("top_k"), 7 if dialect.top_k else None)
            self.assertEqual(found.dropped, () if dialect.top_k else ("top_k",))
        for model in ("gpt-5.2", "o3", "o4-mini", "openai/gpt-5"):
            found = chat("openai", model, **asked)
            self.assertEqual(found.dropped, ("temperature", "top_p", "top_k"))
            self.assertEqual({"temperature", "top_p", "top_k"} & found.body.keys(), set())

    def test_stop_sequences(self) -> None:
        """stop_sequences: never sent, because the proxy watches for them; none is too many."""
        for name in DIALECTS:
            self.assertNotIn("stop", body(name, stop_sequences=[str(n) for n in range(9)]))

    def test_counts_of_cut_streams(self) -> None:
        """With stop sequences the counts must come on the way, where the server can give them."""
        self.assertEqual(body("vllm", stop_sequences=["a"])["stream_options"]["continuous_usage_stats"], True)
        self.assertEqual(body("llama.cpp", stop_sequences=["a"])["timings_per_token"], True)
        self.assertNotIn("timings_per_token", body("llama.cpp"))

    def test_metadata(self) -> None:
        """metadata.user_id: OpenAI gets a hash of it, and a key of the session for its cache; never the names."""
        asked: dict[str, Any] = {"metadata": {"user_id": "secret user"}, "session": "secret session"}
        for name in DIALECTS:
            found = chat(name, **asked).body
            self.assertEqual("safety_identifier" in found, name == "openai")
            self.assertEqual("prompt_cache_key" in found, name in ("openai", "kimi"))
            self.assertNotIn("secret", json.dumps({**found, "messages": []}, default=str))
            self.assertEqual(found, chat(name, **asked).body)
        self.assertLessEqual(len(chat("openai", **asked).body["safety_identifier"]), 128)

    def test_ignored(self) -> None:
        """cache_control, service_tier auto, speed, fallbacks, diagnostics and their like change nothing, silently."""
        mark = {"type": "ephemeral"}
        asked = {
            "cache_control": mark,
            "service_tier": "auto",
            "speed": "standard",
            "inference_geo": "eu",
            "diagnostics": {"previous_message_id": "msg_1"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "safeguards": {},
            "output_config": {"task_budget": {"type": "tokens", "total": 9, "remaining": 9}},
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": mark}]}],
        }
        for name in DIALECTS:
            self.assertEqual(chat(name, **asked), chat(name))

    def test_refused(self) -> None:
        """container, skills, mcp_servers, thread and files of the real service are refused by their names."""
        for field, value in (
            ("container", "c"),
            ("container", {"id": None, "skills": [{"skill_id": "pptx"}]}),
            ("mcp_servers", [{"type": "url", "name": "n", "url": "https://e.test"}]),
            ("thread", {"type": "create"}),
        ):
            for name in DIALECTS:
                self.assertRefused(field, name, **{field: value})
        for kind in ("image", "document"):
            block = {"type": kind, "source": {"type": "file", "file_id": "f"}}
            self.assertRefused(f"{kind}.source.file_id", messages=[{"role": "user", "content": [block]}])
            calls = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "n", "input": {}}]}
            result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
            turns = [*BASE["messages"], calls, {"role": "user", "content": [result]}]
            self.assertRefused(f"{kind}.source.file_id", messages=turns)

    def test_images(self) -> None:
        """image: a backend that cannot see gets a note or, by setting, the caller a 400; never a repeated 500."""
        block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
        asked = {"messages": [{"role": "user", "content": [block]}]}
        for name, dialect in DIALECTS.items():
            blind = dialect.images == "no"
            self.assertEqual(chat(name, **asked).dropped, ("image",) if blind else ())
            self.assertEqual(isinstance(body(name, **asked)["messages"][0]["content"], str), blind)
        self.assertRefused("cannot see images", "deepseek", policy=Policy(refuse_images=True), **asked)

    def test_prefill(self) -> None:
        """prefill: native, by vLLM's two fields, or refused by OpenAI."""
        turns = [*BASE["messages"], {"role": "assistant", "content": "The answer is"}]
        for name, dialect in DIALECTS.items():
            if dialect.prefill == "refuse":
                self.assertRefused("cannot continue an answer", name, messages=turns)
                continue
            found = chat(name, messages=turns)
            self.assertEqual(found.begun, "The answer is")
            self.assertEqual(found.body["messages"][-1], turns[-1])
            wanted = (True, False) if name == "vllm" else (None, None)
            fields = found.body.get("continue_final_message"), found.body.get("add_generation_prompt")
            self.assertEqual(fields, wanted)

    def test_nothing_to_say(self) -> None:
        """A conversation without any content is refused, with and without a system prompt."""
        for content in ("", [], [{"type": "text", "text": ""}]):
            self.assertRefused("messages", messages=[{"role": "user", "content": content}], system="S")


class ToolRows(Rows):
    """Tools and tool_choice."""

    def test_custom(self) -> None:
        """A custom tool is a function, whether its type is absent, null or custom; unknown fields stay behind."""
        wanted = {"name": "Bash", "description": "D", "parameters": {"type": "object", "properties": {}}}
        for kind in ({}, {"type": None}, {"type": "custom"}):
            given = tool(description="D", cache_control={"type": "ephemeral"}, eager_input_streaming=True, **kind)
            self.assertEqual(body(tools=[given])["tools"], [{"type": "function", "function": wanted}])

    def test_order(self) -> None:
        """Tools keep their order."""
        found = body(tools=[tool("b"), tool("a"), tool("c")])["tools"]
        self.assertEqual([each["function"]["name"] for each in found], ["b", "a", "c"])

    def test_examples(self) -> None:
        """input_examples: appended to the description."""
        found = body(tools=[tool(description="D", input_examples=[{"a": 1}, {}])])["tools"][0]["function"]
        self.assertEqual(found["description"], 'D\n\nExample input: {"a":1}\n\nExample input: {}')

    def test_choice(self) -> None:
        """tool_choice auto, any, tool, none, for every dialect that knows the field; llama.cpp and LM Studio get one
        tool, as they do not take the name."""
        tools = [tool("Read"), tool("Bash")]
        for name in [name for name, dialect in DIALECTS.items() if dialect.tool_choice == "field"]:
            self.assertNotIn("tool_choice", body(name, tools=tools))
            for asked, sent in (("auto", "auto"), ("any", "required"), ("none", "none")):
                found = body(name, tools=tools, tool_choice={"type": asked})
                self.assertEqual((found["tool_choice"], len(found["tools"])), (sent, 2))
            found = body(name, tools=tools, tool_choice={"type": "tool", "name": "Bash"})
            names = [each["function"]["name"] for each in found["tools"]]
            if name in ("llama.cpp", "lmstudio"):
                self.assertEqual((found["tool_choice"], names), ("required", ["Bash"]))
            else:
                self.assertEqual(found["tool_choice"], {"type": "function", "function": {"name": "Bash"}})
                self.assertEqual(names, ["Read", "Bash"])

    def test_choice_without_tools(self) -> None:
        """Without tools no choice is sent; one that needs a tool is refused, and so is a name that is none."""
        for asked in ("auto", "none"):
            self.assertEqual({"tool_choice", "tools"} & body(tools=[], tool_choice={"type": asked}).keys(), set())
        self.assertRefused("tool_choice", tool_choice={"type": "any"})
        self.assertRefused("tool_choice.name", tools=[tool()], tool_choice={"type": "tool", "name": "Read"})

    def test_parallel(self) -> None:
        """disable_parallel_tool_use: the flag where it is known, and everywhere only the first call counts."""
        for kind in ({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "Bash"}):
            for name, dialect in DIALECTS.items():
                for asked in (True, False, None):
                    found = chat(name, tools=[tool()], tool_choice=kind | {"disable_parallel_tool_use": asked})
                    self.assertEqual(found.one_call, bool(asked))
                    wanted = False if asked and dialect.parallel_flag else None
                    self.assertEqual(found.body.get("parallel_tool_calls"), wanted)

    def test_strict(self) -> None:
        """strict: OpenAI's, if the schema is in its subset; else false, which is told. Nobody else is asked."""
        closed = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
        for name, dialect in DIALECTS.items():
            for schema, strict, wanted in (
                (closed, True, True),
                (closed, False, False),
                ({"type": "object"}, True, False),
                (closed | {"properties": {"a": {"type": "object"}}}, True, False),
                (closed | {"required": []}, True, False),
            ):
                found = chat(name, tools=[tool(strict=strict, input_schema=schema)])
                function = found.body["tools"][0]["function"]
                self.assertEqual(function.get("strict"), wanted if dialect.strict_tools else None)
                lost = dialect.strict_tools and strict and not wanted
                self.assertEqual(found.dropped, ("tools.strict",) if lost else ())
        self.assertNotIn("strict", body("openai", tools=[tool()])["tools"][0]["function"])

    def test_names(self) -> None:
        """Names too long or illegal are legal on the way there, and themselves on the way back."""
        for name in (LONG, "get weather!", "größe", "a.b/c", "x" * 65):
            found = chat("openai", tools=[tool(name)], tool_choice={"type": "tool", "name": name})
            short = found.body["tools"][0]["function"]["name"]
            self.assertRegex(short, r"\A[A-Za-z0-9_-]{1,64}\Z")
            self.assertEqual(found.body["tool_choice"]["function"]["name"], short)
            self.assertEqual(found.names.restore(short), name)
        for name in ("a", "x" * 64, "mcp__a-b__c"):
            self.assertEqual(shortened(name), name)
        self.assertNotEqual(shortened("x" * 70), shortened("x" * 71))

    def test_mended_names(self) -> None:
        """Row 10: a model's change of case is undone, of a short name, too; a name nobody knows stays."""
        names = Names.of(["Bash", LONG])
        self.assertEqual([names.restore(each) for each in ("bash", "BASH", "Zsh", "")], ["Bash", "Bash", "Zsh", ""])
        self.assertEqual(names.restore(shortened(LONG).upper()), LONG)
        names = Names.of(["Bash", "bash"])
        self.assertEqual([names.restore(each) for each in ("Bash", "bash")], ["Bash", "bash"])

    def test_a_long_type(self) -> None:
        """A refusal stays short, whatever a client calls a type."""
        tools = [{"type": "x" * 5000, "name": "t"}]
        refusal = self.assertRaises(Refusal, chat, tools=tools)
        self.assertEqual(refusal.problem.message, f"tools: tool type {'x' * 100} is not available on this backend")

    def test_server_tools(self) -> None:
        """1.5: tools of Anthropic's servers are refused by their names or, by setting, dropped and told."""
        for kind in (
            *("web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "advisor_20260301"),
            *("mcp_toolset", "computer_toolset_20260801", "browser_toolset_20260801", "hologram_20270101"),
        ):
            tools = [tool(), {"type": kind, "name": "n"}]
            self.assertRefused(kind, tools=tools)
            found = chat(policy=Policy(drop_server_tools=True), tools=tools)
            self.assertEqual((len(found.body["tools"]), found.dropped), (1, (f"tools.{kind}",)))
            forced = {"type": "tool", "name": "n"}
            self.assertRefused("tool_choice", policy=Policy(drop_server_tools=True), tools=tools, tool_choice=forced)

    def test_tool_search(self) -> None:
        """1.5: a server's tool search is stood in for by all deferred tools at once."""
        for kind in ("tool_search_tool_regex_20251119", "tool_search_tool_bm25"):
            found = chat(tools=[{"type": kind, "name": "s"}, tool(), tool("Cron", defer_loading=True)])
            names = [each["function"]["name"] for each in found.body["tools"]]
            self.assertEqual((names, found.dropped), (["Bash", "Cron"], ()))

    def test_no_place_for_tools(self) -> None:
        """A template without tools: none are sent, and that is told."""
        found = chat(evolve(DIALECTS["llama.cpp"], tools="no"), tools=[tool()], tool_choice={"type": "auto"})
        self.assertEqual({"tools", "tool_choice"} & found.body.keys(), set())
        self.assertEqual(found.dropped, ("tools (the model's template has none)",))
        self.assertFalse(found.names)


class TypedToolTests(Rows):
    """Appendix A: the schemas of tools that come without one."""

    def function(self, **fields: Any) -> tuple[dict[str, Any], list[str]]:
        """Properties and required fields of the only tool."""
        found = body(tools=[fields])["tools"][0]["function"]
        self.assertEqual(found["name"], fields["name"])
        self.assertTrue(found["description"])
        return found["parameters"]["properties"], found["parameters"]["required"]

    def test_bash(self) -> None:
        """bash: command or restart."""
        for kind in ("bash_20241022", "bash_20250124"):
            found, required = self.function(type=kind, name="bash")
            kinds = {name: each["type"] for name, each in found.items()}
            self.assertEqual((kinds, required), ({"command": "string", "restart": "boolean"}, []))

    def test_editor(self) -> None:
        """The text editor: undo_edit only in the older ones, insert_text only in the newest."""
        for kind, name, undo in (
            ("text_editor_20241022", "str_replace_editor", True),
            ("text_editor_20250124", "str_replace_editor", True),
            ("text_editor_20250429", "str_replace_based_edit_tool", False),
            ("text_editor_20250728", "str_replace_based_edit_tool", False),
        ):
            found, required = self.function(type=kind, name=name, max_characters=100)
            commands = ["view", "create", "str_replace", "insert", *["undo_edit"] * undo]
            self.assertEqual((found["command"]["enum"], required), (commands, ["command", "path"]))
            others = {"view_range", "file_text", "old_str", "new_str", "insert_line"}
            newest = {"insert_text"} if kind.endswith("0728") else set()
            self.assertEqual(found.keys(), {"command", "path"} | others | newest)
            self.assertEqual(found["view_range"]["items"], {"type": "integer"})

    def test_memory(self) -> None:
        """memory: six commands and their fields."""
        found, required = self.function(type="memory_20250818", name="memory")
        self.assertEqual(found["command"]["enum"], ["view", "create", "str_replace", "insert", "delete", "rename"])
        fields = "path view_range file_text old_str new_str insert_line insert_text old_path new_path"
        self.assertEqual((found.keys(), required), ({"command", *fields.split()}, ["command"]))

    def test_computer(self) -> None:
        """computer: ten actions, then sixteen, then zoom if it is enabled; the screen's size is in the description."""
        first = "key type mouse_move left_click left_click_drag right_click middle_click double_click screenshot"
        oldest = {*first.split(), "cursor_position"}
        more = {"hold_key", "left_mouse_down", "left_mouse_up", "triple_click", "scroll", "wait"}
        size = {"display_width_px": 1024, "display_height_px": 768}
        for kind, zoom, actions in (
            ("computer_20241022", {}, oldest),
            ("computer_20250124", {}, oldest | more),
            ("computer_20251124", {}, oldest | more),
            ("computer_20251124", {"enable_zoom": True}, oldest | more | {"zoom"}),
        ):
            given = {"type": kind, "name": "computer"} | size | zoom
            found, required = self.function(**given)
            self.assertEqual((set(found["action"]["enum"]), required), (actions, ["action"]))
            scrolls = (
                {"start_coordinate", "duration", "scroll_direction", "scroll_amount"} if more <= actions else set()
            )
            self.assertEqual(found.keys(), {"action", "coordinate", "text"} | scrolls | ({"region"} if zoom else set()))
            self.assertIn("1024 x 768", body(tools=[given])["tools"][0]["function"]["description"])


class SchemaTests(SynchronousTestCase):
    """7.7.19 and issue 3: schemas as backends can take them."""

    def clean(self, schema: Any, profile: str = "full") -> Any:
        return decode(cleaned(schema, profile))

    def test_order(self) -> None:
        """Keys keep their order, wherever the type stands, and nothing is lost that need not be."""
        schema = {
            "additionalProperties": False,
            "properties": {"z": {"description": "Z", "type": "string"}, "a": {"enum": [1, None], "default": 1}},
            "type": "object",
            "required": ["z"],
        }
        for profile in ("full", "grammar"):
            self.assertEqual(bytes(cleaned(schema, profile)), encode(schema))

    def test_frame(self) -> None:
        """Whatever comes, an object's schema goes."""
        for given in ({}, {"type": "object"}, {"type": "object", "properties": {}}, None, [], True):
            self.assertEqual(self.clean(given), {"type": "object", "properties": {}})
        self.assertEqual(self.clean({"properties": {"a": {}}}), {"type": "object", "properties": {"a": {}}})
        self.assertEqual(self.clean({"anyOf": [{}]}), {"anyOf": [{}]})

    def test_keywords(self) -> None:
        """What says nothing to a model goes, at any depth; what no grammar can hold goes where there is one."""
        inner = {
            "type": "string",
            "pattern": r"^\d+$",
            "format": "uri",
            "minLength": 1,
            "description": "D",
            "$comment": "",
        }
        schema = {"$schema": "draft", "$id": "i", "properties": {"a": inner, "b": {"items": inner, "maxItems": 3}}}
        full = {key: value for key, value in inner.items() if key != "$comment"}
        self.assertEqual(self.clean(schema)["properties"], {"a": full, "b": {"items": full, "maxItems": 3}})
        held = {key: value for key, value in full.items() if key != "pattern"}
        self.assertEqual(self.clean(schema, "grammar")["properties"], {"a": held, "b": {"items": held, "maxItems": 3}})
        self.assertNotIn("$schema", self.clean(schema))

    def test_names_are_no_keywords(self) -> None:
        """Properties may be called what they like, and data may look like schemas."""
        names = ("pattern", "format", "$ref", "$schema", "$defs", "definitions", "properties", "minItems", "type")
        schema = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in names},
            "required": list(names),
            "dependentRequired": {"pattern": ["format"]},
            "default": {"$schema": "x", "pattern": {"format": 1}},
            "enum": [{"$ref": "#/nowhere"}],
        }
        for profile in ("full", "grammar"):
            self.assertEqual(self.clean(schema, profile), schema)

    def test_references(self) -> None:
        """Local references are written out, with what stands beside them; definitions are then of no use."""
        schema = {
            "type": "object",
            "properties": {
                "a": {"$ref": "#/$defs/A", "description": "mine"},
                "b": {"type": "array", "items": {"$ref": "#/definitions/B~1C"}},
                "c": {"$ref": "#/properties/d/anyOf/1"},
                "d": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
                "e": {"$ref": "#/$defs/An%20A"},
            },
            "$defs": {"A": {"type": "string", "description": "its"}, "An A": {"type": "number"}},
            "definitions": {"B/C": {"$ref": "#/$defs/A"}},
        }
        its = {"type": "string", "description": "its"}
        self.assertEqual(
            self.clean(schema)["properties"],
            {
                "a": {"type": "string", "description": "mine"},
                "b": {"type": "array", "items": its},
                "c": {"type": "integer"},
                "d": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
                "e": {"type": "number"},
            },
        )
        self.assertEqual(self.clean(schema).keys(), {"type", "properties"})

    def test_dangling(self) -> None:
        """A reference to nowhere, or to another document, leaves what stands beside it: any value must do."""
        for reference in ("#/$defs/Nowhere", "https://e.test/schema.json", "#anchor", "", 7, "#/a/0"):
            found = self.clean({"properties": {"a": {"$ref": reference, "description": "D"}}, "a": []})
            self.assertEqual(found["properties"]["a"], {"description": "D"})

    def test_recursion_ends(self) -> None:
        """Schemas that refer to themselves, or to each other however often, end, and stay small."""

        def node(*names: str) -> dict[str, Any]:
            return {"type": "object", "properties": {name: {"$ref": f"#/$defs/{name}"} for name in names}}

        circle = {
            "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}},
            "properties": {"a": {"$ref": "#/$defs/A"}},
        }
        self.assertEqual(self.clean(circle)["properties"], {"a": {}})
        tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
        text = bytes(cleaned(tree, "full"))
        self.assertEqual((text.count(b"children"), b"$ref" in text), (3, False))
        names = [f"N{number}" for number in range(12)]
        everybody = node(*names) | {"$defs": {name: node(*names) for name in names}}
        self.assertLess(len(cleaned(everybody, "full")), 200_000)
        doubling = {f"N{n}": {"anyOf": [{"$ref": f"#/$defs/N{n + 1}"}] * 2} for n in range(40)}
        self.assertLess(len(cleaned(node("N0") | {"$defs": doubling}, "full")), 200_000)

    def test_depth(self) -> None:
        """A schema nested absurdly deep is cut, not an error."""
        schema: dict[str, Any] = {}
        for depth in range(300):
            schema = {"type": "object", "properties": {"a": schema}, "additionalProperties": False, "required": ["a"]}
            if depth == 46:  # what `nesting_limit` lets in
                allowed = schema
        self.assertLess(len(cleaned(schema, "full")), len(encode(schema)))
        self.assertEqual(
            body("openai", tools=[tool(strict=True, input_schema=allowed)])["tools"][0]["function"]["strict"], False
        )


class WebSearchTests(SynchronousTestCase):
    """4.5 and 7.6: the request of Claude Code's WebSearch, without a search engine."""

    def answer(self, *turns: tuple[str, str]) -> Checked:
        messages = [{"role": role, "content": content} for role, content in turns]
        tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]
        request = parse_messages(encode(BASE | {"messages": messages, "tools": tools})).request
        self.assertTrue(is_web_search(request))
        return check_stream(stream_bytes(no_results(request, Reply("msg_1", "m"), 10, "u1")))

    def test_honest(self) -> None:
        """The call, a result that says unavailable, and a sentence for the reader."""
        call, result, said = self.answer(("user", "Perform a web search for the query: red pandas")).content
        self.assertEqual(
            (call["type"], call["name"], call["input"]), ("server_tool_use", "web_search", {"query": "red pandas"})
        )
        self.assertEqual((result["tool_use_id"], result["content"]["error_code"]), (call["id"], "unavailable"))
        self.assertEqual(said["type"], "text")

    def test_query(self) -> None:
        """The query is the user's last word, also with a system message after it, and however long."""
        for turns, query in (
            ([("user", "a"), ("assistant", "b"), ("user", "query: c"), ("system", "query: S")], "c"),
            ([("user", "no such words")], "no such words"),
            ([("user", "query: " + "ü" * 40_000)], "ü" * 40_000),
        ):
            self.assertEqual(self.answer(*turns).content[0]["input"]["query"], query)

    def test_other_requests(self) -> None:
        """A search among other tools, or no tool at all, is no such request."""
        search = {"type": "web_search_20250305", "name": "web_search"}
        for tools in ([], [tool()], [search, tool()]):
            self.assertFalse(is_web_search(parse_messages(encode(BASE | {"tools": tools})).request))


class StructuredTests(Rows):
    """output_config.format."""

    schema: ClassVar[dict[str, Any]] = {
        "$schema": "draft",
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }

    def asked(self, schema: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"output_config": {"format": {"type": "json_schema", "schema": schema or self.schema}}}

    def test_presets(self) -> None:
        """response_format by preset: the schema, or any object with the schema in words, which is told."""
        clean = {key: value for key, value in self.schema.items() if key != "$schema"}
        for name, dialect in DIALECTS.items():
            found = chat(name, **self.asked())
            if dialect.schema_output == "json_schema":
                named = decode(encode(found.body["response_format"]))
                wanted = {"name": "answer", "schema": clean, "strict": True}
                self.assertEqual(named, {"type": "json_schema", "json_schema": wanted})
                self.assertEqual(found.dropped + found.emulated, ())
            else:
                self.assertEqual(found.body["response_format"], {"type": "json_object"})
                told = ("output_config.format (asked for in words)",)
                self.assertEqual((found.dropped, found.emulated), ((), told))
                self.assertIn(encode(self.schema).decode(), found.body["messages"][-1]["content"])

    def test_strict(self) -> None:
        """OpenAI refuses strict for a schema beyond its subset, and so is not asked for it."""
        found = body("openai", **self.asked({"type": "object"}))
        self.assertEqual(found["response_format"]["json_schema"]["strict"], False)

    def test_in_words(self) -> None:
        """The words come last: to the user's own, to a tool's result, or as a turn."""
        dialect = evolve(DIALECTS["generic"], schema_output="prompt")
        image = {"type": "image", "source": {"type": "url", "url": "https://e.test/a.png"}}
        call = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "n", "input": {}}]}
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "A"}]}
        for turns, role in (([], "user"), ([{"role": "user", "content": [image]}], "user"), ([call, result], "tool")):
            found = body(dialect, messages=[*BASE["messages"], *turns], **self.asked())
            last = found["messages"][-1]
            self.assertEqual((last["role"], "response_format" in found), (role, False))
            self.assertIn("It must fit this JSON Schema", json.dumps(last))


class ThinkingTests(Rows):
    """4.6: how each dialect is asked to think, or not to."""

    def wish(self, name: str, model: str = "m", effort: str = "", **thinking: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if effort:
            asked["output_config"] = {"effort": effort}
        fields = ("reasoning_effort", "reasoning", "thinking", "chat_template_kwargs", "thinking_budget_tokens")
        found = body(name, model, max_tokens=100_000, **asked)
        return {field: found[field] for field in fields if field in found}

    def test_off(self) -> None:
        """absent / disabled."""
        for thinking in ({}, {"type": "disabled"}):
            for name, model, wanted in (
                ("openai", "gpt-5.2", {"reasoning_effort": "none"}),
                ("openai", "gpt-5", {"reasoning_effort": "minimal"}),
                ("openai", "gpt-5-mini", {"reasoning_effort": "minimal"}),
                ("openai", "gpt-4o", {}),
                ("llama.cpp", "m", {"chat_template_kwargs": {"enable_thinking": False}}),
                ("vllm", "m", {"chat_template_kwargs": {"enable_thinking": False}}),
                ("openrouter", "m", {"reasoning": {"enabled": False}}),
                ("deepseek", "m", {"thinking": {"type": "disabled"}}),
                ("kimi", "kimi-k2.6", {"thinking": {"type": "disabled"}}),
                ("kimi", "kimi-k2-thinking", {}),
                ("kimi", "kimi-k3", {"reasoning_effort": "low"}),
                ("glm", "m", {"thinking": {"type": "disabled"}}),
                ("lmstudio", "m", {"reasoning_effort": "none"}),
                ("ollama-compat", "m", {}),
                ("generic", "m", {}),
            ):
                self.assertEqual(self.wish(name, model, **thinking), wanted, (name, model))

    def test_adaptive(self) -> None:
        """adaptive and between_tools: on, and medium unless an effort is given."""
        for thinking in ({"type": "adaptive"}, {"type": "between_tools"}, {"type": "adaptive", "display": "omitted"}):
            for name, model, wanted in (
                ("openai", "gpt-5.2", {"reasoning_effort": "medium"}),
                ("openai", "o3", {"reasoning_effort": "medium"}),
                ("llama.cpp", "m", {"chat_template_kwargs": {"enable_thinking": True}}),
                ("vllm", "m", {"chat_template_kwargs": {"enable_thinking": True}}),
                ("openrouter", "m", {"reasoning": {"enabled": True}}),
                ("deepseek", "m", {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
                ("kimi", "kimi-k2.6", {"thinking": {"type": "enabled"}}),
                ("kimi", "kimi-k3", {"reasoning_effort": "high"}),
                ("glm", "m", {"thinking": {"type": "enabled", "clear_thinking": False}}),
                ("lmstudio", "m", {"reasoning_effort": "medium"}),
                ("generic", "m", {}),
            ):
                self.assertEqual(self.wish(name, model, **thinking), wanted, (name, model))

    def test_budget(self) -> None:
        """enabled with a budget: the budget itself where there is a field for it, else the effort that it means."""
        for budget, effort in ((1024, "low"), (8192, "medium"), (24_576, "high"), (24_577, "xhigh")):
            enabled = {"type": "enabled", "budget_tokens": budget}
            self.assertEqual(self.wish("openai", "gpt-5.2", **enabled), {"reasoning_effort": effort})
            self.assertEqual(self.wish("openrouter", **enabled), {"reasoning": {"max_tokens": budget}})
            self.assertEqual(
                self.wish("llama.cpp", **enabled),
                {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget_tokens": budget},
            )
            self.assertEqual(self.wish("openai", "o3", **enabled)["reasoning_effort"], effort.replace("xhigh", "high"))
            level = self.wish("deepseek", **enabled)["reasoning_effort"]
            self.assertEqual(level, "low" if effort == "low" else "high")

    def test_lost_budget(self) -> None:
        """A budget that the dialect has no word for is told."""
        enabled = {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 9999}
        for name in DIALECTS:
            lost = {"vllm": "thinking.budget_tokens", "glm": "thinking.budget_tokens", "kimi": "thinking.budget_tokens"}
            lost |= dict.fromkeys(("openai", "ollama-compat", "generic"), "thinking")
            self.assertEqual(chat(name, **enabled).dropped, (lost[name],) if name in lost else (), name)
        self.assertEqual(chat("openai", "gpt-5.2", **enabled).dropped, ())

    def test_effort(self) -> None:
        """effort: the same word, or the nearest that is supported."""
        words = ("low", "medium", "high", "xhigh", "max")
        for name, model, wanted in (
            ("openai", "gpt-5.2", words),
            ("openai", "gpt-5", ("low", "medium", "high", "high", "high")),
            ("openai", "o4-mini", ("low", "medium", "high", "high", "high")),
            ("deepseek", "m", ("low", "high", "high", "high", "max")),
            ("kimi", "kimi-k3", ("low", "high", "high", "high", "max")),
            ("lmstudio", "m", ("low", "medium", "high", "xhigh", "xhigh")),
        ):
            found = [self.wish(name, model, effort=word, type="adaptive")["reasoning_effort"] for word in words]
            self.assertEqual(found, [*wanted], (name, model))
        found = [self.wish("openrouter", effort=word, type="adaptive")["reasoning"]["effort"] for word in words]
        self.assertEqual(found, ["low", "medium", "high", "xhigh", "xhigh"])
        for name in ("llama.cpp", "vllm"):
            kwargs = [self.wish(name, effort=word, type="adaptive")["chat_template_kwargs"] for word in words]
            levels = ("low", "medium", "high", "high", "high")
            self.assertEqual(kwargs, [{"enable_thinking": True, "reasoning_effort": level} for level in levels])

    def test_effort_in_the_middle(self) -> None:
        """Of the efforts given in system messages on the way, the newest wins."""
        turns = [*BASE["messages"]]
        for effort in ("max", "low"):
            turns += [
                {"role": "system", "content": [], "output_config": {"effort": effort}},
                {"role": "user", "content": "x"},
            ]
        asked = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}, "messages": turns}
        self.assertEqual(body("openai", "gpt-5.2", **asked)["reasoning_effort"], "low")

    def test_any_model(self) -> None:
        """7.2: adaptive thinking comes for any name, and never makes a request fail."""
        for name in DIALECTS:
            self.assertEqual(chat(name, "qwen2.5", thinking={"type": "adaptive", "display": "omitted"}).dropped, ())

    def test_taken_back(self) -> None:
        """For a model that refuses to think the request is the same without any word of it."""
        for name in DIALECTS:
            asked = chat(name, "gpt-5.2", thinking={"type": "enabled", "budget_tokens": 2000}, max_tokens=9000)
            bare = without_thinking(asked).body
            self.assertEqual(json.dumps(sorted(bare)).count("think") + json.dumps(sorted(bare)).count("reason"), 0)
            self.assertEqual(bare["messages"], asked.body["messages"])

    def test_display(self) -> None:
        """display: omitted hides what the model thinks; summarized, updates and absent do not."""
        for display, hidden in (("omitted", True), ("summarized", False), ("updates", False), (None, False)):
            thinking = {"type": "adaptive", "display": display}
            self.assertEqual(chat(thinking=thinking).wanted.hidden, hidden)


class PresetTests(SynchronousTestCase):
    """Appendix C, cell by cell: max field, echo, mid system, named tool_choice, parallel flag, schema output."""

    cells: ClassVar = {
        "openai": ("max_completion_tokens", "", "keep", "object", True, "json_schema"),
        "llama.cpp": ("max_tokens", "reasoning_content", "fold", "only", True, "json_schema"),
        "vllm": ("max_tokens", "reasoning", "fold", "object", True, "json_schema"),
        "lmstudio": ("max_tokens", "reasoning_content", "fold", "only", False, "json_schema"),
        "openrouter": ("max_tokens", "reasoning_details", "keep", "object", True, "json_schema"),
        "deepseek": ("max_tokens", "reasoning_content", "keep", "object", False, "json_object"),
        "kimi": ("max_tokens", "reasoning_content", "keep", "object", False, "json_object"),
        "glm": ("max_tokens", "reasoning_content", "keep", "only", False, "json_object"),
        "ollama-compat": ("max_tokens", "reasoning", "fold", "only", False, "json_schema"),
        "generic": ("max_tokens", "", "fold", "object", False, "json_object"),
    }

    def test_cells(self) -> None:
        """The table has these rows and cells."""
        found = {
            name: (
                *(each.max_tokens_field, each.reasoning_echo, each.system_midway),
                *(each.tool_choice_named, each.parallel_flag, each.schema_output),
            )
            for name, each in DIALECTS.items()
        }
        self.assertEqual(found, self.cells)

    def test_extras(self) -> None:
        """The column "extra": who needs reasoning back, whose schemas become grammars, who gets a cache key, who says
        how far the prompt is."""
        for cell, names in (
            ("echo_required", {"deepseek", "kimi"}),
            ("prompt_cache_key", {"openai", "kimi"}),
            ("safety_identifier", {"openai"}),
            ("return_progress", {"llama.cpp"}),
            ("strict_tools", {"openai"}),
        ):
            self.assertEqual({name for name, each in DIALECTS.items() if getattr(each, cell)}, names, cell)
        grammars = {name for name, each in DIALECTS.items() if each.schemas == "grammar"}
        self.assertEqual(grammars, {"llama.cpp", "lmstudio"})
        self.assertTrue(body("llama.cpp")["return_progress"])

    def test_every_cell_can_be_set(self) -> None:
        """A cell set anew changes the request, whatever the family says."""
        kept = evolve(DIALECTS["llama.cpp"], system_midway="keep", max_tokens_field="max_completion_tokens")
        found = body(kept, messages=[*BASE["messages"], {"role": "system", "content": "S"}])
        self.assertEqual([each["role"] for each in found["messages"]], ["user", "system"])
        self.assertIn("max_completion_tokens", found)
        self.assertRaises(ValueError, evolve, kept, system_midway="hoist")

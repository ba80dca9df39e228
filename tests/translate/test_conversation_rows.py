"""PROTOCOL 4.1, rule by rule, and worked example B1: a conversation to the messages of Chat Completions."""

import json
from collections.abc import Sequence
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.model.documents import Paper, Papers, Unreadable
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS, Dialect
from claudeproxy.translate.ids import minted
from claudeproxy.translate.names import shortened
from claudeproxy.translate.signatures import Reasoning, sign
from claudeproxy.translate.translation import Translation
from claudeproxy.wire.json import decode, encode
from claudeproxy.wire.requests import parse_messages
from tests.strategies import clean_texts, json_objects

Turn = dict[str, Any]

FOLD, KEEP = DIALECTS["llama.cpp"], DIALECTS["openai"]
BLIND = evolve(FOLD, images="no")
PIXEL = {"type": "base64", "media_type": "image/png", "data": "aGk="}
IMAGE = {"type": "image", "source": PIXEL}
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
S = "<system-reminder>\nS\n</system-reminder>"


def user(*content: Any) -> Turn:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*content: Any) -> Turn:
    return {"role": "assistant", "content": content[0] if isinstance(content[0], str) else list(content)}


def system(text: str) -> Turn:
    return {"role": "system", "content": text}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(id: str, name: str = "Bash", **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def result(id: str, content: Any = "done", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content} | fields


def translated(
    turns: Sequence[Turn], dialect: Dialect = FOLD, papers: Papers | None = None, **fields: Any
) -> Translation:
    asked = {"model": "m", "max_tokens": 9, "messages": list(turns)} | fields
    return to_chat(parse_messages(json.dumps(asked).encode()).request, "m", dialect, papers=papers)


def sent(*turns: Turn, dialect: Dialect = FOLD, papers: Papers | None = None, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = decode(encode(translated(turns, dialect, papers, **fields).body["messages"]))
    return found


def outline(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Role and content, with the call's id for a tool's."""
    return [(each["role"], *filter(None, [each.get("tool_call_id")]), each["content"]) for each in messages]


class OrderTests(SynchronousTestCase):
    """4.1.1 and 4.1.2: results first, one for each call."""

    calls = assistant(text("ok"), call("a"), call("b"))

    def test_results_first(self) -> None:
        """4.1.1: tool messages come right after the calls, in the order of the calls; then the user's own words."""
        found = sent(user("1"), self.calls, user(text("before"), result("b", "B"), result("a", "A"), text("after")))
        self.assertEqual(outline(found)[2:], [("tool", "a", "A"), ("tool", "b", "B"), ("user", "before\n\nafter")])

    def test_results_of_several_turns(self) -> None:
        """4.1.1: results may be spread over user turns in a row, with system messages between them."""
        turns = user("1"), self.calls, user(result("b", "B")), system("S"), user(result("a", "A"))
        for dialect, last in ((FOLD, ("tool", "b", "B\n\n" + S)), (KEEP, ("tool", "b", "B"))):
            found = outline(sent(*turns, dialect=dialect))
            self.assertEqual(found[2:4], [("tool", "a", "A"), last])
        self.assertEqual(found[4:], [("developer", "S")])

    def test_missing(self) -> None:
        """4.1.2: a call without a result gets one that says so, and the loss is told."""
        chat = translated([user("1"), self.calls, user(result("b", "B"), text("2"))])
        self.assertEqual(outline(chat.body["messages"])[2:4], [("tool", "a", "[no result]"), ("tool", "b", "B")])
        self.assertEqual(chat.dropped, ("tool_use without result",))

    def test_missing_at_the_end(self) -> None:
        """4.1.2: also where the conversation ends with the calls, or the model speaks again at once."""
        self.assertEqual(outline(sent(user("1"), self.calls))[2:], [("tool", x, "[no result]") for x in "ab"])
        found = sent(user("1"), assistant(call("a")), user(""), assistant("sorry"), user("2"))
        self.assertEqual([each["role"] for each in found], ["user", "assistant", "tool", "assistant", "user"])

    def test_orphan(self) -> None:
        """4.1.2: a result that nobody called for becomes the user's text, its mark of failure with it."""
        chat = translated(
            [user("1"), assistant("2"), user(result("x", "X"), result("y", "Y", is_error=True), text("3"))]
        )
        (last,) = outline(chat.body["messages"])[2:]
        unknown = "[result of an unknown tool call]"
        self.assertEqual(last, ("user", f"{unknown}\n\nX\n\n[tool error] {unknown}\n\nY\n\n3"))
        self.assertEqual(chat.dropped, ("tool_result.tool_use_id",))

    def test_late(self) -> None:
        """4.1.2: a result that comes after the model has spoken again is nobody's any more."""
        found = outline(sent(user("1"), assistant(call("a")), user("2"), assistant("3"), user(result("a", "A"))))
        self.assertEqual(found[2], ("tool", "a", "[no result]"))
        self.assertEqual(found[-1], ("user", "[result of an unknown tool call]\n\nA"))

    def test_duplicate_results(self) -> None:
        """4.1.2: of two results for one call the first counts, the second is text: one tool message a call."""
        found = outline(sent(user("1"), assistant(call("a")), user(result("a", "A"), result("a", "again"))))
        self.assertEqual(found[2:], [("tool", "a", "A"), ("user", "[result of an unknown tool call]\n\nagain")])

    def test_duplicate_calls(self) -> None:
        """4.1.2: two calls of one id are two calls, and each gets a result."""
        found = sent(user("1"), assistant(call("a"), call("a")), user(result("a", "A"), result("a", "B")))
        self.assertEqual(outline(found)[2:], [("tool", "a", "A"), ("tool", "a", "B")])
        self.assertEqual(len(found[1]["tool_calls"]), 2)


class SystemTests(SynchronousTestCase):
    """4.1.3: system messages in the middle."""

    def test_beside_the_user(self) -> None:
        """Folded into the user's turn beside it, in its place; kept where the server bears it."""
        for turns, folded, kept in (
            ((user("1"), system("S")), [("user", "1\n\n" + S)], [("user", "1"), ("developer", "S")]),
            ((system("S"), user("1")), [("user", S + "\n\n1")], [("developer", "S"), ("user", "1")]),
            (
                (user("1"), system("S"), user("2")),
                [("user", f"1\n\n{S}\n\n2")],
                [("user", "1"), ("developer", "S"), ("user", "2")],
            ),
        ):
            self.assertEqual(outline(sent(*turns)), folded)
            self.assertEqual(outline(sent(*turns, dialect=KEEP)), kept)

    def test_after_results(self) -> None:
        """Right after results it goes to the end of the last tool message, and makes no user turn."""
        turns = user("1"), assistant(call("a"), call("b")), user(result("b", "B"), result("a", "A"))
        found = outline(sent(*turns, system("S"), system("S")))
        self.assertEqual(found[2:], [("tool", "a", "A"), ("tool", "b", f"B\n\n{S}\n\n{S}")])
        found = outline(sent(*turns, system("S"), dialect=KEEP))
        self.assertEqual(found[2:], [("tool", "a", "A"), ("tool", "b", "B"), ("developer", "S")])

    def test_after_results_with_words(self) -> None:
        """Where the user says something beside the results, the reminder stands with it, in its place; should it be
        said later, the reminder stays where it was sent before."""
        turns = user("1"), assistant(call("a")), user(result("a", "A"))
        found = outline(sent(*turns[:2], user(result("a", "A"), text("2")), system("S")))
        self.assertEqual(found[2:], [("tool", "a", "A"), ("user", "2\n\n" + S)])
        found = outline(sent(*turns, system("S"), user("2")))
        self.assertEqual(found[2:], [("tool", "a", "A\n\n" + S), ("user", "2")])
        found = outline(sent(*turns, system("S"), user(text(""))))
        self.assertEqual(found[2:], [("tool", "a", "A\n\n" + S)], "an empty text is not said")

    def test_never_between(self) -> None:
        """Before the results it still comes after them: never between calls and results."""
        turns = user("1"), assistant(call("a")), system("S"), user(result("a", "A"), text("2"))
        self.assertEqual(outline(sent(*turns))[2:], [("tool", "a", "A\n\n" + S), ("user", "2")])
        kept = outline(sent(*turns, dialect=KEEP))[2:]
        self.assertEqual(kept, [("tool", "a", "A"), ("developer", "S"), ("user", "2")])

    def test_after_the_model(self) -> None:
        """After the model's words, where there is nothing to fold it into, it is a user turn of its own."""
        self.assertEqual(outline(sent(user("1"), assistant("2"), system("S")))[1:], [("assistant", "2"), ("user", S)])

    def test_never_hoisted(self) -> None:
        """The head of the prompt holds the system prompt and nothing else, for every dialect."""
        for dialect in DIALECTS.values():
            found = sent(user("1"), system("S"), assistant("2"), user("3"), dialect=dialect, system="HEAD")
            self.assertEqual(found[0], {"role": dialect.system_role, "content": "HEAD"})
            self.assertEqual(found[1]["role"], "user")

    def test_empty(self) -> None:
        """One without content, which only sets an effort, leaves no trace."""
        found = sent(user("1"), {"role": "system", "content": [], "output_config": {"effort": "low"}})
        self.assertEqual(outline(found), [("user", "1")])

    def test_tool_addition(self) -> None:
        """A tool that a system message makes available is offered from then on, and said."""
        deferred = {"name": "Cron", "input_schema": {"type": "object"}, "defer_loading": True}
        added = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Cron"}}
        chat = translated([user("1"), {"role": "system", "content": [added]}], tools=[deferred])
        self.assertIn("Tool Cron is now available.", chat.body["messages"][0]["content"])
        self.assertEqual([tool["function"]["name"] for tool in chat.body["tools"]], ["Cron"])
        self.assertEqual(chat.dropped, ())


class MergingTests(SynchronousTestCase):
    """4.1.4 to 4.1.6: merging, empty content, the billing block."""

    def test_merged(self) -> None:
        """4.1.4: turns of one role are one message, blocks a blank line apart, a string where there is only text."""
        found = sent(
            user(text("1"), text("2")), user("3"), assistant("4"), assistant(text("5"), call("a")), user(result("a"))
        )
        self.assertEqual(outline(found)[:2], [("user", "1\n\n2\n\n3"), ("assistant", "4\n\n5")])
        self.assertEqual([each["id"] for each in found[1]["tool_calls"]], ["a"])

    def test_thinking_alone(self) -> None:
        """4.1.4: a turn of nothing but thoughts is a turn without an answer, so that those around it stay as they
        were; its thoughts go back where they are wanted."""
        thought = {"type": "thinking", "thinking": "hm", "signature": ""}
        found = sent(user(text("1"), IMAGE), assistant(thought), user("2"))
        answer = ("assistant", "(no answer)")
        self.assertEqual(outline(found), [("user", [text("1"), SHOWN]), answer, ("user", "2")])
        self.assertEqual(found[1]["reasoning_content"], "hm")

    def test_parts(self) -> None:
        """4.1.4: with an image it is a list of parts, texts in a row one part."""
        found = sent(user(text("1"), text("2"), IMAGE, text("3"), IMAGE, IMAGE))
        self.assertEqual(found[0]["content"], [text("1\n\n2"), SHOWN, text("3"), SHOWN, SHOWN])

    def test_only_calls(self) -> None:
        """4.1.5: a turn of only calls has the content null."""
        found = sent(user("1"), assistant(call("a", command="ls")), user(result("a")))
        self.assertEqual(
            found[1],
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "Bash", "arguments": '{"command":"ls"}'}}
                ],
            },
        )

    def test_empty_results(self) -> None:
        """4.1.5: an empty result says so, however it is empty; empty texts are dropped."""
        for empty in ("", [], None, [text("")]):
            found = sent(user("1"), assistant(text(""), call("a")), user(result("a", empty), text("")))
            self.assertEqual(outline(found)[1:], [("assistant", None), ("tool", "a", "(no output)")])
        bare = {"type": "tool_result", "tool_use_id": "a"}
        self.assertEqual(sent(user("1"), assistant(call("a")), user(bare))[2]["content"], "(no output)")

    def test_billing(self) -> None:
        """4.1.6: the billing line is dropped wherever it begins a system text; what follows it stays."""
        line = "x-anthropic-billing-header: cc_version=2.1.330.839; cc_entrypoint=sdk-cli;"
        self.assertEqual(sent(user("1"), system=[text(line), text("S"), text("T")])[0]["content"], "S\n\nT")
        self.assertEqual(sent(user("1"), system=f"{line}\n\nS")[0]["content"], "S")
        self.assertEqual(outline(sent(user("1"), system=line)), [("user", "1")])
        self.assertEqual(sent(user("1"), system="mind the x-anthropic-billing-header:")[0]["role"], "system")


class ToolTests(SynchronousTestCase):
    """4.1.7 to 4.1.12: ids, names, images, documents, failures, deferred tools."""

    def test_ids(self) -> None:
        """4.1.7: an id goes back as it is, however odd; a minted one as what the backend had called it."""
        odd, ours = "functions.Bash:0 weird/id", minted("call_1", "u7")
        found = sent(user("1"), assistant(call(odd), call(ours)), user(result(ours, "2"), result(odd, "1")))
        self.assertEqual([each["id"] for each in found[1]["tool_calls"]], [odd, "call_1"])
        self.assertEqual(outline(found)[2:], [("tool", odd, "1"), ("tool", "call_1", "2")])

    def test_names(self) -> None:
        """4.1.8: a name too long for OpenAI is the same short one in history and definition."""
        name = "mcp__server__" + "x" * 70
        turns = [user("1"), assistant(call("a", name)), user(result("a"))]
        chat = translated(turns, tools=[{"name": name, "input_schema": {}}])
        called = chat.body["messages"][1]["tool_calls"][0]["function"]["name"]
        self.assertEqual(called, chat.body["tools"][0]["function"]["name"])
        self.assertEqual(called, shortened(name))
        self.assertRegex(called, r"\Amcp__server__x+_[0-9a-f]{8}\Z")

    def test_images_in_results(self) -> None:
        """4.1.9: images of results come in one user message after all tool messages, each under its label."""
        turns = (
            user("1"),
            assistant(call("a"), call("b")),
            user(result("b", [IMAGE]), result("a", [text("A"), IMAGE, IMAGE])),
        )
        self.assertEqual(
            outline(sent(*turns))[2:],
            [
                ("tool", "a", "A\n\n[image attached below]"),
                ("tool", "b", "[image attached below]"),
                (
                    "user",
                    [text("[image of tool result a]"), SHOWN, SHOWN, text("[image of tool result b]"), SHOWN],
                ),
            ],
        )

    def test_images_for_the_blind(self) -> None:
        """4.1.9: a model that cannot see is told so in the result itself, and the loss is told."""
        chat = translated([user("1"), assistant(call("a")), user(result("a", [IMAGE, text("A")]))], BLIND)
        omitted = "[image omitted: this model cannot see images]\n\nA"
        self.assertEqual(outline(chat.body["messages"])[2:], [("tool", "a", omitted)])
        self.assertEqual(chat.dropped, ("image",))

    def test_image_urls(self) -> None:
        """4.2: an image's address goes as it is."""
        source = {"type": "url", "url": "https://example.test/a.png"}
        found = sent(user({"type": "image", "source": source}))
        self.assertEqual(found[0]["content"], [{"type": "image_url", "image_url": {"url": source["url"]}}])

    def test_documents(self) -> None:
        """4.1.10: documents are text under their title, with their context; blocks in them are read, too."""
        plain = {"type": "text", "media_type": "text/plain", "data": "words"}
        blocks = {"type": "content", "content": [text("A"), IMAGE]}
        document: dict[str, Any] = {"type": "document", "source": plain, "title": "T", "context": "C"}
        self.assertEqual(sent(user(document))[0]["content"], "[Document: T]\n\nC\n\nwords")
        found = sent(user({"type": "document", "source": blocks}))
        self.assertEqual(found[0]["content"], [text("[Document]\n\nA"), SHOWN])

    def test_pdf(self) -> None:
        """4.1.10: a PDF in a result is its pages' text there, and its pages' pictures after the results."""
        pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "UERG"}}
        turns = user("1"), assistant(call("a")), user(result("a", [text("A"), pdf]))
        papers: Papers = {"UERG": Paper(("one", ""), (b"hi",), left_out=3)}
        found = outline(sent(*turns, papers=papers))
        pages = "A\n\n[Document]\n\n[Page 1]\none\n\n[Page 2]\n\n[3 more pages omitted]\n\n[image attached below]"
        self.assertEqual(found[2], ("tool", "a", pages))
        self.assertEqual(found[3], ("user", [text("[image of tool result a]"), SHOWN]))
        blind = outline(sent(*turns, dialect=BLIND, papers=papers))
        self.assertEqual(blind[2:], [("tool", "a", pages.removesuffix("\n\n[image attached below]"))])

    def test_unreadable(self) -> None:
        """4.1.10: a document that cannot be read is never dropped silently: the model and the client are told."""
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "UERG"}
        for source, papers, reason in (
            (pdf, {"UERG": Unreadable("it is not a PDF")}, "it is not a PDF"),
            (pdf, {}, "PDF documents cannot be read here"),
            ({"type": "url", "url": "https://example.test/a.pdf"}, {}, "documents are not fetched from the network"),
            (pdf | {"media_type": "application/zip"}, {}, "application/zip cannot be read"),
        ):
            chat = translated([user({"type": "document", "source": source})], papers=papers)
            said = f"[Document]\n\n[document omitted: {reason}]"
            self.assertEqual(chat.body["messages"][0]["content"], said)
            self.assertEqual(chat.dropped, ("document",))

    def test_search_results(self) -> None:
        """1.6: a search result is text with its title and source, also inside a tool's result."""
        block = {"type": "search_result", "source": "https://e.test", "title": "T", "content": [text("words")]}
        said = "[Search result: T (https://e.test)]\n\nwords"
        found = sent(user(block), assistant(call("a")), user(result("a", [block])))
        self.assertEqual([found[0]["content"], found[2]["content"]], [said, said])

    def test_is_error(self) -> None:
        """4.1.11: a failed tool's result says so; is_error false and null do not."""
        for flag, wanted in ((True, "[tool error] x"), (False, "x"), (None, "x")):
            found = sent(user("1"), assistant(call("a")), user(result("a", "x", is_error=flag)))
            self.assertEqual(found[2]["content"], wanted)
        found = sent(user("1"), assistant(call("a")), user(result("a", "", is_error=True)))
        self.assertEqual(found[2]["content"], "[tool error] (no output)")

    def test_deferred_tools(self) -> None:
        """4.1.12: no model sees the placeholder, nor a deferred tool before a tool_reference names it."""
        schema = {"type": "object"}
        tools: list[dict[str, Any]] = [{"name": "ToolSearch", "input_schema": schema}]
        tools += [
            {"name": name, "input_schema": schema, "defer_loading": True}
            for name in ("DeferredToolPlaceholder", "Cron", "Web")
        ]
        found = {"type": "tool_reference", "tool_name": "Cron"}
        turns = [user("1"), assistant(call("a", "ToolSearch")), user(result("a", [found, found]))]
        for length, names in ((1, ["ToolSearch"]), (3, ["ToolSearch", "Cron"])):
            chat = translated(turns[:length], tools=tools)
            self.assertEqual([tool["function"]["name"] for tool in chat.body["tools"]], names)
            self.assertEqual(chat.dropped, ())
        said = "Tool Cron is now available."
        self.assertEqual(chat.body["messages"][2]["content"], f"{said}\n\n{said}")

    def test_bad_input(self) -> None:
        """1.6: what a client made of a malformed call goes back as an object, for templates that walk through it."""
        for kept, wanted in (
            ({"__unparsedToolInput": {"raw": "{'a", "len": 3}}, {"_raw": "{'a"}),
            ({"__unparsedToolInput": "x"}, {"_raw": "x"}),
            ("a string", {"_raw": "a string"}),
            ([1], {"_raw": [1]}),
            (None, {"_raw": None}),
            ({"ü": 1, "b": [2, {}]}, {"ü": 1, "b": [2, {}]}),
        ):
            found = sent(user("1"), assistant(call("a") | {"input": kept}), user(result("a")))
            arguments = found[1]["tool_calls"][0]["function"]["arguments"]
            self.assertEqual((json.loads(arguments), arguments), (wanted, encode(wanted).decode()))


class HistoryTests(SynchronousTestCase):
    """4.1.13 and 4.1.14: thoughts and server tools of earlier turns."""

    def test_thoughts_are_no_text(self) -> None:
        """4.1.13: no dialect shows earlier thoughts as something that was said."""
        thoughts = [
            {"type": "thinking", "thinking": "SECRET", "signature": "EqQB"},
            {"type": "thinking", "thinking": "SECRET", "signature": sign(Reasoning("reasoning"))},
            {"type": "redacted_thinking", "data": "SECRET"},
        ]
        for dialect in DIALECTS.values():
            found = sent(user("1"), assistant(*thoughts, text("2"), call("a")), user(result("a")), dialect=dialect)
            self.assertEqual(found[1]["content"], "2")
            self.assertNotIn("SECRET", json.dumps([each["content"] for each in found]))

    def test_web_search(self) -> None:
        """4.1.14: a search of earlier is text in its place: what was asked, and what was found."""
        asked = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
        entry = {"type": "web_search_result", "title": "T", "url": "https://e.test", "encrypted_content": "SECRET"}
        found = {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [entry, entry | {"title": "U"}],
        }
        failed = found | {"content": {"type": "web_search_tool_result_error", "error_code": "unavailable"}}
        called = '[web_search was called with {"query":"q"}]'
        said = sent(user("1"), assistant(text("A"), asked, found, text("B"), asked, failed), user("2"))[1]["content"]
        self.assertEqual(
            said.split("\n\n"),
            [
                "A",
                called,
                "[web_search found]\nT https://e.test\nU https://e.test",
                "B",
                called,
                "[web_search failed: unavailable]",
            ],
        )

    def test_other_server_tools(self) -> None:
        """4.1.14: what real servers' tools gave is kept as far as it is text, and nothing that worked is said to have
        failed."""
        page = {
            "type": "document",
            "title": "T",
            "source": {"type": "text", "media_type": "text/plain", "data": "words"},
        }
        paper = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "SECRET"}}
        for kind, content, wanted in (
            ("code_execution", {"type": "code_execution_result", "stdout": "42", "stderr": "", "content": []}, "42"),
            (
                "web_fetch",
                {"type": "web_fetch_result", "url": "https://e.test", "content": page},
                "https://e.test\nT\nwords",
            ),
            ("web_fetch", {"type": "web_fetch_result", "url": "https://e.test", "content": paper}, "https://e.test"),
            ("mcp", [text("A"), text("B")], "A\nB"),
            ("mcp", "A", "A"),
            (
                "tool_search",
                {"tool_references": [{"type": "tool_reference", "tool_name": "Cron"}]},
                "Cron",
            ),
        ):
            block = {"type": f"{kind}_tool_result", "tool_use_id": "s", "content": content}
            found = sent(user("1"), assistant(block), user("2"))
            self.assertEqual(found[1]["content"], f"[{kind} found]\n{wanted}")

    def test_unknown_blocks(self) -> None:
        """1.6: a block of a type that nobody here knows is left out, and named."""
        chat = translated([user(text("1"), {"type": "hologram", "data": "x"}), assistant("2"), user("3")])
        self.assertEqual((chat.body["messages"][0]["content"], chat.dropped), ("1", ("hologram",)))


class WorkedExampleTests(SynchronousTestCase):
    """Appendix B1."""

    def test_b1(self) -> None:
        """B1, byte for byte, but for what 4.1.9 adds (that an image is attached below) and the line breaks that the
        reminder has where Claude Code writes one itself."""
        found = sent(
            user("1"),
            assistant(
                {"type": "thinking", "thinking": "T", "signature": sign(Reasoning("reasoning_content"))},
                text("ok"),
                call("a", x=1),
                call("b"),
            ),
            user(result("b", "B!", is_error=True), result("a", [text("A"), IMAGE]), text("go on")),
            system("S"),
        )
        calls = (
            '[{"id":"a","type":"function","function":{"name":"Bash","arguments":"{\\"x\\":1}"}},'
            '{"id":"b","type":"function","function":{"name":"Bash","arguments":"{}"}}]'
        )
        self.assertEqual(
            [encode(each).decode() for each in found[1:]],
            [
                f'{{"role":"assistant","content":"ok","reasoning_content":"T","tool_calls":{calls}}}',
                '{"role":"tool","tool_call_id":"a","content":"A\\n\\n[image attached below]"}',
                '{"role":"tool","tool_call_id":"b","content":"[tool error] B!"}',
                '{"role":"user","content":[{"type":"text","text":"[image of tool result a]"},'
                '{"type":"image_url","image_url":{"url":"data:image/png;base64,aGk="}},'
                '{"type":"text","text":"go on\\n\\n<system-reminder>\\nS\\n</system-reminder>"}]}',
            ],
        )

    def test_b1_without_words(self) -> None:
        """B1: with no user text the reminder goes to the end of tool message b."""
        turns = user("1"), assistant(call("a"), call("b")), user(result("b", "B"), result("a", "A")), system("S")
        self.assertEqual(outline(sent(*turns))[2:], [("tool", "a", "A"), ("tool", "b", "B\n\n" + S)])


@st.composite
def conversations(draw: st.DrawFn) -> list[list[Turn]]:
    """A conversation as Claude Code makes it, cut at the ends of the requests: each part but the last ends with the
    model's turn, which it takes over whole into the next request."""
    words = clean_texts(1).filter(str.strip)
    blocks = st.sampled_from(
        [text("go on"), IMAGE, text(""), {"type": "document", "source": {"type": "text", "data": "d"}}]
    )
    parts: list[list[Turn]] = []
    ids: list[str] = []
    for number in range(draw(st.integers(1, 4))):
        said: list[Any] = [result(id, draw(st.sampled_from(["A", "", [text("A"), IMAGE], None]))) for id in ids]
        said = draw(st.permutations(said))[: draw(st.integers(0, 3))]
        said += draw(st.lists(blocks | words.map(text), max_size=2))
        if not said or all(each == text("") for each in said):
            said.append(text(draw(words)))
        part = [user(*said), *map(system, draw(st.lists(words, max_size=2)))]
        ids = [f"toolu_{number}_{each}" for each in range(draw(st.integers(0, 3)))]
        thought = {"type": "thinking", "thinking": draw(words), "signature": draw(st.sampled_from(["", "EqQB"]))}
        answer = [thought] * draw(st.integers(0, 1)) + [text(draw(words))] * draw(st.integers(0 if ids else 1, 1))
        answer += [call(id, "Bash", **{"i": draw(json_objects())}) for id in ids]
        parts.append([*part, assistant(*answer)])
    parts.append([user("the last word")])
    return parts


class PrefixTests(SynchronousTestCase):
    """7.5: a prefix cache holds only what stays the same to the byte."""

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(conversations(), st.sampled_from(sorted(DIALECTS)))
    def test_prefix(self, parts: list[list[Turn]], name: str) -> None:
        """What was sent for the first turns of a conversation is the beginning of what is sent for more of them."""
        fields = {"system": "S", "tools": [{"name": "Bash", "input_schema": {"type": "object"}}]}
        before: list[bytes] = []
        for number in range(len(parts)):
            # The model's turn that ends the part is what the backend answers with: the request stops before it.
            turns = [turn for part in parts[: number + 1] for turn in part]
            asked = turns if number == len(parts) - 1 else turns[:-1]
            found = [encode(each) for each in sent(*asked, dialect=DIALECTS[name], **fields)]
            self.assertEqual(found[: len(before)], before)
            before = found

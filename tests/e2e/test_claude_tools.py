"""The real Claude Code at work through `twistd`: what its tools do on disk, and what a scripted backend is asked."""

import json
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.e2e.daemon import wait_until
from tests.e2e.parts import PARTS
from tests.e2e.stage import Run, Stage, by_turns, calls, news, stage
from tests.e2e.test_claude_code import terminal
from tests.fakes.pdfs import pdf
from tests.fakes.scripts import Script, call_deltas, error, stream, text

pytestmark = pytest.mark.claude

#: One backend that sees, one that does not and wants its thoughts back; both are the scripted one.
SETTINGS = """
[models]
seeing = "seeing/model-a"
thinking = "thinking/model-b"

[backends.seeing]
provider = "openai"
base_url = "BACKEND"
dialect = "openai"

[backends.thinking]
provider = "openai"
base_url = "BACKEND"
dialect = "deepseek"
"""
ALLOWED = ("--allowedTools", "Agent", "Bash", "Read", "ToolSearch", "WebSearch", "Write")
#: The question of the run, and what the first words of a sub-agent's conversation end with.
ERRAND, SUB_ERRAND = "Look after the harbour.", "Count the boats."


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("proxy"), SETTINGS) as built:
        yield built


def png() -> bytes:
    """Two by two red pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff\0\0" * 2) * 2)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


def shell(command: str) -> tuple[str, dict[str, str]]:
    return "Bash", {"command": command, "description": "a command"}


def shown(messages: list[Any]) -> str:
    """Everything in these messages, to look for words in."""
    return json.dumps(messages, ensure_ascii=False)


@frozen
class Harbour:
    """A long run with every kind of tool, and the folder it worked in."""

    folder: Path
    run: Run

    def after(self, turn: int) -> list[Any]:
        """What the main conversation's backend was told after this many of its answers."""
        [body] = [each for each in self.main if len(answers(each)) == turn]
        return news(body)

    @property
    def main(self) -> list[Any]:
        return [body for body in self.run.asked if ERRAND in shown(body["messages"][:3])]


def answers(body: Any) -> list[Any]:
    return [message for message in body["messages"] if message["role"] == "assistant"]


@pytest.fixture(scope="module")
def harbour(theatre: Stage, tmp_path_factory: pytest.TempPathFactory) -> Harbour:
    folder = tmp_path_factory.mktemp("harbour")
    (folder / "boat.png").write_bytes(png())
    (folder / "log.pdf").write_bytes(pdf("The herring came early."))
    read = {name: ("Read", {"file_path": str(folder / name)}) for name in ("boats.txt", "boat.png", "log.pdf", "none")}
    main = by_turns(
        calls(
            ("Write", {"file_path": str(folder / "boats.txt"), "content": "Möwe\nLachs \\ Hering\n"}), said="I note."
        ),
        calls(read["boats.txt"]),
        calls(read["boat.png"]),
        calls(read["log.pdf"]),
        calls(shell("sleep 0.3; echo slow >> order.txt; echo first"), read["boats.txt"], shell("echo second")),
        calls(read["none"]),
        calls(shell("echo so far; echo so bad >&2; exit 3")),
        calls(
            (
                "Agent",
                {
                    "description": "count",
                    "prompt": SUB_ERRAND,
                    "subagent_type": "general-purpose",
                    "run_in_background": False,
                },
            )
        ),
        text("All is", " well."),
    )
    sub = by_turns(calls(shell("wc -l < boats.txt")), text("There are two boats."))

    def backend(body: Any) -> Script:
        return main(body) if ERRAND in shown(body["messages"][:3]) else sub(body)

    run = pytest_twisted.blockon(Deferred.fromCoroutine(theatre.run(folder, backend, "-p", ERRAND, *ALLOWED)))
    assert (run.status, run.said) == (0, "All is well.\n"), run
    return Harbour(folder, run)


def test_nothing_is_asked_twice(harbour: Harbour) -> None:
    """Every request was answered to the client's content: the nine of the run, and the sub-agent's two."""
    assert [len(answers(body)) for body in harbour.main] == list(range(9))
    assert len(harbour.run.asked) == 11
    assert harbour.run.log.count(" POST /v1/messages 200 tool_use ") == 9
    assert harbour.run.log.count(" POST /v1/messages 200 end_turn ") == 2


def test_write_and_read(harbour: Harbour) -> None:
    """What the model wrote is on disk to the letter, and what it read comes back to it."""
    assert (harbour.folder / "boats.txt").read_text("utf-8") == "Möwe\nLachs \\ Hering\n"
    [written] = harbour.after(1)
    assert written["role"] == "tool" and "boats.txt" in written["content"]
    [read] = harbour.after(2)
    assert (read["role"], read["tool_call_id"]) == ("tool", "call_0")
    assert "Möwe" in read["content"] and "Lachs \\ Hering" in read["content"]


def test_an_answer_goes_back_as_it_came(harbour: Harbour) -> None:
    """Text, id, name and arguments of a call are in the history what the model sent."""
    [answer] = answers(harbour.main[1])
    assert answer["content"] == "I note."
    [call] = answer["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_0", "function", "Write")
    content = "Möwe\nLachs \\ Hering\n"
    assert json.loads(call["function"]["arguments"]) == {
        "file_path": str(harbour.folder / "boats.txt"),
        "content": content,
    }


def test_read_an_image(harbour: Harbour) -> None:
    """An image read by a tool comes in a user message after the results: Chat Completions has no other place."""
    result, picture = harbour.after(3)
    assert (result["role"], result["content"]) == ("tool", "[image attached below]")
    assert picture["role"] == "user"
    [url] = [part["image_url"]["url"] for part in picture["content"] if part["type"] == "image_url"]
    assert url.startswith("data:image/png;base64,")


def test_read_a_pdf(harbour: Harbour) -> None:
    """A PDF comes as its text, and as pictures of its pages where the model sees."""
    result, pages = harbour.after(4)
    assert result["role"] == "tool" and "The herring came early." in result["content"]
    assert [part["type"] for part in pages["content"]].count("image_url") == 1


def test_results_come_in_the_order_of_the_calls(harbour: Harbour) -> None:
    """Three calls in one answer are all run, and each result stands where its call stood."""
    results = harbour.after(5)
    assert [result["tool_call_id"] for result in results] == ["call_0", "call_1", "call_2"]
    assert [result["role"] for result in results] == ["tool"] * 3
    first, boats, second = (result["content"] for result in results)
    assert (first, second) == ("first", "second") and "Möwe" in boats
    assert (harbour.folder / "order.txt").read_text() == "slow\n"


def test_a_failing_tool(harbour: Harbour) -> None:
    """The model is told that a tool failed: Chat Completions has no field for that, so it is said in words."""
    [missing] = harbour.after(6)
    assert missing["content"].startswith("[tool error] File does not exist.")
    [failed] = harbour.after(7)
    assert failed["content"].startswith("[tool error] Exit code 3")
    assert "so far" in failed["content"] and "so bad" in failed["content"]


def test_a_sub_agent(harbour: Harbour) -> None:
    """A sub-agent has a conversation of its own, with tools, and its report is the result of the call."""
    asked = [body for body in harbour.run.asked if body not in harbour.main]
    assert [len(answers(body)) for body in asked] == [0, 1]
    assert SUB_ERRAND in shown(asked[0]["messages"]) and ERRAND not in shown(asked[0]["messages"])
    assert asked[0]["messages"][0] != harbour.main[0]["messages"][0]
    counted, *_ = news(asked[1])
    assert (counted["role"], counted["content"]) == ("tool", "2")
    [report] = harbour.after(8)
    assert "There are two boats." in report["content"]


def test_the_head_stays(harbour: Harbour) -> None:
    """From turn to turn the prompt only grows: tools and earlier messages are the same to the byte."""
    for earlier, later in zip(harbour.main, harbour.main[1:], strict=False):
        assert encoded(later["tools"]) == encoded(earlier["tools"])
        assert encoded(later["messages"]).startswith(encoded(earlier["messages"])[:-1])
    names = [tool["function"]["name"] for tool in harbour.main[0]["tools"]]
    assert {"Agent", "Bash", "Edit", "Read", "Write"} < set(names)


def encoded(value: Any) -> str:
    """JSON with the keys in the order in which they came."""
    return json.dumps(value)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_continue(theatre: Stage, tmp_path: Path) -> None:
    """`--continue` sends the earlier conversation again, the same to the byte, and then the new question."""
    first = await theatre.run(
        tmp_path, by_turns(calls(shell("echo tide > tide.txt")), text("High.")), "-p", "How is the tide?", *ALLOWED
    )
    backend = by_turns(*[text("never")] * 2, text("Low."))
    second = await theatre.run(tmp_path, backend, "-p", "And now?", "--continue", *ALLOWED)
    assert (first.said, second.said) == ("High.\n", "Low.\n")
    assert (tmp_path / "tide.txt").read_text() == "tide\n"
    [*_, earlier], [later] = first.asked, second.asked
    assert encoded(later["messages"]).startswith(encoded(earlier["messages"])[:-1])
    assert later["messages"][len(earlier["messages"])] == {"role": "assistant", "content": "High."}
    assert "And now?" in shown(news(later))


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_json_schema(theatre: Stage, tmp_path: Path) -> None:
    """`--json-schema` asks by a tool whose schema reaches the backend, and prints what the model gave it."""
    properties = {"boats": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}}
    schema = {"type": "object", "properties": properties, "required": ["boats"], "additionalProperties": False}
    answer = {"boats": 2, "names": ["Möwe", "Lachs"]}
    run = await theatre.run(
        tmp_path,
        by_turns(calls(("StructuredOutput", answer)), text("Done.")),
        *("-p", "Which boats?", "--output-format", "json", "--json-schema", json.dumps(schema)),
    )
    assert json.loads(run.said)["structured_output"] == answer
    [given] = [tool for tool in run.asked[0]["tools"] if tool["function"]["name"] == "StructuredOutput"]
    assert given["function"]["parameters"] == schema


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_thoughts_go_back(theatre: Stage, tmp_path: Path) -> None:
    """A backend that wants its thoughts back gets them, to the letter, although the client never saw them.

    It gets no images, though, being blind: a note stands in.
    """
    (tmp_path / "boat.png").write_bytes(png())
    thoughts = "First I look.\n\nThen I “think”. 🐟 "
    run = await theatre.run(
        tmp_path,
        by_turns(
            calls(("Read", {"file_path": str(tmp_path / "boat.png")}), said="I look.", thoughts=thoughts),
            calls(shell("echo seen"), thoughts="Only thoughts."),
            text("A boat."),
        ),
        *("-p", "What is in the picture?", *ALLOWED),
        model="thinking",
    )
    assert run.said == "A boat.\n"
    assert [body["thinking"]["type"] for body in run.asked] == ["enabled"] * 3
    looked, ran = answers(run.asked[2])
    assert (looked["content"], looked["reasoning_content"]) == ("I look.", thoughts)
    assert ran["reasoning_content"] == "Only thoughts."
    [note] = news(run.asked[1])
    assert note["role"] == "tool" and "image" in note["content"]
    assert "image_url" not in shown(run.asked[2]["messages"])


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_web_search(theatre: Stage, tmp_path: Path) -> None:
    """A web search says that there is none, without asking the backend; a deferred tool comes when it is looked up."""
    run = await theatre.run(
        tmp_path,
        by_turns(
            calls(("ToolSearch", {"query": "select:WebSearch", "max_results": 1})),
            calls(("WebSearch", {"query": "herring"})),
            text("I cannot search."),
        ),
        *("-p", "Where is the herring?", *ALLOWED),
    )
    assert run.said == "I cannot search.\n"
    _, loaded, searched = run.asked
    assert shown(news(loaded)[0]["content"]).count("WebSearch") == 1
    names = [[tool["function"]["name"] for tool in body["tools"]] for body in run.asked]
    assert "WebSearch" not in names[0] and names[1] == names[2]
    assert {*names[1]} == {*names[0], "WebSearch"}
    [result] = news(searched)
    assert "unavailable" in result["content"] and "not set up" in result["content"]
    assert not any(name.startswith("Deferred") for name in names[0])


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_broken_arguments(theatre: Stage, tmp_path: Path) -> None:
    """Arguments that nobody can read reach the client as they are: it tells the model, which tries again (row 14)."""
    run = await theatre.run(
        tmp_path,
        by_turns(
            stream(*call_deltas("Bash", '{"command": "echo'), finish="tool_calls"),
            calls(("Frobnicate", {})),
            calls(shell("echo better > better.txt")),
            text("Done."),
        ),
        *("-p", "Try.", *ALLOWED),
    )
    assert run.said == "Done.\n" and (tmp_path / "better.txt").exists()
    [unread], [unknown] = news(run.asked[1]), news(run.asked[2])
    assert unread["content"].startswith("[tool error]") and "could not be parsed as JSON" in unread["content"]
    assert unknown["content"].startswith("[tool error]") and "Frobnicate" in unknown["content"]
    for body in run.asked:
        for call in [call for answer in answers(body) for call in answer["tool_calls"]]:
            assert isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_cut_within_a_call(theatre: Stage, tmp_path: Path) -> None:
    """A call that the limit cut off is not run: the client asks the model to go on in smaller pieces (row 15)."""
    cut = stream({"content": "I write."}, *call_deltas("Bash", '{"command": "echo h > half.txt'), finish="length")
    run = await theatre.run(
        tmp_path, by_turns(cut, calls(shell("echo whole > whole.txt")), text("Done.")), "-p", "Write.", *ALLOWED
    )
    assert run.said == "Done.\n"
    assert (tmp_path / "whole.txt").exists() and not (tmp_path / "half.txt").exists()
    assert "limit" in news(run.asked[1])[-1]["content"]


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_overflow(theatre: Stage, tmp_path: Path) -> None:
    """A window that overflows, in the backend's own words, makes the client sum up the conversation and go on."""
    full = {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 8000}
    overflow = error(400, {"error": {**full, "message": "request exceeds the available context size"}})
    talk = by_turns(*[calls(shell(f"echo {turn}")) for turn in range(3)], overflow)

    def backend(body: Any) -> Script:
        said = shown(body["messages"])
        if "CRITICAL: Respond with TEXT ONLY" in said:
            return text("<summary>The tide was counted.</summary>")
        return text("We went on.") if "The tide was counted." in said else talk(body)

    run = await theatre.run(tmp_path, backend, "-p", "Count the tide.", *ALLOWED)
    assert (run.status, run.said) == (0, "We went on.\n"), run
    assert "The tide was counted." in shown(run.asked[-1]["messages"])


@pytest.mark.tmux
@pytest.mark.slow
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_title(theatre: Stage, tmp_path: Path) -> None:
    """The screen's request for a title asks the backend for JSON by a schema, and the title is that of the terminal.

    The client asks for one only if it may talk to everybody, so that this needs a network with nobody on it. It is
    not a first start, which would insist on reaching Anthropic.
    """
    if not theatre.within:
        pytest.skip("there is no network here with nobody on it")
    settled = {"hasCompletedOnboarding": True, "projects": {str(tmp_path): {"hasTrustDialogAccepted": True}}}
    (tmp_path / ".claude.json").write_text(json.dumps(settled))
    variables = theatre.variables(tmp_path, "seeing")
    del variables["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"]
    pane = [PARTS["tmux"].place or "tmux", "-S", str(tmp_path / "tmux"), "display-message", "-p", "#{pane_title}"]
    command = theatre.command("--", "hello, where does the herring go in winter?")

    def sitting() -> None:
        with terminal(theatre.within, command, variables, tmp_path) as screen:
            screen.answer_questions()
            wait_until("the answer on the screen", 60, lambda: "Out to sea." in screen.text())
            wait_until("the title", 20, lambda: "Winter herring" in subprocess.check_output(pane, text=True))

    title = text('{"title": "Winter', ' herring"}')
    theatre.backend.answers = lambda body: title if "response_format" in body else text("Out to sea.")
    seen = len(theatre.backend.chats)
    await deferToThread(sitting)
    [asked] = [body for chat in theatre.backend.chats[seen:] if "response_format" in (body := chat.json)]
    form = asked["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"]["required"] == ["title"]
    assert asked["stream"] is True and "tools" not in asked

"""A conversation of 30 turns as Claude Code has them: prose, code, what commands print, and tools.

The prose is `prose.txt`: some of it is old enough to belong to everybody (Carroll, Melville, Austen, Lincoln, Dickens,
Thoreau, Doyle, Darwin, Kafka and others, by heart), the rest was written for this purpose. The code is this
repository's own, so that the conversation changes a little with it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROSE = [part.strip() for part in (Path(__file__).parent / "prose.txt").read_text("utf-8").split("%%")]
_SYSTEM, _READ_IT, _SEARCHED, _GO_ON = PROSE[-4:]


def _tool(name: str, description: str, required: int, /, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": [*properties][:required]}
    return {
        "name": name,
        "description": description,
        "input_schema": {**schema, "additionalProperties": False, "$schema": "http://json-schema.org/draft-07/schema#"},
    }


def _text(description: str, /, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _number(description: str, /, **more: Any) -> dict[str, Any]:
    return {"type": "number", "description": description, **more}


_PATH = _text("The absolute path of the file; relative paths are refused")
TOOLS = [
    _tool(
        "Read",
        "Reads a file from the local filesystem. Any file on the machine can be read this way. By default up to 2000 "
        "lines from the beginning of the file are read; a range can be given for longer files. Results come with line "
        "numbers, which begin at 1.\n\nUsage:\n- Images (PNG, JPG) are shown as images.\n- A folder cannot be read: "
        "list it with the Bash tool.\n- Read several files at once where you can.",
        1,
        file_path=_PATH,
        offset=_number("The line to begin with. Only for files that are too large to be read at once", minimum=0),
        limit=_number("How many lines to read", exclusiveMinimum=0, maximum=9007199254740991),
    ),
    _tool(
        "Edit",
        "Replaces a text in a file by another, exactly.\n\nUsage:\n- Read the file first; the edit fails otherwise.\n"
        "- Keep the indentation as it is behind the line number.\n- The edit FAILS if `old_string` is not unique in "
        "the file: give more of its surroundings, or use `replace_all`.",
        3,
        file_path=_PATH,
        old_string=_text("The text to replace"),
        new_string=_text("The text to replace it with (must be different from old_string)"),
        replace_all={"type": "boolean", "default": False, "description": "Replace every occurrence (default: false)"},
    ),
    _tool(
        "Write",
        "Writes a file, over what is there already. Prefer to edit files that exist. Never write documentation "
        "(*.md) unless you were asked for it.",
        2,
        file_path=_PATH,
        content=_text("The whole content of the file"),
    ),
    _tool(
        "Bash",
        "Runs a command in a shell and gives its output. The working directory is kept between commands, variables "
        "are not. Use the other tools rather than `cat`, `head`, `sed`, `awk` or `echo`.\n\n# Instructions\n- Quote "
        'paths with spaces: cd "path with spaces/file.txt"\n- Several commands that depend on each other belong into '
        "one call, joined with '&&'.\n- Do not use newlines to separate commands.\n- Never skip hooks (--no-verify) "
        "and never force a push, unless the user asks for it in so many words.",
        1,
        command=_text("The command to run"),
        timeout=_number("Milliseconds that it may take (at most 600000)"),
        description=_text("What the command does, in five to ten words. ls → Lists the files of the current folder"),
        run_in_background={"type": "boolean", "description": "Run it in the background and be told when it ends"},
    ),
    _tool(
        "Grep",
        'A search built on ripgrep. Full regular expressions ("log.*Error", "function\\s+\\w+"). Filter files with '
        'glob ("*.js", "**/*.tsx") or type ("js", "py", "rust"). Literal braces need a backslash: interface\\{\\}.',
        1,
        pattern=_text("The regular expression to look for"),
        path=_text("Where to look; the working directory if left out"),
        glob=_text('Which files to look at, e.g. "*.{ts,tsx}"'),
        output_mode=_text(
            "content shows lines, files_with_matches shows paths, count shows how many",
            enum=["content", "files_with_matches", "count"],
        ),
        **{"-A": _number("Lines to show after each match"), "-i": {"type": "boolean", "description": "Ignore case"}},
        head_limit=_number("Only the first so many lines. Defaults to 250; 0 is without a limit"),
    ),
    _tool(
        "TodoWrite",
        "Keeps a list of tasks for the session. Use it for work of three or more steps, and when the user gives "
        "several tasks; not for a single plain one. Exactly one task is in_progress at a time, and it is marked as "
        "completed as soon as it is done.",
        1,
        todos={
            "type": "array",
            "description": "The whole new list",
            "items": {
                "type": "object",
                "properties": {
                    "content": {"type": "string", "minLength": 1},
                    "status": {"type": "string", "enum": ["pending", "in_progress", "completed"]},
                    "activeForm": {"type": "string", "minLength": 1},
                },
                "required": ["content", "status", "activeForm"],
                "additionalProperties": False,
            },
        },
    ),
    _tool(
        "WebFetch",
        "Fetches a page and answers a question about it with a small, fast model. HTTP becomes HTTPS; pages are kept "
        "for 15 minutes; a redirect to another host is told and must be followed with a new call.",
        2,
        url=_text("Where the page is", format="uri"),
        prompt=_text("What to find out from it"),
    ),
    _tool(
        "mcp__tickets__search",
        "Search tickets by text, state, assignee or label. Returns at most 50 tickets, newest first.",
        1,
        query=_text("Words to look for, in title and body"),
        state=_text("Which tickets", enum=["open", "closed", "all"], default="open"),
        labels={"type": "array", "items": {"type": "string"}, "maxItems": 8},
        updated_after=_text("Only tickets that changed since (ISO 8601)", format="date-time"),
    ),
]

_TRACEBACK = """\
============================= test session starts ==============================
platform linux -- Python 3.11.7, pytest-9.2.0, pluggy-1.7.0
collected 214 items

tests/wire/test_lines.py ......................F.......                  [ 14%]
tests/wire/test_sse.py ...............................................   [ 36%]
tests/wire/test_ndjson.py .....................                          [ 46%]

=================================== FAILURES ===================================
_____________________ LinesTests.test_endless_line[1048577] ____________________

self = <tests.wire.test_lines.LinesTests testMethod=test_endless_line>

    def test_endless_line(self) -> None:
        lines = Lines(limit=1_048_576)
>       with self.assertRaises(LineTooLong) as caught:
E       AssertionError: LineTooLong not raised

tests/wire/test_lines.py:118: AssertionError
----------------------------- Captured stderr call -----------------------------
2026-03-14T09:26:53+0000 [claudeproxy.wire#warn] held 1048577 bytes, limit 1048576
=========================== short test summary info ============================
FAILED tests/wire/test_lines.py::LinesTests::test_endless_line[1048577]
1 failed, 213 passed, 2 warnings in 3.87s
"""


def _file(path: str) -> list[str]:
    return (ROOT / path).read_text("utf-8").splitlines()


def _numbered(path: str, first: int, last: int) -> str:
    """Lines of a file as the client shows them."""
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(_file(path)[first - 1 : last], first))


def _found(pattern: str, folder: str) -> str:
    hits = (
        f"{path.relative_to(ROOT)}:{number}:{line}"
        for path in sorted((ROOT / folder).glob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern in line
    )
    return "\n".join(list(hits)[:60])


def _listed(folder: str) -> str:
    paths = sorted((ROOT / folder).glob("*.py"))
    return "\n".join(
        f"-rw-r--r-- 1 dev dev {p.stat().st_size:6} Mar 14 09:{i:02} {p.name}" for i, p in enumerate(paths)
    )


class _Conversation:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._calls = 0

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def exchange(self, answer: str, question: str) -> None:
        """The model answers, and the user goes on."""
        self.messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        self.user(question)

    def call(self, text: str, *calls: tuple[str, dict[str, Any], str]) -> None:
        """The model says something and calls tools; their results are the next message."""
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        results: list[dict[str, Any]] = []
        for name, arguments, result in calls:
            self._calls += 1
            id = f"toolu_{self._calls:024}"
            blocks.append({"type": "tool_use", "id": id, "name": name, "input": arguments})
            results.append({"type": "tool_result", "tool_use_id": id, "content": result})
        self.messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]


def requests(prose: int = 0) -> Iterator[dict[str, Any]]:
    """The 30 requests, in Anthropic's terms; with another ``prose`` than 0 the user speaks of other things."""
    talk = _Conversation()
    parts = iter(PROSE[prose:-4] + PROSE[: min(prose, len(PROSE) - 4)])

    def read(path: str, first: int, last: int) -> tuple[str, dict[str, Any], str]:
        where = {"file_path": f"/home/dev/claudeproxy/{path}", "offset": first, "limit": last - first + 1}
        return "Read", where, _numbered(path, first, last)

    def run(command: str, printed: str) -> tuple[str, dict[str, Any], str]:
        return "Bash", {"command": command, "description": "Looks at what is there"}, printed

    def grep(pattern: str, folder: str) -> tuple[str, dict[str, Any], str]:
        asked = {"pattern": pattern, "path": folder, "output_mode": "content"}
        return "Grep", asked, _found(pattern, folder)

    def edit(path: str, first: int, last: int) -> tuple[str, dict[str, Any], str]:
        old = "\n".join(_file(path)[first - 1 : last])
        arguments = {"file_path": path, "old_string": old, "new_string": old.replace("self._", "self.")}
        return "Edit", arguments, f"The file {path} has been updated. All occurrences were replaced."

    todos = [
        {"content": text, "status": "pending", "activeForm": text} for text in ("Read lines.py", "Mend it", "Test")
    ]
    json_file = "tests/recordings/2.1.197-bash.json"
    steps: list[Any] = [
        lambda: talk.user("Please have a look at how lines are read.\n\n" + next(parts)),
        lambda: talk.call("I will read the module first.", read("claudeproxy/wire/lines.py", 1, 60)),
        lambda: talk.call(_READ_IT, grep("import", "claudeproxy/wire"), run("ls -l", _listed("claudeproxy/wire"))),
        lambda: talk.call("", ("TodoWrite", {"todos": todos}, "Todos have been modified.")),
        lambda: talk.call("Now the tests.", read("tests/wire/test_lines.py", 1, 90)),
        lambda: talk.exchange(_SEARCHED, _GO_ON),
        lambda: talk.call("", edit("claudeproxy/wire/lines.py", 20, 50)),
        lambda: talk.call("Let me run the tests.", run("python -m pytest -q tests/wire", _TRACEBACK)),
        lambda: talk.exchange(next(parts), next(parts)),
        lambda: talk.call("", read("claudeproxy/wire/sse.py", 1, 120)),
        lambda: talk.call("", run("cat " + json_file, "\n".join(_file(json_file)))),
        lambda: talk.call("What is in there is odd.", grep("def ", "claudeproxy/translate")),
        lambda: talk.exchange(next(parts), next(parts)),
        lambda: talk.call(next(parts), read("claudeproxy/translate/grammar.py", 1, 150)),
        lambda: talk.exchange("Done.", "Thanks. Next: " + next(parts)),
        lambda: talk.exchange(next(parts), next(parts)),
        lambda: talk.call(next(parts), run("ls -l tests/translate", _listed("tests/translate"))),
        lambda: talk.call(next(parts), edit("claudeproxy/backends/shared.py", 25, 90)),
        lambda: talk.call("", ("WebFetch", {"url": "https://example.org/", "prompt": "Sum it up"}, next(parts))),
        lambda: talk.exchange(next(parts), "Übersetze das bitte, wörtlich.\n\n" + next(parts)),
        lambda: talk.exchange(next(parts), "ok"),
        lambda: talk.call(next(parts), read("claudeproxy/backends/embedded.py", 1, 130)),
        lambda: talk.call("", grep("self.assert", "tests/wire"), read("README.md", 1, 60)),
        lambda: talk.exchange(next(parts), next(parts)),
        lambda: talk.call(next(parts), read("claudeproxy/routing/settings.py", 1, 150)),
        lambda: talk.call("", run("git show --stat", "\n".join(_file("pyproject.toml")))),
        lambda: talk.exchange(next(parts), next(parts)),
        lambda: talk.call("", edit("claudeproxy/translate/chat_request.py", 30, 100)),
        lambda: talk.call("", run("python -m pytest -q", _TRACEBACK.replace("F", ".").replace("1 failed, ", ""))),
        lambda: talk.exchange(next(parts), "Sum up what we did, in three sentences."),
    ]
    for step in steps:
        step()
        yield {
            "model": "tiny",
            "max_tokens": 1024,
            "system": _SYSTEM,
            "tools": TOOLS,
            "messages": [*talk.messages],
            "metadata": {"user_id": "dev"},
        }

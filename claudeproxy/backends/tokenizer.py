"""A model's own tokenizer and chat template, from the files it is published with (the extra ``[tokenizers]``).

Templates are rendered by the conventions of Hugging Face's transformers: what they may use is what these give them.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from attrs import field
from twisted.internet.defer import DeferredLock

from claudeproxy.backends.unusable import BadTokenizer
from claudeproxy.model.kinds import define, frozen
from claudeproxy.translate.prompt_size import texts_and_images
from claudeproxy.wire.json import NotJSON, decode, encode

EXTRA = "pip install 'claudeproxy[tokenizers]'"
#: What stands around a message where no template says it, and what opens the reply (PROTOCOL 6.4).
_AROUND_A_MESSAGE, _REPLY = 4, 3
#: Bytes of the largest file that is read: those of models with 260,000 tokens have some 35 MB.
_LARGEST = 256 * 1024**2

#: Runs a function in a thread: ``deferToThread``.
RunInThread = Callable[[Callable[[], int]], Awaitable[int]]


@frozen
class Vocabulary:
    """A tokenizer, and how its model writes a conversation down, as far as that is known."""

    _tokenizer: Any
    _template: Any
    #: The names of special tokens, as templates know them.
    _special: Mapping[str, str]

    def count(self, body: Mapping[str, Any]) -> int:
        """The tokens of a translated request but for its images. Takes a while for a long one: for a thread."""
        messages = body.get("messages")
        if self._template is None or not isinstance(messages, list):
            return self._bare(body)
        try:
            written = self.render(body)
        except Exception:  # a template may raise anything; what it refuses, servers mend in ways of their own
            return self._bare(body)
        return self._tokens(written)

    def render(self, body: Mapping[str, Any]) -> str:
        """The prompt as the template writes it. Raises whatever the template does."""
        # Through JSON, because the definitions of tools are kept as their own bytes.
        plain = decode(encode({name: body.get(name) for name in ("messages", "tools", "chat_template_kwargs")}))
        messages = [_message(message) for message in plain["messages"]]
        written: str = self._template.render(
            **self._special,
            **(plain["chat_template_kwargs"] or {}),
            messages=messages,
            tools=plain["tools"] or None,
            documents=None,
            add_generation_prompt=messages[-1]["role"] != "assistant",
        )
        return written

    def _bare(self, body: Mapping[str, Any]) -> int:
        messages = body.get("messages") or body.get("input") or ()
        texts = [text for message in messages for text in texts_and_images(message)[0]]
        if body.get("tools"):
            texts.append(encode(body["tools"]).decode())
        return sum(map(self._tokens, texts)) + _AROUND_A_MESSAGE * len(messages) + _REPLY

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)


def read_vocabulary(path: Path, setting: str) -> Vocabulary:
    """The file ``tokenizer.json`` at ``path``, or in that folder, with the template beside it.

    Raises `BadTokenizer`, which names the ``setting``.
    """

    def refuse(why: object) -> NoReturn:
        raise BadTokenizer(f"{setting}: {why}: {path}")

    try:
        tokenizers = import_module("tokenizers")
        import_module("jinja2")
    except ImportError as fault:
        raise BadTokenizer(f"{setting}: needs the extra [tokenizers] ({EXTRA}): {fault}") from None
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = tokenizers.Tokenizer.from_str(_text(file))
    except OSError as fault:
        refuse(f"expected a tokenizer.json that can be read ({fault.strerror})")
    except Exception as fault:  # the library raises bare Exceptions
        refuse(f"expected a tokenizer.json ({str(fault)[:200]})")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        template, special = _template_beside(file)
        compiled = _compiled(template) if template else None
    except OSError as fault:
        refuse(f"expected a chat template that can be read ({fault.strerror})")
    except (ValueError, import_module("jinja2").TemplateError) as fault:
        refuse(f"expected a chat template beside it that can be used ({str(fault)[:200]})")
    return Vocabulary(tokenizer, compiled, special)


@define(eq=False)
class TokenizerFile:
    """The file of one model. It is read when it is first needed; all work is done in a thread."""

    _path: Path
    #: The setting's name, for messages.
    _setting: str
    _run_in_thread: RunInThread
    _vocabulary: Vocabulary | None = field(default=None, init=False)
    _fault: str = field(default="", init=False)
    _turn: DeferredLock = field(factory=DeferredLock, init=False)

    async def count(self, body: Mapping[str, Any]) -> int:
        """The tokens of a translated request but for its images. Raises `BadTokenizer`. Safe to cancel."""
        await self._turn.acquire()  # one thread is enough: the others are for reading documents and names
        try:
            return await self._run_in_thread(partial(self._count, body))
        finally:
            self._turn.release()

    def _count(self, body: Mapping[str, Any]) -> int:
        if self._fault:
            raise BadTokenizer(self._fault)
        if self._vocabulary is None:
            try:
                self._vocabulary = read_vocabulary(self._path, self._setting)
            except BadTokenizer as fault:
                self._fault = str(fault)
                raise
        return self._vocabulary.count(body)


def _text(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise BadTokenizer(f"more than {_LARGEST} bytes in {file.name}")
    return data.decode("utf-8")


def _template_beside(file: Path) -> tuple[str, dict[str, str]]:
    """The chat template, "" if there is none, and the special tokens. Raises OSError, ValueError."""
    configuration: Any = {}
    beside = file.with_name("tokenizer_config.json")
    if beside.is_file():
        configuration = decode(_text(beside).encode())
        if not isinstance(configuration, dict):
            raise ValueError(f"{beside.name} is no JSON object")
    special = {}
    for name, value in configuration.items():
        token = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(token, str):
            special[name] = token
    alone = file.with_name("chat_template.jinja")
    if alone.is_file():
        return _text(alone), special
    template = configuration.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        named = {each["name"]: each["template"] for each in template if isinstance(each, dict) and len(each) == 2}
        template = named.get("tool_use") or named.get("default") or ""
    if not isinstance(template, str):
        raise ValueError(f"the chat_template in {beside.name} is no text")
    return template, special


def _compiled(template: str) -> Any:
    """The template as transformers would run it. Raises what jinja2 raises for a bad one."""
    sandbox = import_module("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment.from_string(template)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(reason: object) -> NoReturn:
    """What a template calls for a conversation that it cannot write down."""
    raise ValueError(str(reason))


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """As templates expect it: arguments are objects, a content is a text."""
    content = message.get("content")
    if not isinstance(content, str):
        parts = (part["text"] for part in content or () if isinstance(part.get("text"), str))
        message["content"] = "\n\n".join(parts)
    for call in message.get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        if isinstance(arguments, str):
            try:
                call["function"]["arguments"] = decode(arguments.encode())
            except NotJSON:
                pass  # then it is the text that is written down
    return message

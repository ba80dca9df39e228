"""A model's own tokenizer."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.tokenizer import TokenizerFile, Vocabulary, read_vocabulary
from claudeproxy.backends.unusable import BadTokenizer
from claudeproxy.translate.chat_request import to_chat
from claudeproxy.translate.dialects import DIALECTS
from claudeproxy.wire.json import encode
from claudeproxy.wire.requests import parse_messages

TEXT = Path(__file__).read_text("utf-8")
TOOLS = Path(__file__).parent.parent / "e2e" / "tools.jinja"
TEMPLATE = """\
{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'developer' %}
        {{ raise_exception('no such role') }}
    {% endif %}
    {% if message.tool_calls %}
{{ message.tool_calls[0].function.arguments.city }}
        {% continue %}
    {% endif %}
<|{{ message.role }}|>{{ message['content'] }}<|end|>
{% endfor %}
{% if tools %}{{ tools | tojson }}{% endif %}
{% if add_generation_prompt %}<|assistant|>{% endif %}
{% if enable_thinking %}{{ strftime_now('%Y') | length }}{% endif %}
"""
REQUEST = {
    "model": "m",
    "max_tokens": 9,
    "system": "Be brief.",
    "tools": [{"name": "look", "description": "Über <alles>", "input_schema": {"type": "object", "properties": {}}}],
    "messages": [
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"city": "Rom"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Sunny."}]},
    ],
}


def trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<|user|>", "<|assistant|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def body(**changes: Any) -> dict[str, Any]:
    return to_chat(parse_messages(encode({**REQUEST, **changes})).request, "m", DIALECTS["llama.cpp"]).body


class VocabularyTests(SynchronousTestCase):
    """`read_vocabulary` and what it gives."""

    tokenizer = trained()

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "tokenizer.json"
        self.tokenizer.save(str(self.file))

    def write(self, name: str, content: Any) -> None:
        (self.folder / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")

    def read(self) -> Vocabulary:
        return read_vocabulary(self.file, "backends.b.tokenizers.m")

    def tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def test_template(self) -> None:
        """The prompt is written as the template says, by transformers' conventions, and counted as it stands."""
        self.write("tokenizer_config.json", {"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE})
        written = (
            "<s>\n<|system|>Be brief.<|end|>\n<|user|>The weather?<|end|>\nRom\n<|tool|>Sunny.<|end|>\n"
            '[{"type": "function", "function": {"name": "look", "description": "Über <alles>", '
            '"parameters": {"type": "object", "properties": {}}}}]<|assistant|>'
        )
        vocabulary = self.read()
        asked = {**body(), "chat_template_kwargs": {"enable_thinking": True}}
        self.assertEqual(vocabulary.render(asked).replace("\n\n", "\n").rstrip("\n"), written + "4")
        self.assertEqual(vocabulary.count(asked), self.tokens(vocabulary.render(asked)))

    def test_beside(self) -> None:
        """A template in a file of its own goes before the configuration's; of several, the one for tools is taken."""
        named = [{"name": "default", "template": "no"}, {"name": "tool_use", "template": "tools"}]
        self.write("tokenizer_config.json", {"chat_template": named})
        self.assertEqual(self.read().render(body()), "tools")
        self.write("chat_template.jinja", "alone {{ messages | length }}")
        self.assertEqual(read_vocabulary(self.folder, "x").render(body()), "alone 4")

    def test_repository_template(self) -> None:
        """The template that the tests give to llama.cpp is written down too, tools, calls and all."""
        self.write("chat_template.jinja", TOOLS.read_text("utf-8"))
        written = self.read().render(body())
        for part in ('"name": "look"', ">>>look\n", '{"city": "Rom"}', "Sunny.", "The weather?"):
            self.assertIn(part, written)
        self.assertTrue(written.endswith(">>>"))

    def test_begun_answer(self) -> None:
        """An answer that the client began is gone on with: nothing opens another."""
        self.write("tokenizer_config.json", {"chat_template": TEMPLATE})
        begun = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]}
        self.assertNotIn("<|assistant|>W<|assistant|>", self.read().render(begun))
        self.assertTrue(self.read().render(begun).rstrip().endswith("Well<|end|>"))

    def test_no_template(self) -> None:
        """Without a template it is the text, the tools, and what usually stands around them."""
        tools = encode(body()["tools"]).decode()
        words = ["Be brief.", "The weather?", "look", '{"city":"Rom"}', "Sunny.", tools]
        self.assertEqual(self.read().count(body()), sum(map(self.tokens, words)) + 4 * 4 + 3)
        items = {"input": [{"type": "message", "role": "user", "content": "Hi"}]}
        self.assertEqual(self.read().count(items), self.tokens("Hi") + 7)

    def test_refused(self) -> None:
        """What the template does not want is counted as if there were none."""
        vocabulary = self.read()
        strange = {"messages": [{"role": "developer", "content": "Be brief."}]}
        bare = vocabulary.count(strange)
        self.write("tokenizer_config.json", {"chat_template": TEMPLATE})
        self.assertEqual(self.read().count(strange), bare)
        with self.assertRaisesRegex(ValueError, "no such role"):
            self.read().render(strange)

    def test_sandbox(self) -> None:
        """A template cannot get at the program that runs it."""
        self.write("chat_template.jinja", "{{ messages.__class__.__mro__[1].__subclasses__() }}")
        with self.assertRaises(Exception) as caught:
            self.read().render(body())
        self.assertEqual(type(caught.exception).__name__, "SecurityError")

    def test_long(self) -> None:
        """A file that says to cut texts short, or to fill them up, is not obeyed; odd characters count."""
        cutting = Tokenizer.from_str(self.tokenizer.to_str())
        cutting.enable_truncation(4)
        cutting.enable_padding(length=50)
        cutting.save(str(self.file))
        text = "word " * 100
        self.assertEqual(self.read().count({"messages": [{"role": "user", "content": text}]}), self.tokens(text) + 7)
        self.assertGreater(self.read().count({"messages": [{"role": "user", "content": "\ud800"}]}), 7)

    def test_bad_files(self) -> None:
        """What is wrong with a file is said with the setting's name and the file's."""
        self.write("tokenizer_config.json", "[]")
        self.refused("no JSON object")
        self.write("tokenizer_config.json", {"chat_template": 7})
        self.refused("is no text")
        self.write("tokenizer_config.json", {"chat_template": "{% for %}"})
        self.refused("chat template")
        self.write("tokenizer.json", "{}")
        self.refused("expected a tokenizer.json")
        self.file.unlink()
        self.refused("No such file")

    def refused(self, why: str) -> None:
        with self.assertRaises(BadTokenizer) as caught:
            self.read()
        for part in ("backends.b.tokenizers.m: ", why, str(self.file)):
            self.assertIn(part, str(caught.exception))

    def test_no_library(self) -> None:
        """Without the libraries it says what to install."""
        for missing in ("tokenizers", "jinja2"):
            with patch.dict(sys.modules, {missing: None}), self.assertRaises(BadTokenizer) as caught:
                self.read()
            self.assertIn("backends.b.tokenizers.m: needs the extra [tokenizers]", str(caught.exception))


class TokenizerFileTests(SynchronousTestCase):
    """`TokenizerFile`."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "tokenizer.json"
        VocabularyTests.tokenizer.save(str(self.path))
        self.works: list[tuple[Callable[[], int], Deferred[int]]] = []
        self.file = TokenizerFile(self.path, "tokenizer", self.in_thread)

    async def in_thread(self, work: Callable[[], int]) -> int:
        done: Deferred[int] = Deferred()
        self.works.append((work, done))
        return await done

    def count(self, text: str) -> Deferred[int]:
        return Deferred.fromCoroutine(self.file.count({"messages": [{"role": "user", "content": text}]}))

    def run_next(self) -> None:
        work, done = self.works.pop()
        try:
            done.callback(work())
        except BadTokenizer as fault:
            done.errback(fault)

    def test_in_a_thread(self) -> None:
        """All is done in a thread, one count at a time; the file is read once."""
        first, second = self.count("Hello"), self.count("Hello")
        self.assertEqual(len(self.works), 1)
        self.run_next()
        self.path.unlink()
        self.run_next()
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))

    def test_bad(self) -> None:
        """A bad file is a fault each time, and is looked at once."""
        self.path.write_text("{}")
        for _ in range(2):
            counting = self.count("Hello")
            self.run_next()
            self.failureResultOf(counting, BadTokenizer)
            VocabularyTests.tokenizer.save(str(self.path))

    def test_cancelled(self) -> None:
        """Who goes away leaves the others in peace."""
        first, second, third = self.count("a"), self.count("b"), self.count("Hello")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.run_next()
        self.assertGreater(self.successResultOf(third), 7)

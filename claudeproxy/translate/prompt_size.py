"""How large a translated request is, in terms from which its tokens can be estimated (PROTOCOL 6.3, 6.4; pure).

Bytes alone tell little: prose has some 4.5 of them in a token, code 3, a table of numbers 2. What tells prose from
code is how often letters are interrupted. So text is measured as its letters and words, its digits, its stretches of
punctuation, its lines, and what lies beyond ASCII; `learning` has a weight for each. On the embedded model's
tokenizer this leaves an error of 5 % for a single message, where bytes leave 17 %.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from math import ceil
from string import ascii_letters
from string import digits as ascii_digits
from typing import Any

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.wire.image_size import size_of_base64
from claudeproxy.wire.json import encode

#: One text: letters, words, digits, stretches of punctuation, stretches of line ends, all other ASCII, and bytes beyond
#: ASCII.
Texture = tuple[int, int, int, int, int, int, int]

_NOTHING: Texture = (0, 0, 0, 0, 0, 0, 0)
#: A class of bytes is a bit, so that arithmetic on the text as one long number counts all its bytes at once.
_LETTER, _MARK, _DIGIT, _BLANK, _END, _WIDE = 1, 2, 4, 8, 16, 32
_LETTERS, _DIGITS, _BEYOND = ascii_letters.encode(), ascii_digits.encode(), bytes(range(128, 256))
_MEMBERS = {_LETTER: _LETTERS, _DIGIT: _DIGITS, _BLANK: b" \t", _END: b"\r\n", _WIDE: _BEYOND}
_CLASSES = bytes(next((bit for bit, those in _MEMBERS.items() if byte in those), _MARK) for byte in range(256))
#: Texts whose texture is remembered: a conversation brings all that was said before with every request.
MEMORY = 4096

#: Where an image's size cannot be read, it is taken for one of about a thousand pixels square.
_USUAL_TILES, _USUAL_PATCHES = 4, 1024
#: Fields of a message that hold text, and those that hold text or a list of parts.
_TEXTS = ("reasoning_content", "reasoning", "thinking", "name", "arguments")
_PARTS = ("content", "output", "summary", "reasoning_details")


@frozen
class Size:
    """The size of a prompt. Every number is that of the whole prompt."""

    texture: Texture = _NOTHING
    #: Bytes of the tools' definitions as JSON, and how many there are.
    schema_bytes: int = 0
    tools: int = 0
    messages: int = 0
    #: Tokens that the images may have, going by their pixels.
    image_tokens: int = 0
    #: What tells this conversation from all others: a number for the tools with the first message, one for these with
    #: the second one, and so on. It means something only in the process that measured it.
    trail: tuple[int, ...] = field(default=(), repr=False)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all text."""
        letters, _, digits, _, _, others, wide = self.texture
        return letters + digits + others + wide

    @property
    def vector(self) -> tuple[int, ...]:
        """All numbers in a row, for whoever has a weight for each."""
        return (*self.texture, self.schema_bytes, self.tools, self.messages, self.image_tokens)


def texture_of(text: str) -> Texture:
    """What ``text`` is made of. About 5 µs for a thousand characters."""
    data = text.encode("utf-8", "surrogatepass")
    number = int.from_bytes(data.translate(_CLASSES), "little")
    # The classes of all bytes whose class is another than that of the byte before.
    begins = (number & (number ^ number << 8)).to_bytes(len(data), "little").translate(None, b"\0")
    rest = data.translate(None, _LETTERS)
    digits = len(rest) - len(rest.translate(None, _DIGITS))
    wide = 0 if text.isascii() else len(rest) - len(rest.translate(None, _BEYOND))
    others = len(rest) - digits - wide
    return len(data) - len(rest), begins.count(_LETTER), digits, begins.count(_MARK), begins.count(_END), others, wide


def tiled(size: tuple[int, int] | None) -> int:
    """OpenAI's tokens of an image: by tiles of 512 pixels, after it was made to fit (PROTOCOL 6.4)."""
    tiles = _USUAL_TILES
    if size is not None:
        shrink = min(1.0, 2048 / max(size))
        shrink = min(shrink, 768 / min(size))
        tiles = ceil(round(size[0] * shrink) / 512) * ceil(round(size[1] * shrink) / 512)
    return 85 + 170 * max(1, tiles)


def patched(size: tuple[int, int] | None) -> int:
    """A local model's tokens of an image: by patches of 28 pixels, between bounds that most models have."""
    if size is None:
        return _USUAL_PATCHES
    return max(64, min(2048, ceil(size[0] / 28) * ceil(size[1] / 28)))


@define(eq=False)
class PromptScale:
    """Measures requests; remembers the texture of texts it has seen, by their hash, so that only what is new costs."""

    _memory: int = MEMORY
    _known: OrderedDict[int, Texture] = field(factory=OrderedDict, init=False)

    def measure(self, body: Mapping[str, Any], dialect: str = "") -> Size:
        """The size of a body for Chat Completions, Ollama or the Responses API. Images count by their pixels."""
        offered = body.get("tools")
        schemas = encode(offered) if offered else b""
        messages = body.get("messages") or body.get("input") or ()
        if isinstance(messages, str):
            messages = ({"content": messages},)
        mark, trail, textures, image_tokens = hash(schemas), [], [], 0
        for message in messages:
            texts, images = texts_and_images(message)
            for text in texts:
                key = hash(text)
                textures.append(self._known.get(key) or self._weigh(key, text))
                mark = hash((mark, key))
            for image in images:
                size = size_of_base64(image)
                image_tokens += tiled(size) if dialect == "openai" else patched(size)
                mark = hash((mark, len(image), image[-256:]))
            mark = hash((mark, message.get("role")))
            trail.append(mark)
        texture: Any = tuple(map(sum, zip(*textures, strict=True))) if textures else _NOTHING
        return Size(texture, len(schemas), len(offered or ()), len(messages), image_tokens, tuple(trail))

    def _weigh(self, key: int, text: str) -> Texture:
        texture = self._known[key] = texture_of(text)
        if len(self._known) > self._memory:
            self._known.popitem(last=False)
        return texture


def texts_and_images(message: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The texts of a message, and its images: each as its base64, or "" if it is elsewhere."""
    texts: list[str] = []
    images: list[str] = []
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:  # a role and a text: nearly all of them
        return [content], images
    for name in _TEXTS:
        value = message.get(name)
        if isinstance(value, str):
            texts.append(value)
    for name in _PARTS:
        _read_parts(message.get(name), texts, images)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = function["arguments"]
        texts += function["name"], arguments if isinstance(arguments, str) else encode(arguments).decode()
    images += message.get("images") or ()
    hidden = message.get("encrypted_content")
    if isinstance(hidden, str):  # reasoning that only its maker can read; base64 makes 3 bytes 4
        texts.append("a " * (len(hidden) * 3 // 4 // 10))
    return texts, images


def _read_parts(value: Any, texts: list[str], images: list[str]) -> None:
    if isinstance(value, str):
        texts.append(value)
        return
    for part in value or ():
        url = part.get("image_url")
        if url is not None:
            images.append(_inline(url.get("url", "") if isinstance(url, dict) else url))
        else:
            texts += _said(part)


def _said(part: Mapping[str, Any]) -> Iterable[str]:
    return (part[name] for name in ("text", "summary", "data") if isinstance(part.get(name), str))


def _inline(url: str) -> str:
    head, _, data = url.partition(";base64,")
    return data if head.startswith("data:") else ""

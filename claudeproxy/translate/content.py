"""Content blocks to what a chat message can hold: texts and images (PROTOCOL 1.6, 4.1)."""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field

from claudeproxy.model.anthropic import (
    Base64Source,
    Block,
    ContentSource,
    DocumentBlock,
    FileSource,
    ImageBlock,
    OtherBlock,
    SearchResultBlock,
    Source,
    TextBlock,
    TextSource,
    ToolReferenceBlock,
    URLSource,
)
from claudeproxy.model.documents import Paper, Papers
from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Refusal, invalid_request
from claudeproxy.translate.names import shortened
from claudeproxy.wire.json import encode_text

#: What stands in for an image that the model cannot see.
NO_IMAGE = "[image omitted: this model cannot see images]"
#: The head of a GIF with its table of colours, in characters of base64; a multiple of four.
_GIF_HEAD = 1200
_SERVER_RESULTS = ("_tool_result", "server_tool_use")


@frozen
class Image:
    """An image as a part of a chat message."""

    url: str

    def part(self) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.url}}


Piece = str | Image


@define
class ContentReader:
    """Reads blocks; remembers what got lost, by the block's type."""

    #: The model has eyes, as far as is known.
    sees: bool = True
    #: An image for a blind model is an error rather than a note.
    refuse_images: bool = False
    papers: Papers = field(factory=dict)
    #: The media types of images that the server can decode; none if nothing is known.
    image_types: tuple[str, ...] = ()
    lost: list[str] = field(factory=list, init=False)

    def pieces(self, blocks: Iterable[Block]) -> list[Piece]:
        """Texts and images of ``blocks``, in their order; empty texts are left out."""
        return [piece for block in blocks for piece in self._pieces(block) if piece != ""]

    def _pieces(self, block: Block) -> Iterator[Piece]:
        match block:
            case TextBlock(text):
                yield text
            case ImageBlock(source):
                yield self._image(source)
            case DocumentBlock():
                yield from self._document(block)
            case SearchResultBlock(source, title, content):
                self._note_citations("search_result", block.citations)
                yield f"[Search result: {title} ({source})]"
                yield from self.pieces(content)
            case ToolReferenceBlock(name):
                yield _now_available(name)
            case OtherBlock(kind, fields) if kind.endswith(_SERVER_RESULTS):
                yield _server_history(kind, fields)
            case OtherBlock("tool_addition", {"tool": {"type": "tool_reference", "name": str(name)}}):
                yield _now_available(name)
            case OtherBlock("container_upload"):
                words = "a block of type container_upload needs a container: this backend has none; send the file's"
                raise Refusal(invalid_request(f"messages: {words} content as text, image or document"))
            case OtherBlock(kind):
                self.lost.append(kind)
            case _:
                self.lost.append(_kind(block))

    def _image(self, source: Source) -> Piece:
        match source:
            case FileSource():
                raise _no_files("image")
            case Base64Source(media_type, data):
                kind = media_type.lower()
                if self.sees and self.image_types and kind not in self.image_types:
                    return self._undecodable(kind)
                if self.sees and self.image_types and kind == "image/gif" and _moves(data):
                    self.lost.append("image (all pictures of a GIF but the first)")
                url = f"data:{media_type};base64,{data}"
            case URLSource(url):
                pass
            case _:
                raise Refusal(invalid_request("image.source: Input should be one of base64, url, file"))
        return Image(url) if self.sees else self._unseen()

    def _unseen(self) -> str:
        if self.refuse_images:
            raise Refusal(invalid_request("image: this backend's model cannot see images"))
        self.lost.append("image")
        return NO_IMAGE

    def _undecodable(self, kind: str) -> str:
        if self.refuse_images:
            raise Refusal(invalid_request(f"image: this backend's model cannot see {kind} images"))
        self.lost.append(f"image ({kind})")
        return f"[image omitted: {kind} cannot be read here]"

    def _note_citations(self, kind: str, citations: Any) -> None:
        """No translated backend can be asked to quote, and none marks what it quotes."""
        if isinstance(citations, dict) and citations.get("enabled"):
            self.lost.append(f"{kind}.citations")

    def _document(self, block: DocumentBlock) -> Iterator[Piece]:
        self._note_citations("document", block.citations)
        yield f"[Document: {block.title}]" if block.title else "[Document]"
        if block.context:
            yield block.context
        match block.source:
            case TextSource(data):
                yield data
            case ContentSource(content):
                yield from self.pieces(content)
            case Base64Source(kind, data) if kind.lower() == "application/pdf":
                yield from self._paper(data)
            case Base64Source(media_type, _):
                yield self._unread(f"{media_type} cannot be read")
            case URLSource():
                yield self._unread("documents are not fetched from the network")
            case FileSource():
                raise _no_files("document")

    def _paper(self, data: str) -> Iterator[Piece]:
        paper = self.papers.get(data)
        if not isinstance(paper, Paper):
            yield self._unread(paper.reason if paper is not None else "PDF documents cannot be read here")
            return
        for number, text in enumerate(paper.pages, 1):
            yield f"[Page {number}]\n{text}".rstrip()
        if paper.left_out:
            self.lost.append("document.pages")
            yield f"[{paper.left_out} more pages omitted]"
        if self.sees:
            for image in paper.images:
                yield Image("data:image/png;base64," + b64encode(image).decode())

    def _unread(self, reason: str) -> str:
        self.lost.append("document")
        return f"[document omitted: {reason}]"


def text_of(pieces: Iterable[Piece]) -> str:
    """The texts alone."""
    return "\n\n".join(piece for piece in pieces if isinstance(piece, str))


def chat_content(pieces: list[Piece]) -> str | list[dict[str, Any]]:
    """The content of a chat message: a text where there are only texts, because many templates choke on lists."""
    if not any(isinstance(piece, Image) for piece in pieces):
        return text_of(pieces)
    parts: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, Image):
            parts.append(piece.part())
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += "\n\n" + piece
        else:
            parts.append({"type": "text", "text": piece})
    return parts


def _now_available(name: str) -> str:
    """By the name that the model knows the tool by (PROTOCOL 4.1.12)."""
    return f"Tool {shortened(name)} is now available."


def _moves(data: str) -> bool:
    """Whether a GIF repeats its pictures: the mark stands before the first of them."""
    try:
        return b"NETSCAPE2.0" in b64decode(data[:_GIF_HEAD])
    except ValueError:
        return False  # no base64: the server's own error says so


def _no_files(kind: str) -> Refusal:
    return Refusal(invalid_request(f"{kind}.source.file_id: files are not available on this backend; send the data"))


def _server_history(kind: str, fields: Mapping[str, Any]) -> str:
    """What a server's tool did earlier, as text (PROTOCOL 4.1.14)."""
    if kind == "server_tool_use":
        return f"[{fields.get('name', 'tool')} was called with {encode_text(fields.get('input') or {})}]"
    content = fields.get("content")
    tool = kind.removesuffix("_tool_result")
    if isinstance(content, dict) and "error_code" in content:
        return f"[{tool} failed: {content['error_code']}]"
    return "\n".join([f"[{tool} found]", *filter(None, _words(content))])


#: Where the results of servers' tools hold what a model can read; the rest is for the server that made them.
_READABLE = ("title", "url", "text", "stdout", "stderr", "tool_name", "content", "source", "data", "tool_references")


def _words(found: Any) -> Iterator[str]:
    """The readable texts of a server tool's result; those of one entry side by side."""
    match found:
        case str():
            yield found
        case list():
            for each in found:
                yield from _words(each)
        case dict() if found.get("media_type", "text/plain") == "text/plain":
            inner = [_read(key, found[key]) for key in _READABLE if found.get(key)]
            yield " ".join(each for each in inner if isinstance(each, str))
            yield from _words([each for each in inner if not isinstance(each, str)])


def _read(key: str, value: Any) -> Any:
    return shortened(value) if key == "tool_name" and isinstance(value, str) else value


def _kind(block: Block) -> str:
    """``tool_result`` for a `ToolResultBlock`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(block).__name__.removesuffix("Block")).lower()

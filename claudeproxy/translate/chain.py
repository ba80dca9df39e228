"""Fingerprints of translated requests: what must be remembered of one to tell how another goes on from it (pure).

A `Chain` holds a digest for each thing that templates write at the prompt's head, and one for each message after it.
They are digests of the JSON that is sent, so that a difference of one byte counts, as it does for the backend. They
are not chained themselves, so that a message left out can be told from one that changed.
"""

from array import array
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from attrs import field

from claudeproxy.model.kinds import frozen
from claudeproxy.translate.prompt_size import texts_and_images
from claudeproxy.wire.json import encode

#: Messages that are told apart; beyond, so many at a time share a digest.
FINE = 4096
GROUP = 64
_DIGEST = 8
#: What an image weighs, whatever its bytes: about a thousand tokens.
_IMAGE_BYTES = 4000
_HEAD_ROLES = ("system", "developer")
#: Fields of a body that some template or server writes into the prompt, before the messages.
_SETTINGS = (
    "chat_template_kwargs",
    "reasoning_effort",
    "reasoning",
    "thinking",
    "think",
    "response_format",
    "format",
    "text",
)


@frozen
class Chain:
    """A prompt's fingerprint: about 14 bytes a message."""

    #: Where it goes: another dialect, backend or model has none of it.
    backend: str
    model: str
    tools: bytes
    system: bytes
    settings: bytes
    #: The place of the first message behind the head, in the list that is sent.
    first: int
    #: Messages, as far as they are told apart. Those of a group that is not full yet are left out.
    roles: str = field(repr=False)
    digests: bytes = field(repr=False)
    #: How long the prompt is up to the end of the head, and to the end of each message, in bytes; images are weighed.
    ends: "array[int]" = field(repr=False)

    @classmethod
    def of(cls, body: Mapping[str, Any], backend: str = "") -> "Chain":
        """Of a body for Chat Completions, Ollama or the Responses API. ``backend`` names server and dialect."""
        said = body.get("messages") or body.get("input") or ()
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        first = 0
        while first < len(messages) and messages[first].get("role") in _HEAD_ROLES:
            first += 1
        tools, system, settings = (
            encode(part) if part else b""
            for part in (
                body.get("tools"),
                [body.get("instructions"), *messages[:first]],
                {name: body[name] for name in _SETTINGS if name in body},
            )
        )
        chain = _Links(len(tools) + len(system) + len(settings))
        chain.add(messages[first:])
        return cls(
            backend,
            str(body.get("model", "")),
            _digest(tools),
            _digest(system),
            _digest(settings),
            first,
            "".join(chain.roles),
            b"".join(chain.digests),
            chain.ends,
        )

    def __len__(self) -> int:
        return len(self.roles)

    @property
    def head(self) -> tuple[str, str, bytes, bytes, bytes]:
        """All that comes before the first message, and where it goes."""
        return self.backend, self.model, self.tools, self.system, self.settings

    @property
    def size(self) -> int:
        """In bytes."""
        return self.ends[-1]

    def common(self, other: "Chain") -> int:
        """With how many equal messages both begin, whatever their heads."""
        low, high = 0, min(len(self), len(other))
        while low < high:
            middle = (low + high + 1) // 2
            span = slice(low * _DIGEST, middle * _DIGEST)
            low, high = (middle, high) if self.digests[span] == other.digests[span] else (low, middle - 1)
        return low

    def role(self, place: int) -> str:
        """Whose the message is at ``place`` behind the head."""
        return _ROLES.get(self.roles[place], "other")

    def has_after(self, place: int, other: "Chain") -> bool:
        """Whether what ``other`` has at ``place`` comes later here."""
        digest = other.digests[place * _DIGEST : (place + 1) * _DIGEST]
        found = self.digests.find(digest, (place + 1) * _DIGEST)
        while found >= 0 and found % _DIGEST:
            found = self.digests.find(digest, found + 1)
        return found >= 0


class _Links:
    """The part of a chain behind the head, while it grows."""

    def __init__(self, head: int) -> None:
        self.roles: list[str] = []
        self.digests: list[bytes] = []
        self.ends = array("Q", (head,))

    def add(self, messages: Iterable[Mapping[str, Any]]) -> None:
        roles, digests, ends = self.roles, self.digests, self.ends
        end = ends[-1]
        group: list[bytes] = []
        for message in messages:
            data = encode(message)
            end += len(data)
            if not isinstance(message.get("content"), str):
                _, images = texts_and_images(message)
                end += sum(min(0, _IMAGE_BYTES - len(image)) for image in images)
            digest = _digest(data)
            if len(digests) >= FINE:
                group.append(digest)
                if len(group) < GROUP:
                    continue
                digest = _digest(b"".join(group))
                group = []
            digests.append(digest)
            roles.append(_LETTERS.get(message.get("role") or message.get("type"), "-"))
            ends.append(end)


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()[:_DIGEST]  # processors help with this one: half the time of any other


#: A letter for each role, or type of an item that has none.
_LETTERS: Mapping[Any, str] = {
    "user": "u",
    "assistant": "a",
    "tool": "t",
    "system": "s",
    "developer": "s",
    "reasoning": "r",
    "function_call": "c",
    "function_call_output": "t",
}
_ROLES = {"u": "user", "a": "assistant", "t": "tool", "s": "system", "r": "reasoning", "c": "call"}

"""What of a prompt a backend has seen before: fingerprints of translated requests, and what differs (issue 5, part 3).

Theory. A backend caches prompts by their beginnings, so that one early change costs all that follows it. A `Chain` is
what must be remembered of a request to tell that: a digest for each thing that templates write at the prompt's head,
and one for each message after it. Tools come first in nearly every template; whatever at the head differs, nothing is
taken to be reusable. It is digests of the JSON that is sent, so that a difference of one byte counts, as it does for
the backend. Digests are not chained, so that a message left out can be told from one that changed.
"""

from array import array
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from attrs import field, frozen

from claudeproxy.translate.prompt_size import texts_and_images
from claudeproxy.wire.json import encode

NEW, SAME, GROWN, BROKEN = "new", "same", "grown", "broken"
#: Why a prefix broke: a closed list, fit for the labels of a metric.
BACKEND, MODEL, TOOLS, SYSTEM, SETTINGS = "backend", "model", "tools", "system", "settings"
MESSAGE, TAIL, SHORTENED = "message", "tail", "shortened"

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

    def _has_after(self, place: int, digest: bytes) -> bool:
        """Whether a message behind ``place`` has this digest."""
        found = self.digests.find(digest, (place + 1) * _DIGEST)
        while found >= 0 and found % _DIGEST:
            found = self.digests.find(digest, found + 1)
        return found >= 0


@frozen
class Continuity:
    """How a prompt goes on from an earlier one."""

    kind: str
    #: The place of the first message that differs, in the list that is sent; None where it is the head, or nothing.
    at: int | None = None
    #: The cause of what is broken, and with it the role of the message.
    why: str = ""
    role: str = ""
    #: So long is the prompt, and so much of its beginning is the earlier prompt's beginning, in bytes.
    size: int = 0
    shared: int = 0
    #: What of the earlier prompt's tokens should be in the cache; 0 if nobody counted them.
    expected_tokens: int = 0

    @property
    def share(self) -> float:
        """The part of the prompt that could have been cached."""
        return self.shared / self.size if self.size else 0.0

    @property
    def words(self) -> str:
        """What broke, for the log: ``12:user message changed``."""
        place = "head" if self.at is None else str(self.at)
        return f"{place}:{_WORDS.get(self.why, '').format(role=self.role)}"

    @property
    def header(self) -> str:
        """For ``x-claudeproxy-cache``."""
        parts = [self.kind]
        if self.kind == BROKEN:
            parts += [f"reason={self.why}", f"at={'head' if self.at is None else self.at}"]
        return "; ".join([*parts, f"expected-tokens={self.expected_tokens}"])


_WORDS = {
    BACKEND: "another backend",
    MODEL: "another model",
    TOOLS: "tools changed",
    SYSTEM: "system prompt changed",
    SETTINGS: "settings changed",
    MESSAGE: "{role} message changed",
    TAIL: "last {role} message changed",
    SHORTENED: "conversation shortened",
}


def begun(current: Chain, like: Chain | None = None, tokens: int = 0) -> Continuity:
    """For a conversation of its own. ``like`` is one that had as many ``tokens``; an equal head may be cached."""
    if like is None or like.head != current.head:
        return Continuity(NEW, size=current.size)
    return Continuity(NEW, size=current.size, shared=current.ends[0], expected_tokens=_part(tokens, 0, like))


def compare(previous: Chain, current: Chain, tokens: int = 0) -> Continuity:
    """How ``current`` goes on from ``previous``, whose prompt had so many ``tokens``, 0 if nobody counted them.

    A prompt that is the beginning of the earlier one is broken, too, though all of it is cached: its client took
    something back.
    """
    for why, before, now in (
        (BACKEND, previous.backend, current.backend),
        (MODEL, previous.model, current.model),
        (TOOLS, previous.tools, current.tools),
        (SYSTEM, previous.system, current.system),
        (SETTINGS, previous.settings, current.settings),
    ):
        if before != now:
            return Continuity(BROKEN, why=why, size=current.size)
    common = current.common(previous)
    shared, expected = current.ends[common], _part(tokens, common, previous)
    if common == len(previous):
        kind = SAME if common == len(current) else GROWN
        return Continuity(kind, size=current.size, shared=shared, expected_tokens=expected)
    role = current.roles[common] if common < len(current) else previous.roles[common]
    why = _why(previous, current, common)
    return Continuity(BROKEN, current.first + common, why, _ROLES.get(role, "other"), current.size, shared, expected)


def _why(previous: Chain, current: Chain, common: int) -> str:
    """Of two chains that differ at ``common``, before the end of the earlier one."""
    if common == len(current):
        return SHORTENED
    if previous._has_after(common, current.digests[common * _DIGEST : (common + 1) * _DIGEST]):
        return SHORTENED  # what stood between is left out
    if common == len(previous) - 1:
        return TAIL
    return SHORTENED if len(current) < len(previous) else MESSAGE


def _part(tokens: int, messages: int, chain: Chain) -> int:
    """What of the ``tokens`` of ``chain`` belongs to its first ``messages``."""
    return tokens * chain.ends[messages] // chain.size if chain.size else 0


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
            digest = blake2b(data, digest_size=_DIGEST).digest()
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
    return blake2b(data, digest_size=_DIGEST).digest()


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

"""The desk that all questions for a number of tokens go to, one for each backend (issue 4, PROTOCOL 6.1).

Claude Code asks thirty of them at once. Whoever can answer best does: the server itself, the model's own tokenizer
file, what was learned of the model, an estimate. What was counted is remembered by its content; who asks for what is
just being counted waits for the same answer; and no more than a few questions are with the server at a time.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import field
from twisted.internet.defer import DeferredSemaphore
from twisted.logger import Logger

from claudeproxy.backends.generation import Machine
from claudeproxy.backends.interfaces import Count, Deliver
from claudeproxy.backends.profile import Profile
from claudeproxy.backends.shared import Shared
from claudeproxy.backends.unusable import BadTokenizer
from claudeproxy.model.events import Event, MessageStop
from claudeproxy.model.kinds import define
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.learning import Learned
from claudeproxy.translate.prompt_size import PromptScale, Size

if TYPE_CHECKING:
    from claudeproxy.backends.tokenizer import TokenizerFile

EXACT, TOKENIZER = "exact", "tokenizer"
#: Counts that are remembered, by their content: some 250 bytes each.
MEMORY = 4096
#: Questions that may be with the server at a time.
AT_ONCE = 4

#: The server's own count; None if it cannot tell. Raises `Refusal`.
Ask = Callable[[], Awaitable[int | None]]


def _nothing() -> None:
    """Nobody wants to know."""


@define(eq=False)
class Tally:
    """Counts the prompts of one backend. ``changed`` is called when something was learned that is worth keeping.

    ``tokenizers`` are the files that the settings name, by the model's name, with "*" for all other models.
    """

    _backend: str
    _learned: Learned
    _scale: PromptScale
    _tokenizers: "Mapping[str, TokenizerFile]" = field(factory=dict)
    _changed: Callable[[], None] = _nothing
    _at_once: int = AT_ONCE
    _memory: int = MEMORY
    _log: Logger = field(factory=lambda: Logger(namespace="claudeproxy.backends.tally"))
    _turn: DeferredSemaphore = field(init=False)
    _known: OrderedDict[bytes, Count] = field(factory=OrderedDict, init=False)
    _running: dict[bytes, Shared[Count]] = field(factory=dict, init=False)
    #: What requests came to that were counted, by their own bytes, and on what else that depends.
    _recent: OrderedDict[bytes, tuple[Profile, Count]] = field(factory=OrderedDict, init=False)
    #: The models whose tokenizer files were of no use, so that the log says it once.
    _useless: set[str] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._turn = DeferredSemaphore(self._at_once)

    def measure(self, body: Mapping[str, Any], dialect: str) -> Size:
        """What `best`, `count` and `learn` want to know of a request."""
        return self._scale.measure(body, dialect)

    def has_tokenizer(self, model: str) -> bool:
        """Whether the settings name a file for it."""
        return model in self._tokenizers or "*" in self._tokenizers

    def estimate(self, model: str, size: Size) -> Count:
        """The best count without looking at the request again: what was learned, or an estimate."""
        estimate = self._learned.estimate(self._backend, model, size)
        return Count(estimate.tokens, estimate.source, model, counted=estimate.counted)

    def recall(self, body: bytes, profile: Profile) -> Count | None:
        """What a client's request of these very bytes came to, if it was counted, and no more is known of the model
        since. Such a one need not even be read."""
        of, count = self._recent.get(_key("", body), (None, None)) if self._recent else (None, None)
        return count if of == profile else None

    def keep(self, body: bytes, profile: Profile, count: Count) -> None:
        """``count`` is what `recall` shall tell, unless it is one that will be better soon."""
        if count.source in (EXACT, TOKENIZER):
            key = _key("", body)
            self._recent[key] = profile, count
            self._recent.move_to_end(key)
            if len(self._recent) > self._memory:
                self._recent.popitem(last=False)

    async def count(self, model: str, encoded: bytes, body: Mapping[str, Any], size: Size, ask: Ask | None) -> Count:
        """The best count there is. ``encoded`` is ``body`` as JSON; ``ask`` is None for a server that cannot count.

        Never raises `Refusal`: a count is not worth an error. Safe to cancel, which leaves others in peace.
        """
        key = _key(model, encoded)
        known = self._remembered(key)
        if known is not None:
            return known
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = Shared(partial(self._count, key, model, body, size, ask))
        return await running.get() or self.estimate(model, size)

    def learn(self, model: str, size: Size, tokens: int) -> None:
        """The real ``tokens`` of a prompt, cached ones and all, as the finished answer told them."""
        if self._learned.learn(self._backend, model, size, tokens):
            self._changed()

    def learner(self, model: str, size: Size, machine: Machine) -> Deliver:
        """To be told of an answer's last events: of a whole one the real count of its prompt is learned, if it was
        told."""
        return partial(self._heard, model, size, machine)

    def _heard(self, model: str, size: Size, machine: Machine, events: list[Event]) -> None:
        if isinstance(events[-1], MessageStop) and machine.counted:
            self.learn(model, size, machine.counted)

    async def _count(
        self, key: bytes, model: str, body: Mapping[str, Any], size: Size, ask: Ask | None
    ) -> Count | None:
        """None if it can only be estimated: an estimate learns, and is not to be remembered."""
        try:
            tokens = await self._asked(ask) if ask is not None else None
            if tokens is not None:
                self.learn(model, size, tokens)
                return self._remember(key, Count(tokens, EXACT, model))
            tokens = await self._tokenized(model, body, size)
            return None if tokens is None else self._remember(key, Count(tokens, TOKENIZER, model))
        finally:
            del self._running[key]

    async def _asked(self, ask: Ask) -> int | None:
        await self._turn.acquire()
        try:
            return await ask()
        except Refusal:
            return None
        finally:
            self._turn.release()

    async def _tokenized(self, model: str, body: Mapping[str, Any], size: Size) -> int | None:
        file = self._tokenizers.get(model) or self._tokenizers.get("*")
        if file is None:
            return None
        try:
            return await file.count(body) + size.image_tokens
        except BadTokenizer as fault:
            if model not in self._useless:
                self._useless.add(model)
                self._log.warn("counts of {model} are only estimated: {fault}", model=model, fault=str(fault))
            return None

    def _remembered(self, key: bytes) -> Count | None:
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def _remember(self, key: bytes, count: Count) -> Count:
        self._known[key] = count
        if len(self._known) > self._memory:
            self._known.popitem(last=False)
        return count


def _key(model: str, encoded: bytes) -> bytes:
    named = model.encode("utf-8", "surrogatepass") + b"\0"
    return hashlib.sha256(named + encoded).digest()  # which processors help with: thrice as fast as blake2b

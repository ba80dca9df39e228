"""The conversations that are going on, and how well backends remember them (issue 5, part 3; pure).

A client's session is not one conversation: beside the main one Claude Code asks for titles, runs sub-agents and
searches, and each of these has a prompt of its own, whose beginning another one does not break (PROTOCOL 7.1). So a
session has several threads. A request belongs to the thread of its own agent whose messages it shares; if it shares
none, it is a thread of its own.
"""

from collections import Counter, OrderedDict

from attrs import field

from claudeproxy.model.events import Usage
from claudeproxy.model.kinds import define, frozen
from claudeproxy.translate.chain import Chain
from claudeproxy.translate.prefix import BACKEND, BROKEN, MODEL, NEW, Continuity, begun, compare

SESSIONS = 1000
THREADS = 8
#: Messages that are remembered, of all sessions together: some 14 bytes each, twice while an answer is on its way.
MESSAGES = 1_000_000

HIT, SHORT, EVICTED, COLD, UNTOLD, UNKNOWN = "hit", "short", "evicted", "cold", "untold", "unknown"
#: The part of the expected tokens that makes a hit, and the part below which nearly all was lost. Templates leave out
#: earlier thoughts and end prompts in their own ways, and servers round to blocks.
_HIT, _LOST = 0.9, 0.1
#: A prompt that is shorter than a server's smallest block is never found (OpenAI: 1024 tokens).
_SMALL = 1024


@define(eq=False)
class _Thread:
    kin: str
    #: The newest request's.
    chain: Chain
    #: The newest one whose answer came, and the tokens of its prompt.
    settled: Chain | None = None
    tokens: int = 0
    #: When the backend was last heard of it, in seconds.
    heard: float = 0.0
    #: Tells this thread from all others, for as long as the process lives.
    number: int = 0


@define(eq=False)
class Turn:
    """A request on its way."""

    continuity: Continuity
    chain: Chain = field(repr=False)
    #: The thread's own number.
    thread: int
    #: The tokens of the thread's prompt that was counted last, and the seconds since; 0 for a new one.
    before: int
    idle: float
    _of: _Thread = field(repr=False)
    #: What became of it, once that is known.
    verdict: "Verdict | None" = None

    @property
    def words(self) -> str:
        """For the field ``cache=`` of the log."""
        return self.continuity.kind if self.verdict is None else self.verdict.words


@frozen
class Verdict:
    """What became of what was expected."""

    #: hit, short, evicted, cold, untold or unknown; or why the prefix broke.
    cause: str
    #: For the field ``cache=`` of the log.
    words: str
    expected: int = 0
    cached: int = 0


@define(eq=False)
class Sessions:
    """Remembers what was sent. One for the whole daemon."""

    _sessions: int = SESSIONS
    _threads: int = THREADS
    _messages: int = MESSAGES
    #: How often each cause was found; it only grows.
    tally: "Counter[str]" = field(factory=Counter, init=False)
    _known: OrderedDict[str, list[_Thread]] = field(factory=OrderedDict, init=False)
    _held: int = field(default=0, init=False)
    _numbers: int = field(default=0, init=False)
    #: Backends and models that have ever told of cached tokens: of the others a 0 says nothing.
    _telling: OrderedDict[tuple[str, str], None] = field(factory=OrderedDict, init=False)

    def begin(self, session: str, kin: str, chain: Chain, now: float) -> Turn:
        """A request is about to be sent. ``kin`` tells the agents of a session apart, "" where nothing does; ``now``
        is in seconds."""
        threads = self._known.setdefault(session, [])
        self._known.move_to_end(session)
        alike = [each for each in threads if each.kin == kin]
        thread = _nearest(alike, chain) or (_restarted(alike, chain) if session else None)
        continuity = _continued(thread, chain) if thread is not None else _begun(threads, chain)
        if thread is None or continuity.why in (BACKEND, MODEL):  # the earlier one may go on where it was
            self._numbers += 1
            thread = _Thread(kin, chain, heard=now, number=self._numbers)
            self._held += len(chain)
        else:
            threads.remove(thread)
            self._held += len(chain) - len(thread.chain)
            thread.chain = chain
        threads.append(thread)
        if len(threads) > self._threads:
            self._held -= len(threads.pop(0).chain)
        self._make_room()
        return Turn(continuity, chain, thread.number, thread.tokens, now - thread.heard, thread)

    def finish(self, turn: Turn, usage: Usage | None, now: float) -> Verdict:
        """Its answer came, with the backend's own counts; or it did not, without ``usage``."""
        verdict = turn.verdict = self._judge(turn, usage)
        self.tally[verdict.cause] += 1
        if usage is not None and usage.prompt:
            thread = turn._of
            thread.settled, thread.tokens, thread.heard = turn.chain, usage.prompt, now
        return verdict

    def __len__(self) -> int:
        return len(self._known)

    def _judge(self, turn: Turn, usage: Usage | None) -> Verdict:
        how, place = turn.continuity, (turn.chain.backend, turn.chain.model)
        cached = usage.cache_read if usage is not None else 0
        if cached:
            self._telling[place] = None
            self._telling.move_to_end(place)
            if len(self._telling) > SESSIONS:
                self._telling.popitem(last=False)
        expected = how.expected_tokens

        def found(cause: str, words: str = "") -> Verdict:
            return Verdict(cause, words or cause, expected, cached)

        if how.kind == BROKEN and not (turn.before and cached >= _HIT * turn.before):  # some breaks cost nothing
            return found(how.why, f"break@{how.words}")
        if usage is None or not usage.prompt:
            return found(UNKNOWN)
        if not cached and place not in self._telling:
            return found(UNTOLD)
        if not expected:
            return found(HIT, f"hit {cached / usage.prompt:.0%} of the prompt") if cached else found(COLD)
        share = min(1.0, cached / expected)
        if share >= _HIT:
            return found(HIT, f"hit {share:.0%}")
        if share >= _LOST:
            return found(SHORT, f"short {share:.0%}")
        if how.kind == NEW or expected < _SMALL:
            return found(COLD)
        return found(EVICTED, f"evicted after {turn.idle:.0f}s")

    def _make_room(self) -> None:
        """Forgets sessions, but never the one that came last."""
        while len(self._known) > 1 and (len(self._known) > self._sessions or self._held > self._messages):
            _, threads = self._known.popitem(last=False)
            self._held -= sum(len(each.chain) for each in threads)


def kin_of(agent: str, request_class: str) -> str:
    """What tells the agents of Claude Code apart, of the headers ``x-claude-code-agent-id`` and, where it was asked
    for them, ``x-claude-code-request-class``: a compaction goes on from the main conversation (PROTOCOL 7.1)."""
    return agent or ("auxiliary" if request_class == "auxiliary" else "")


def _nearest(threads: list[_Thread], chain: Chain) -> _Thread | None:
    """The thread with most messages in common, the newest of these; at least one, and something of the head."""
    best, most = None, (0, False, False)
    for thread in threads:
        old = thread.chain
        common = chain.common(old)
        kindred = common and (old.tools == chain.tools or old.system == chain.system)
        rank = (common, old.head[:2] == chain.head[:2], old.head == chain.head)
        if kindred and (rank[1:], rank[0]) >= (most[1:], most[0]):
            best, most = thread, rank
    return best


def _restarted(threads: list[_Thread], chain: Chain) -> _Thread | None:
    """The thread that was compacted, if this looks like it: the same head, other messages, and fewer of them."""
    return next(
        (each for each in reversed(threads) if each.chain.head == chain.head and len(chain) < len(each.chain)), None
    )


def _begun(threads: list[_Thread], chain: Chain) -> Continuity:
    """A new thread: of the others, one may have the same head."""
    for thread in reversed(threads):
        if thread.settled is not None and thread.settled.head == chain.head:
            return begun(chain, thread.settled, thread.tokens)
    return begun(chain)


def _continued(thread: _Thread, chain: Chain) -> Continuity:
    """What differs from the newest request, and what of the newest counted one is there again."""
    how = compare(thread.chain, chain, thread.tokens if thread.settled is thread.chain else 0)
    if thread.settled is None or thread.settled is thread.chain:
        return how
    counted = compare(thread.settled, chain, thread.tokens)
    return Continuity(how.kind, how.at, how.why, how.role, how.size, how.shared, counted.expected_tokens)

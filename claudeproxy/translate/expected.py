"""What a request lets us know about its answer."""

from attrs import field

from claudeproxy.model.anthropic import MessagesRequest
from claudeproxy.model.kinds import frozen
from claudeproxy.translate.dialects import Dialect
from claudeproxy.translate.names import Names
from claudeproxy.translate.translation import Translation


@frozen
class Expected:
    """What is known before the answer comes."""

    backend: str
    #: The best count of the prompt, in tokens.
    prompt_tokens: int
    #: The backend's window in tokens; 0 if nobody knows it.
    window: int = 0
    stop_sequences: tuple[str, ...] = ()
    #: The caller asked for no answer at all (``max_tokens`` 0): what must be generated nevertheless is not shown.
    silent: bool = False
    #: The tools that were offered; without any, a call is text (row 28).
    names: Names = field(factory=Names)
    #: Ids of calls that the client knows from earlier turns.
    used_ids: frozenset[str] = frozenset()
    #: The caller wants no call, though it offered tools (``tool_choice`` none): one is text, as in row 28.
    forbids_calls: bool = False
    #: A call was demanded, of a model that can only be asked for one.
    demanded: bool = False
    #: Only the first call counts (row 25).
    one_call: bool = False
    #: Thinking was asked for.
    thinks: bool = False
    #: Thinking is not shown, only signed (``display`` omitted).
    hides_thinking: bool = False
    think_tags: bool = False
    starts_thinking: bool = False
    #: The backend ends its streams without a word (row 50).
    ends_without_done: bool = False
    #: The answer's beginning that the client wrote, should the backend repeat it (row 60).
    begun: str = ""
    #: The longest answer that was asked for, in tokens, of a server that does not say that it stopped there; else 0.
    limit: int = 0

    @classmethod
    def of(
        cls,
        backend: str,
        prompt_tokens: int,
        window: int,
        request: MessagesRequest,
        translation: Translation,
        dialect: Dialect,
    ) -> "Expected":
        """What ``request``, translated so for a server of that dialect, lets us know."""
        return cls(
            backend,
            prompt_tokens,
            window,
            request.stop_sequences,
            silent=request.max_tokens == 0,
            names=translation.names,
            used_ids=translation.used_ids,
            forbids_calls=request.tool_choice is not None and request.tool_choice.type == "none",
            demanded="tool_choice (asked for in words)" in translation.emulated,
            one_call=translation.one_call,
            thinks=translation.wanted.on,
            hides_thinking=translation.wanted.hidden,
            think_tags=dialect.think_tags,
            starts_thinking=dialect.starts_thinking,
            ends_without_done=dialect.ends_without_done,
            begun=translation.begun,
            limit=translation.limit,
        )

"""What is known of one model at a backend, and what follows from it."""

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field

from claudeproxy.backends.interfaces import Abilities, Offer
from claudeproxy.model.kinds import frozen
from claudeproxy.translate import thinking
from claudeproxy.translate.dialects import Dialect

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
#: Cells that tell of a model's abilities.
_TELLING = frozenset({"tools", "images", "thinking", "schema_output"})
#: Ways of asking for thought that say nothing of whether the model can think: it ignores them, or refuses.
_HOPEFUL = ("template", "lmstudio", "ollama")


@frozen
class Facts:
    """What a server said of a model; what it did not say stays unknown."""

    #: Cells of the dialect that hold for this model.
    cells: Mapping[str, Any] = field(factory=dict)
    #: The context window in tokens; 0 if the server does not tell.
    window: int = 0
    #: Whether it was made for tools; what becomes of a request that has some is a cell's matter.
    tools: bool | None = None
    thinking: bool | None = None
    #: The efforts that it knows.
    efforts: tuple[str, ...] | None = None
    #: What its template has no place for, in words for the log.
    lacks: tuple[str, ...] = ()

    def over(self, other: "Facts") -> "Facts":
        """These, and where they say nothing the ``other`` ones."""
        return Facts(
            {**other.cells, **self.cells},
            self.window or other.window,
            other.tools if self.tools is None else self.tools,
            other.thinking if self.thinking is None else self.thinking,
            other.efforts if self.efforts is None else self.efforts,
            self.lacks or other.lacks,
        )


NOTHING = Facts()


@frozen
class Profile:
    """One model: how to speak of it, and what can be said of it."""

    model: str
    #: The server's family with the cells that the server told, and over them those of the settings: the last word.
    dialect: Dialect
    #: The context window in tokens; 0 if nobody knows.
    window: int = 0
    facts: Facts = NOTHING

    @classmethod
    def of(cls, model: str, family: Dialect, facts: Facts, own: Mapping[str, Any], window: int = 0) -> "Profile":
        """``own`` are the settings' cells, ``window`` is theirs too, in tokens, 0 where they say nothing."""
        cells = {**facts.cells, **own}
        dialect = evolve(family, **cells) if cells else family
        if "tools" in own:
            facts = evolve(facts, tools=own["tools"] == "yes")
        if "thinking" in own:
            facts = evolve(facts, thinking=own["thinking"] != "none", efforts=None)
        if cells != facts.cells:
            facts = evolve(facts, cells=cells)
        return cls(model, dialect, window or dialect.num_ctx or facts.window, facts)

    @property
    def max_output(self) -> int:
        """The longest answer in tokens; 0 if nobody knows."""
        return self.dialect.max_output

    @property
    def abilities(self) -> Abilities | None:
        """What the model can do; None if nobody said anything of it."""
        facts, dialect = self.facts, self.dialect
        if facts.tools is None and facts.thinking is None and not _TELLING & facts.cells.keys():
            return None
        thinks = self._can_be_asked_to_think if facts.thinking is None else facts.thinking
        return Abilities(
            tools=dialect.tools == "yes" and facts.tools is not False,
            images=dialect.images == "yes",
            thinking=thinks,
            efforts=self._efforts if thinks else (),
            structured=dialect.schema_output == "json_schema",
        )

    @property
    def offer(self) -> Offer:
        """For the list of models."""
        return Offer(self.model, self.window, self.max_output, self.abilities)

    @property
    def _can_be_asked_to_think(self) -> bool:
        """Hosted families have their own ways of asking; where these make no difference the model does not think."""
        if self.dialect.thinking in _HOPEFUL:
            return False
        return self._asked(True, "") != self._asked(False, "")

    @property
    def _efforts(self) -> tuple[str, ...]:
        """Of efforts that come to the same one is enough: the one that the server calls by this name."""
        if self.facts.efforts is not None:
            return self.facts.efforts
        named_by_model = self.dialect.thinking == "ollama" and "gpt-oss" in self.model.lower()
        if self.dialect.thinking in _HOPEFUL and not named_by_model:
            return ()
        asked = {effort: self._asked(True, effort) for effort in _EFFORTS}
        found = [
            next((each for each in alike if f"'{each}'" in words), alike[0])
            for words in dict.fromkeys(asked.values())
            if (alike := [effort for effort in _EFFORTS if asked[effort] == words])
        ]
        return tuple(found) if len(found) > 1 else ()

    def _asked(self, on: bool, effort: str) -> str:
        body: dict[str, Any] = {}
        thinking.ask(body, thinking.Asked(on, effort, None, False), self.model, self.dialect)
        return repr(body)

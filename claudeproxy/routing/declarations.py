"""How a setting is declared: one attribute with its type, default, check and meaning. Pure.

All else is made from these declarations: the shape of the settings file, the names in the environment and on the
command line, the words of a refusal, and the README's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs

from claudeproxy.model.kinds import frozen
from claudeproxy.routing.expectations import Expectation, Unfit

PROVIDERS = ("openai", "ollama", "responses", "anthropic", "local")


@frozen
class Declaration:
    """All that is known about one setting."""

    name: str
    """In the settings file, and on the class that holds it."""
    env: str
    """In the environment."""
    expects: Expectation
    doc: str
    default: Any
    """`attrs.NOTHING` if it must be given."""
    restart: bool = False
    """True if a reload cannot change it."""
    only_for: tuple[str, ...] = PROVIDERS
    """The providers for which it means something."""

    @property
    def option(self) -> str | None:
        """On the command line, without the two dashes; None for a secret, which every list of processes would show."""
        return None if self.expects.secret else self.env.lower().replace("_", "-")


_DECLARED = "claudeproxy.setting"


def setting(
    default: Any,
    *,
    env: str,
    expects: Expectation,
    doc: str,
    restart: bool = False,
    only_for: Sequence[str] = PROVIDERS,
) -> Any:
    """Declare an attribute that can be set; `attrs.NOTHING` as its default makes it required."""

    def checked(value: object, attribute: attrs.Attribute[Any]) -> Any:
        try:
            return expects.read(value)
        except Unfit as unfit:
            raise ValueError(f"{attribute.name}: {unfit}") from None

    declared = Declaration("", env, expects, doc, default, restart, tuple(only_for))
    converter = attrs.Converter(checked, takes_field=True)
    return attrs.field(default=default, converter=converter, metadata={_DECLARED: declared})


@cache
def declarations(holder: type[attrs.AttrsInstance]) -> tuple[Declaration, ...]:
    """The settings that a class declares, in the order in which they are written there."""
    return tuple(
        attrs.evolve(attribute.metadata[_DECLARED], name=attribute.name)
        for attribute in attrs.fields(holder)
        if _DECLARED in attribute.metadata
    )


def only_restart(holder: type[attrs.AttrsInstance]) -> tuple[str, ...]:
    """The names of those that a reload cannot change."""
    return tuple(each.name for each in declarations(holder) if each.restart)

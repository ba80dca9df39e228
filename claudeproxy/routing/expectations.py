"""What a value must be: the checks that settings are declared with. Pure.

An expectation reads one value by itself, says in words what it wants, and coerces nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec

from claudeproxy.model.kinds import frozen


class Secret:
    """A text that no log, no error message and no serializer shows: only `reveal` gives it away. Equal by value, false
    if empty. No attrs class, because whatever takes those apart would find the text."""

    __slots__ = ("_reveal",)

    def __init__(self, text: str) -> None:
        self._reveal = lambda: text

    def reveal(self) -> str:
        return self._reveal()

    def __bool__(self) -> bool:
        return bool(self._reveal())

    def __eq__(self, other: object) -> bool:
        return self._reveal() == other._reveal() if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._reveal()))

    def __repr__(self) -> str:
        return "<secret>"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not written down")


NO_SECRET = Secret("")


def as_secret(text: str | Secret) -> Secret:
    """For attributes that hold one, so that nothing which takes objects apart finds it."""
    return text if isinstance(text, Secret) else Secret(text)


class Unfit(ValueError):
    """A value is not what was expected. It may be shown to the user, unless `hidden`."""

    def __init__(self, expected: str, *, hidden: bool = False) -> None:
        super().__init__(f"expected {expected}")
        self.hidden = hidden


@frozen
class Expectation:
    """What a setting may hold.

    `words` follow "expected" in a refusal. `read` turns a value of the settings file, or one already read, into the
    setting's own value, or raises `Unfit`; it coerces nothing. `from_text` brings a text of the environment or the
    command line into the form which the settings file would have.
    """

    words: str
    read: Callable[[object], Any]
    from_text: Callable[[str], object] = str
    secret: bool = False


def whole_number(low: int, high: int) -> Expectation:
    """An int from `low` to `high`, both allowed."""
    words = f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        if type(value) is int and low <= value <= high:  # isinstance would let true and false pass
            return value
        raise Unfit(words)

    return Expectation(words, read, lambda text: int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text)


def flag() -> Expectation:
    """True or false."""
    words = "true or false"

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise Unfit(words)

    return Expectation(words, read, lambda text: {"true": True, "false": False}.get(text, text))


def text(words: str, pattern: str) -> Expectation:
    """A str that the pattern matches from end to end."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if isinstance(value, str) and compiled.fullmatch(value):
            return value
        raise Unfit(words)

    return Expectation(words, read)


def file_path() -> Expectation:
    """The path of a file, or nothing."""
    return text("the path of a file", r"[^\x00-\x1f]*")


def one_of(*choices: str) -> Expectation:
    """One of these words, spelt like this."""
    return text(f"{', '.join(choices[:-1])} or {choices[-1]}", "|".join(map(re.escape, choices)))


def secret(words: str, pattern: str) -> Expectation:
    """A `Secret` whose text the pattern matches; the text never appears in a refusal."""
    compiled = re.compile(pattern)

    def read(value: object) -> Secret:
        kept = Secret(value) if isinstance(value, str) else value
        if isinstance(kept, Secret) and compiled.fullmatch(kept.reveal()):
            return kept
        raise Unfit(words, hidden=True)

    return Expectation(words, read, secret=True)


def list_of(each: Expectation) -> Expectation:
    """An array kept as a tuple, in the environment a text with commas. The words of `each` are in the plural."""
    words = f"a list of {each.words}"

    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Unfit(words, hidden=each.secret)
        try:
            return tuple(each.read(item) for item in value)
        except Unfit as unfit:
            raise Unfit(words, hidden=unfit.hidden) from None

    def from_text(given: str) -> list[object]:
        return [each.from_text(item.strip()) for item in given.split(",")] if given else []

    return Expectation(words, read, from_text, each.secret)


def endpoints() -> Expectation:
    """Addresses to listen on, kept as a tuple of Twisted's endpoint strings. In the environment blanks stand between
    them, because they have colons and commas of their own."""
    words = "a list of endpoint strings such as tcp:8080:interface=127.0.0.1 or unix:/run/claudeproxy.sock"
    fits = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x1f]+")

    def read(value: object) -> tuple[str, ...]:
        several: list[Any] = [*value] if isinstance(value, list | tuple) else []
        good = all(isinstance(each, str) and fits.fullmatch(each) for each in several)
        if not isinstance(value, list | tuple) or not good:
            raise Unfit(words)
        return tuple(several)

    return Expectation(words, read, str.split)


def paths_by_name() -> Expectation:
    """A table of names and the paths that belong to them; kept as pairs in the order of their names, so that it can be
    compared and hashed."""
    words = 'a table of names and paths such as { "qwen3-coder" = "/models/qwen3-coder/tokenizer.json" }'
    fits = re.compile(r"[^\x00-\x1f]+")

    def read(value: object) -> tuple[tuple[str, str], ...]:
        pairs: list[Any] = [*value.items()] if isinstance(value, dict) else [*value] if isinstance(value, tuple) else []
        good = all(isinstance(each, str) and fits.fullmatch(each) for pair in pairs for each in pair)
        if not isinstance(value, dict | tuple) or not good:
            raise Unfit(words)
        return tuple(sorted((name, path) for name, path in pairs))

    def from_text(text: str) -> object:
        try:
            return msgspec.json.decode(text) if text else {}
        except (msgspec.DecodeError, ValueError):
            return text

    return Expectation(words, read, from_text)


def web_address() -> Expectation:
    """An http or https URL of a server, or nothing; kept without a slash at its end.

    Credentials, a query or a fragment are refused and not repeated, because a key may be in there.
    """
    words = "an http:// or https:// address such as http://127.0.0.1:8000/v1"

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise Unfit(words)
        if "@" in value:
            raise Unfit("an address without credentials (they belong into api_key)", hidden=True)
        if "?" in value or "#" in value:
            raise Unfit("an address without a query or a fragment (a key belongs into api_key)", hidden=True)
        try:
            parts = urlsplit(value)
            fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is none, half an IPv6 address
            fits = False
        # urlsplit drops tabs and line ends without a word, so that they are looked for here.
        if value and not (fits and re.fullmatch(r"[!-~]+", value)):
            raise Unfit(words)
        return value.rstrip("/")

    return Expectation(words, read)

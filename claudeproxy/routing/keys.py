"""The keys that clients may show, known by their SHA-256 alone, and how they are written. Pure.

One key is written ``sha256:HASH`` or as it is, and with a name in front, ``alice=sha256:HASH``. One that has '=' or ':'
in it, or has a name in front, says of itself that it is plain: ``plain:KEY``, ``alice=plain:KEY``. So nothing that is
written can be meant in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from hmac import compare_digest

from attrs import field

from claudeproxy.model.kinds import frozen
from claudeproxy.routing.expectations import Expectation, Secret, Unfit

#: What a client is called that showed a key without a name.
UNNAMED = "unnamed"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
#: What an HTTP header carries unharmed between all clients and servers.
_ENTRY = re.compile(
    rf"(?:(?P<name>{_NAME})=)?(?:sha256:(?P<hash>[0-9A-Fa-f]{{64}})|plain:(?P<marked>[!-~]+))|(?P<bare>[!-9;<>-~]+)"
)
_WORDS = "a list of keys, each as KEY, sha256:HASH, NAME=sha256:HASH or NAME=plain:KEY"


@frozen
class Key:
    """A key as it is kept: whose it is, and what it is recognised by. The key itself is forgotten."""

    name: str
    digest: bytes = field(repr=False)

    @property
    def label(self) -> str:
        """For logs and counters; never "" and never the key."""
        return self.name or UNNAMED

    @property
    def setting(self) -> str:
        """How it is written in the settings."""
        return f"{self.name}={self._hash}" if self.name else self._hash

    @property
    def _hash(self) -> str:
        return f"sha256:{self.digest.hex()}"


def key_of(text: str, name: str = "") -> Key:
    """The key that reads like this."""
    return Key(name, digest_of(text.encode()))


def digest_of(shown: bytes) -> bytes:
    """What a key that a client shows is recognised by."""
    return sha256(shown).digest()


def recognised(known: Iterable[Key], digest: bytes) -> Key | None:
    """The key with this digest. Each one is compared, and each comparison takes as long as any other, so that time
    tells nothing."""
    found = None
    for key in known:
        if compare_digest(key.digest, digest):
            found = key
    return found


def client_keys() -> Expectation:
    """Keys as a list, or as a table of names and keys; kept as a tuple of `Key`, each one once."""
    return Expectation(_WORDS, _read, _from_text, secret=True)


def keys_in(text: str) -> tuple[Key, ...]:
    """The keys in a file: one a line, where # begins a comment. Raises `Unfit`, which names the line."""
    found: list[Key] = []
    for number, entry in _entries(text):
        try:
            found.append(_key(entry))
        except Unfit as unfit:
            raise Unfit(f"{str(unfit).removeprefix('expected ')} in line {number}", hidden=True) from None
    return _once(found)


def holds_hashes_only(text: str) -> bool:
    """Whether who reads such a file knows no key."""
    return not shows_keys([entry for _, entry in _entries(text)])


def shows_keys(value: object) -> bool:
    """Whether who reads this value of the settings file knows a key."""
    entries: Iterable[object] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [_ENTRY.fullmatch(each) for each in entries if isinstance(each, str)]
    return not all(each is not None and each["hash"] for each in found)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """With the numbers of their lines."""
    for number, line in enumerate(text.splitlines(), start=1):
        entry = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if entry:
            yield number, entry


def _from_text(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


def _read(value: object) -> tuple[Key, ...]:
    if isinstance(value, dict):
        return _once(_named(name, each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return _once(map(_key, value))
    raise Unfit(_WORDS, hidden=True)


def _named(name: object, value: object) -> Key:
    key = _key(value)
    if key.name or not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise Unfit("a table of names and keys such as { alice = 'sha256:HASH' }", hidden=True)
    return Key(name, key.digest)


def _key(value: object) -> Key:
    if isinstance(value, Key):
        return value
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not re.fullmatch(r"[!-~]+", text):
        raise Unfit("a list of keys of printable ASCII without spaces", hidden=True)
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise Unfit(
            "a key as KEY, sha256:HASH (64 hexadecimal digits), NAME=sha256:HASH or NAME=plain:KEY, and one with '=' "
            "or ':' in it as plain:KEY",
            hidden=True,
        )
    if found["hash"]:
        return Key(found["name"] or "", bytes.fromhex(found["hash"]))
    return key_of(found["marked"] or found["bare"], found["name"] or "")


def _once(keys: Iterable[Key]) -> tuple[Key, ...]:
    return tuple(_each_once(keys))


def _each_once(keys: Iterable[Key]) -> Iterator[Key]:
    seen: dict[bytes, Key] = {}
    for key in keys:
        if seen.setdefault(key.digest, key).name != key.name:
            raise Unfit("each key under one name", hidden=True)
        if seen[key.digest] is key:
            yield key

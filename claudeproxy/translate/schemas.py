"""JSON Schemas as backends can take them (PROTOCOL 7.7.19). Key order is kept: it is part of the prompt's prefix."""

from collections import OrderedDict
from typing import Any
from urllib.parse import unquote

from attrs import field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.translate.bounds import unheld
from claudeproxy.wire.json import Raw, decode, encode

#: Says which draft the schema is written in, and is refused by some servers.
_NOWHERE = frozenset({"$schema", "$id", "$comment"})
#: Keywords whose value is data, not a schema.
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
#: Keywords whose value maps names of properties, which are no keywords.
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "dependentRequired", "dependencies"})

#: Keywords whose value is a list of schemas, and those whose value is one.
_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ONE_SCHEMA = frozenset({"items", "contains", "not", "if", "then", "else", "propertyNames"})
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

#: How often a reference may be met on the way into itself; how much all references may bring in, in bytes, unless the
#: schema itself is larger; how deep a schema may be nested. Beyond, any value must do: schemas that refer to themselves
#: have no end, and those that refer to each other, or all to one long list of words, grow faster than any memory.
_REPEATS = 2
_MOST_BROUGHT_IN = 64 * 1024
_DEEPEST = 64

#: How many bytes of schemas are remembered.
_MOST_REMEMBERED = 16 * 1024 * 1024


@frozen
class Cleaned:
    """A schema as a backend can take it."""

    json: Raw
    #: What a model or a server might have made use of, and does not get, as `losses` puts it behind the place.
    lost: tuple[str, ...] = ()

    def losses(self, place: str) -> list[str]:
        """Their names, for the schema that stands at ``place`` of a request."""
        return [place + name for name in self.lost]


def cleaned(schema: Any, profile: str) -> Raw:
    """``schema`` as JSON for a dialect's cell ``schemas``: an object's schema, local references resolved."""
    return cleaning(schema, profile).json


def cleaning(schema: Any, profile: str) -> Cleaned:
    """`cleaned`, and what it cost. References that would bring in too much stay as they are, with what they refer to,
    unless the schema is for a grammar."""
    text = encode(schema)
    found = _memory.get((text, profile))
    if found is None:  # by content: a client sends the same definitions with every request
        found = _cleaned(text, profile)
        _memory.keep((text, profile), found)
    return found


def _cleaned(schema: bytes, profile: str) -> Cleaned:
    root = decode(schema)
    most = max(_MOST_BROUGHT_IN, len(schema))
    cleaner = _Cleaner(root, profile == "grammar", most)
    clean = cleaner.walk(root, (), 0)
    if cleaner.too_much and profile != "grammar":
        cleaner = _Cleaner(root, False, most, keeps_references=True)
        clean = cleaner.walk(root, (), 0)
    if not isinstance(clean, dict):
        clean = {}
    if not ({"type", "anyOf", "oneOf", "allOf"} & clean.keys()):
        clean = {"type": "object"} | clean
    if clean.get("type") == "object":
        clean.setdefault("properties", {})
    return Cleaned(Raw(encode(clean)), tuple(dict.fromkeys(cleaner.lost)))


@define
class Memory:
    """The schemas that were cleaned last, as many as ``most`` bytes hold."""

    most: int
    size: int = field(default=0, init=False)
    _kept: OrderedDict[tuple[bytes, str], Cleaned] = field(factory=OrderedDict, init=False)

    def get(self, key: tuple[bytes, str]) -> Cleaned | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: tuple[bytes, str], found: Cleaned) -> None:
        self._kept[key] = found
        self.size += _weight(key, found)
        while self.size > self.most:
            self.size -= _weight(*self._kept.popitem(last=False))


def _weight(key: tuple[bytes, str], found: Cleaned) -> int:
    """In bytes, with what Python adds to each of them."""
    return len(key[0]) + len(found.json) + 1000


_memory = Memory(_MOST_REMEMBERED)


@define
class _Cleaner:
    _root: Any
    _for_grammar: bool
    _most: int
    _keeps_references: bool = False
    lost: list[str] = field(factory=list, init=False)
    #: References were not followed because of their size.
    too_much: bool = field(default=False, init=False)
    _brought_in: int = field(default=0, init=False)
    #: What each reference brings in, in bytes.
    _sizes: dict[str, int] = field(factory=dict, init=False)

    def walk(self, schema: Any, followed: tuple[str, ...], depth: int) -> Any:
        """One schema, found by way of the references ``followed``."""
        if isinstance(schema, list):
            return [self.walk(each, followed, depth + 1) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if depth > _DEEPEST:
            self.lost.append(" (what is nested too deeply)")
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str) and not self._keeps_references:
            found = self._find(reference, followed)
            if found is not None:
                beside = {key: value for key, value in schema.items() if key != "$ref"}
                return self.walk(found | beside, (*followed, reference), depth + 1)
        clean: dict[str, Any] = {}
        bounds = unheld(schema) if self._for_grammar else {}
        for key, value in schema.items():
            if key in ("$ref", "$defs", "definitions"):
                if self._keeps_references and not (key == "$ref" and _resolve(self._root, value) is None):
                    clean[key] = value if key == "$ref" else self._by_name(value, followed, depth)
                elif key == "$ref":  # it refers to itself or to nowhere: any value must do
                    self.lost.append(".$ref")
                continue
            if key in _NOWHERE or key in bounds:
                if bounds.get(key):
                    self.lost.append(f".{key}")
                continue
            if self._for_grammar and (key in _ONE_SCHEMA and isinstance(value, bool)):
                continue
            if self._for_grammar and key == "type" and not _known_type(value):
                continue
            if key in _BY_NAME and isinstance(value, dict):
                clean[key] = self._by_name(value, followed, depth)
            elif key in _SCHEMAS and isinstance(value, list):
                clean[key] = [self._schema(each, followed, depth) for each in value]
            elif key in _VALUES:
                clean[key] = value
            else:
                clean[key] = self.walk(value, followed, depth + 1)
        return clean

    def _find(self, reference: str, followed: tuple[str, ...]) -> dict[str, Any] | None:
        """The schema to put in the reference's place; None for one that is to be left, or is nowhere."""
        if followed.count(reference) >= _REPEATS:
            return None
        found = _resolve(self._root, reference)
        if not isinstance(found, dict):
            return None
        if reference not in self._sizes:
            self._sizes[reference] = len(encode(found))
        if self._brought_in + self._sizes[reference] > self._most:
            self.too_much = True
            return None
        self._brought_in += self._sizes[reference]
        return found

    def _by_name(self, schemas: Any, followed: tuple[str, ...], depth: int) -> Any:
        if not isinstance(schemas, dict):
            return schemas
        return {name: self._schema(each, followed, depth) for name, each in schemas.items()}

    def _schema(self, schema: Any, followed: tuple[str, ...], depth: int) -> Any:
        """A schema at a place where true and false are schemas too, which grammar compilers do not know."""
        if isinstance(schema, bool) and self._for_grammar:
            return {}
        return self.walk(schema, followed, depth + 1)


def _known_type(value: Any) -> bool:
    """A compiler that finds another word refuses the whole request, again and again."""
    return all(each in _TYPES for each in value) if isinstance(value, list) else value in _TYPES


def _resolve(root: Any, reference: Any) -> Any:
    """The place that a JSON pointer such as ``#/$defs/Point`` names; None if it names none."""
    if not isinstance(reference, str):
        return None
    if reference != "#" and not reference.startswith("#/"):
        return None
    place = root
    for step in unquote(reference[2:]).split("/") if reference != "#" else ():
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and step in place:
            place = place[step]
        elif isinstance(place, list) and step.isdecimal() and int(step) < len(place):
            place = place[int(step)]
        else:
            return None
    return place


def fits_strict(schema: Any, deepest: int = _DEEPEST) -> bool:
    """Whether OpenAI's ``strict`` takes it: every object closed, and all of its properties required."""
    if isinstance(schema, list):
        return all(fits_strict(each, deepest) for each in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict) or schema.get("type") == "object":
        names = set(properties) if isinstance(properties, dict) else set()
        required = schema.get("required") or []
        given = required if isinstance(required, list) and all(isinstance(each, str) for each in required) else [None]
        if schema.get("additionalProperties") is not False or set(given) != names:
            return False
    inner = (each for key, each in schema.items() if key not in _VALUES)
    return deepest > 0 and all(fits_strict(each, deepest - 1) for each in inner)

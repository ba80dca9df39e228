"""JSON Schemas as backends can take them (PROTOCOL 7.7.19). Key order is kept: it is part of the prompt's prefix."""

from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from attrs import define, field

from claudeproxy.wire.json import Raw, decode, encode

#: Says which draft the schema is written in, and is refused by some servers.
_NOWHERE = frozenset({"$schema", "$id", "$comment"})
#: What a grammar compiler chokes on: expressions of another regex dialect, and repetitions that it writes out.
_NOT_IN_GRAMMARS = _NOWHERE | {"pattern", "format", "minLength", "maxLength", "minItems", "maxItems"}
#: Keywords whose value is data, not a schema.
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
#: Keywords whose value maps names of properties, which are no keywords.
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "dependentRequired", "dependencies"})

#: Keywords whose value is a list of schemas, and those whose value is one.
_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ONE_SCHEMA = frozenset({"items", "contains", "not", "if", "then", "else", "propertyNames"})
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

#: How often a reference may be met on the way into itself; how many subschemas all references may bring in; how deep
#: a schema may be nested. Beyond, any value must do: schemas that refer to themselves have no end, and those that
#: refer to each other grow faster than any memory.
_REPEATS = 2
_MOST_BROUGHT_IN = 2000
_DEEPEST = 64


def cleaned(schema: Any, profile: str) -> Raw:
    """``schema`` as JSON for a dialect's cell ``schemas``: an object's schema, local references resolved."""
    return Raw(_cleaned(encode(schema), profile))


@lru_cache(maxsize=2048)
def _cleaned(schema: bytes, profile: str) -> bytes:
    # By content: a client sends the same definitions with every request.
    root = decode(schema)
    clean = _Cleaner(root, _NOT_IN_GRAMMARS if profile == "grammar" else _NOWHERE).walk(root, (), 0)
    if not isinstance(clean, dict):
        clean = {}
    if not ({"type", "anyOf", "oneOf", "allOf"} & clean.keys()):
        clean = {"type": "object"} | clean
    if clean.get("type") == "object":
        clean.setdefault("properties", {})
    return encode(clean)


@define
class _Cleaner:
    _root: Any
    _unwanted: frozenset[str]
    _brought_in: int = field(default=0, init=False)

    def walk(self, schema: Any, followed: tuple[str, ...], depth: int) -> Any:
        """One schema, found by way of the references ``followed``."""
        if isinstance(schema, list):
            return [self.walk(each, followed, depth + 1) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if depth > _DEEPEST:
            return {}
        self._brought_in += bool(followed)
        reference = schema.get("$ref")
        if isinstance(reference, str) and followed.count(reference) < _REPEATS and self._brought_in < _MOST_BROUGHT_IN:
            found = _resolve(self._root, reference)
            if isinstance(found, dict):
                beside = {key: value for key, value in schema.items() if key != "$ref"}
                return self.walk(found | beside, (*followed, reference), depth + 1)
        clean: dict[str, Any] = {}
        for key, value in schema.items():
            # A reference that is left refers to itself or to nowhere: any value must do.
            if key in self._unwanted or key in ("$ref", "$defs", "definitions"):
                continue
            if self._for_grammar and (key in _ONE_SCHEMA and isinstance(value, bool)):
                continue
            if self._for_grammar and key == "type" and not _known_type(value):
                continue
            if key in _BY_NAME and isinstance(value, dict):
                clean[key] = {name: self._schema(each, followed, depth) for name, each in value.items()}
            elif key in _SCHEMAS and isinstance(value, list):
                clean[key] = [self._schema(each, followed, depth) for each in value]
            elif key in _VALUES:
                clean[key] = value
            else:
                clean[key] = self.walk(value, followed, depth + 1)
        return clean

    @property
    def _for_grammar(self) -> bool:
        return self._unwanted is _NOT_IN_GRAMMARS

    def _schema(self, schema: Any, followed: tuple[str, ...], depth: int) -> Any:
        """A schema at a place where true and false are schemas too, which grammar compilers do not know."""
        if isinstance(schema, bool) and self._for_grammar:
            return {}
        return self.walk(schema, followed, depth + 1)


def _known_type(value: Any) -> bool:
    """A compiler that finds another word refuses the whole request, again and again."""
    return all(each in _TYPES for each in value) if isinstance(value, list) else value in _TYPES


def _resolve(root: Any, reference: str) -> Any:
    """The place that a JSON pointer such as ``#/$defs/Point`` names; None if it names none."""
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
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != names:
            return False
    inner = (each for key, each in schema.items() if key not in _VALUES)
    return deepest > 0 and all(fits_strict(each, deepest - 1) for each in inner)

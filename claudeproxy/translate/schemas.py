"""JSON Schemas as backends can take them (PROTOCOL 7.7.19). Key order is kept: it is part of the prompt's prefix."""

from functools import lru_cache
from typing import Any

from claudeproxy.wire.json import Raw, decode, encode

#: Says which draft the schema is written in, and is refused by some servers.
_NOWHERE = frozenset({"$schema", "$id", "$comment"})
#: What a grammar compiler chokes on: expressions of another regex dialect, and repetitions that it writes out.
_NOT_IN_GRAMMARS = _NOWHERE | {"pattern", "format", "minLength", "maxLength", "minItems", "maxItems"}

#: References are followed so deep; a schema that goes on refers to itself.
_DEEPEST_REFERENCE = 8


def cleaned(schema: Any, profile: str) -> Raw:
    """``schema`` as JSON for a dialect's cell ``schemas``: an object's schema, local references resolved."""
    return Raw(_cleaned(encode(schema), profile))


@lru_cache(maxsize=2048)
def _cleaned(schema: bytes, profile: str) -> bytes:
    # By content: a client sends the same definitions with every request.
    root = decode(schema)
    unwanted = _NOT_IN_GRAMMARS if profile == "grammar" else _NOWHERE
    clean = _walk(root, root, unwanted, 0)
    if not isinstance(clean, dict):
        clean = {}
    if not ({"anyOf", "oneOf", "allOf"} & clean.keys()):
        clean = {"type": "object"} | clean
        if clean["type"] == "object":
            clean.setdefault("properties", {})
    return encode(clean)


def _walk(schema: Any, root: Any, unwanted: frozenset[str], depth: int) -> Any:
    """One schema. Names of properties are not keywords, whatever they are called."""
    if isinstance(schema, list):
        return [_walk(each, root, unwanted, depth) for each in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#") and depth < _DEEPEST_REFERENCE:
        found = _resolve(root, reference)
        if isinstance(found, dict):
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            return _walk(found | beside, root, unwanted, depth + 1)
    clean: dict[str, Any] = {}
    for key, value in schema.items():
        if key in unwanted or (key in ("$defs", "definitions") and schema is root):
            continue
        if key == "$ref":
            continue  # it refers to itself or to nowhere: any value must do
        if key in ("properties", "patternProperties", "dependentSchemas") and isinstance(value, dict):
            clean[key] = {name: _walk(each, root, unwanted, depth) for name, each in value.items()}
        elif key in ("enum", "const", "default", "examples", "required"):
            clean[key] = value
        else:
            clean[key] = _walk(value, root, unwanted, depth)
    return clean


def _resolve(root: Any, reference: str) -> Any:
    """The place that a JSON pointer such as ``#/$defs/Point`` names; None if it names none."""
    place = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if not step:
            continue
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(place, dict) or step not in place:
            return None
        place = place[step]
    return place


def fits_strict(schema: Any) -> bool:
    """Whether OpenAI's ``strict`` takes it: every object closed, and all of its properties required."""
    if isinstance(schema, list):
        return all(map(fits_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict) or schema.get("type") == "object":
        names = set(properties) if isinstance(properties, dict) else set()
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != names:
            return False
    return all(fits_strict(each) for key, each in schema.items() if key not in ("enum", "const", "default"))

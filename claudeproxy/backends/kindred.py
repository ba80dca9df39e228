"""What a server that speaks as Anthropic's does tells of itself and of its models (PROTOCOL 1.7, 6.2).

Anthropic's own list tells all. Servers that only speak like it list no more than names, often in OpenAI's shape; but
they are of a family that has other ways of telling a model's window, and are asked in these.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve

from claudeproxy.backends.client import BackendClient, Target
from claudeproxy.backends.listings import entries, listed, tokens
from claudeproxy.backends.profile import NOTHING, Facts
from claudeproxy.backends.recognition import Recognised, ready, recognise
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal
from claudeproxy.translate.dialects import DIALECTS, dialect_of_host
from claudeproxy.translate.forwarding import VERSION, credentials

#: No server gives more models at once.
_LIST = "/v1/models?limit=1000"


@frozen
class Kindred:
    """What a server told; ``entries`` are those of its list that are in Anthropic's shape, whole, by the model."""

    recognised: Recognised
    entries: Mapping[str, Mapping[str, Any]]


def is_hosted(root: str) -> bool:
    """Whether it is a well-known service at ``root``, which is no server of a family that could be asked."""
    host = urlsplit(root).hostname or ""
    return f".{host}".endswith(".anthropic.com") or dialect_of_host(host) is not None


async def ask_kindred(client: BackendClient, root: str, key: str) -> Kindred:
    """Asks the server at ``root``, where ``/v1`` begins. Raises `Refusal` if it cannot be reached or is not ready."""
    headers = {name.decode(): value.decode() for name, value in (VERSION, *credentials(key))}
    status, listing = await client.get(root + _LIST, headers)
    ready(client, status)
    told = entries(listing) if status == 200 else []
    known = listed(listing) if status == 200 else {}
    models = {entry["id"]: _facts(entry).over(known[entry["id"]]) for entry in told if isinstance(entry.get("id"), str)}
    found = Recognised(DIALECTS["generic"], models)
    if not is_hosted(root) and not (models and all(facts.window for facts in models.values())):
        found = await _with_family(client, Target(f"{root}/v1", key), headers, found)
    as_told = {each["id"]: each for each in told if each.get("type") == "model" and "display_name" in each}
    return Kindred(found, as_told)


async def _with_family(
    client: BackendClient, target: Target, headers: Mapping[str, str], known: Recognised
) -> Recognised:
    try:
        family = await recognise(client, target, headers)
    except Refusal:  # it has answered already: what it does not tell stays unknown
        return known
    models = {name: facts.over(family.models.get(name, NOTHING)) for name, facts in known.models.items()}
    return evolve(family, models={**family.models, **models})


def _facts(entry: Mapping[str, Any]) -> Facts:
    """What an entry tells in Anthropic's words."""
    longest = tokens(entry.get("max_tokens"))
    return Facts({"max_output": longest} if longest else {}, tokens(entry.get("max_input_tokens")))

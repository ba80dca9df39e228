"""The settings in force, with what was made of them. A reload swaps one `Live` for the next."""

from collections.abc import Mapping

from attrs import field

from claudeproxy.backends.interfaces import Backend
from claudeproxy.model.kinds import frozen
from claudeproxy.model.problems import Refusal, not_found
from claudeproxy.routing.conflicts import addresses
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.table import PICKED, TOLD, ModelTable, Route, is_alias


@frozen(eq=False)
class Live:
    """Running requests keep the one that they began with."""

    settings: Settings
    table: ModelTable
    backends: Mapping[str, Backend]
    #: The interfaces that it listens on, by name or address.
    interfaces: frozenset[str] = field(init=False)

    @interfaces.default
    def _of_settings(self) -> frozenset[str]:
        return frozenset(filter(None, (each.interface for each in addresses(self.settings))))

    def scale(self, window: int) -> float:
        """By how much clients are told that a prompt is larger than it is, for a model with a ``window`` of so many
        tokens (0 if nobody knows): never smaller."""
        believed = self.settings.client_window
        return max(1.0, believed / window) if believed and window else 1.0

    def resolve(self, model: str) -> Route:
        """Where a request for ``model`` goes: as the table says, but a backend's own model comes before the default."""
        route = self.table.route(model)
        if not route.sure:
            for name in (model, model.removeprefix(PICKED) if is_alias(model) else model):
                for backend in self.backends.values():
                    if backend.knows(name):
                        return Route(backend.name, name, model, rule=TOLD)
        return route

    def route(self, model: str) -> tuple[Route, Backend]:
        """Where a request for ``model`` goes. Raises `Refusal` if it goes nowhere."""
        route = self.resolve(model)
        backend = self.backends.get(route.backend)
        if backend is None:
            raise Refusal(not_found(f"model: {model} is mapped to the backend {route.backend}, which is not set up"))
        return route, backend

"""The settings in force, with what was made of them. A reload swaps one `Live` for the next."""

from collections.abc import Mapping

from attrs import frozen

from claudeproxy.backends.interfaces import Backend
from claudeproxy.model.problems import Refusal, not_found
from claudeproxy.routing.settings import Settings
from claudeproxy.routing.table import ModelTable, Route


@frozen(eq=False)
class Live:
    """Running requests keep the one that they began with."""

    settings: Settings
    table: ModelTable
    backends: Mapping[str, Backend]

    def route(self, model: str) -> tuple[Route, Backend]:
        """Where a request for ``model`` goes. Raises `Refusal` if it goes nowhere."""
        route = self.table.route(model)
        backend = self.backends.get(route.backend)
        if backend is None:
            raise Refusal(not_found(f"model: {model} is mapped to the backend {route.backend}, which is not set up"))
        return route, backend

"""Whether requests are traced, and with what: a separate package, loaded only if they are."""

from importlib.util import find_spec
from typing import Any

from twisted.logger import Logger

from claudeproxy.routing.findings import Fault, SettingsError
from claudeproxy.routing.settings import Settings


def exporting(reactor: Any, log: Logger) -> Any:
    """What traces requests: a `service.exporting.Exporting`. Only here anything of OpenTelemetry is loaded."""
    from claudeproxy.service.exporting import Exporting
    from claudeproxy.web.tracing import Tracing

    return Exporting(Tracing(), reactor, log)


def check_tracing(settings: Settings) -> None:
    """Whether requests can be traced, if they are to be. Raises `SettingsError`."""
    if settings.tracing and not all(map(_is_there, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))):
        words = "needs OpenTelemetry's SDK and its OTLP exporter: pip install 'claudeproxy[otel]'"
        raise SettingsError([Fault("tracing", "tracing (TRACING)", words)])


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False

"""Whether requests are traced, and with what: a separate package, loaded only if they are."""

import os
from importlib.util import find_spec
from typing import Any

from twisted.logger import Logger

from claudeproxy.routing.findings import Fault, SettingsError
from claudeproxy.routing.settings import Settings

_QUEUE, _BATCH = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
#: What OpenTelemetry would stumble over when everything is open already, and what it takes otherwise.
_USUAL = {_QUEUE: 2048, _BATCH: 512, "OTEL_BSP_SCHEDULE_DELAY": 5000}


def exporting(reactor: Any, log: Logger) -> Any:
    """What traces requests: a `service.exporting.Exporting`. Only here anything of OpenTelemetry is loaded."""
    from claudeproxy.service.exporting import Exporting
    from claudeproxy.web.tracing import Tracing

    return Exporting(Tracing(), reactor, log)


def check_tracing(settings: Settings) -> None:
    """Whether requests can be traced, if they are to be. Raises `SettingsError`."""
    if not settings.tracing:
        return
    if not all(map(_is_there, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))):
        words = "needs OpenTelemetry's SDK and its OTLP exporter: pip install 'claudeproxy[otel]'"
        raise SettingsError([Fault("tracing", "tracing (TRACING)", words)])
    sizes = {name: _number(name, usual) for name, usual in _USUAL.items()}
    wrong = [
        Fault("tracing", name, f"expected a number above 0, found {size}") for name, size in sizes.items() if size <= 0
    ]
    if not wrong and sizes[_BATCH] > sizes[_QUEUE]:
        wrong = [Fault("tracing", _BATCH, f"expected no more than {_QUEUE} ({sizes[_QUEUE]}), found {sizes[_BATCH]}")]
    if wrong:
        raise SettingsError(wrong)


def _number(name: str, usual: int) -> int:
    try:
        return int(os.environ.get(name, usual))
    except ValueError:  # which OpenTelemetry says, and goes on with the usual one
        return usual


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False

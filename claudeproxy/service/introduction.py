"""What a daemon says of itself at its start: where it is, what answers, and how Claude Code is started against it."""

from collections.abc import Iterable

from twisted.logger import Logger

from claudeproxy.backends.interfaces import Backend
from claudeproxy.routing.settings import Settings
from claudeproxy.service.listening import Listening


def introduce(
    log: Logger, settings: Settings, clients: Listening, operators: Listening, backends: Iterable[Backend]
) -> None:
    """Logs it; what others can reach is a warning."""
    for url in clients.urls:
        log.info("claudeproxy listens on {address}", address=url)
    for url in operators.urls:
        log.info("operators find it on {address}", address=url)
    log.info("answers come from {backends}", backends=", ".join(backend.describe() for backend in backends))
    for url in [each for each in clients.urls if each.startswith("http")][:1]:
        log.info(
            "start Claude Code with: ANTHROPIC_BASE_URL={address} ANTHROPIC_API_KEY={key} "
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 claude{flags}",
            address=url,
            key="YOUR_KEY" if settings.keys else "none",
            # The embedded model's window holds a conversation, but not the definitions of all of Claude Code's tools.
            flags=' --bare --tools ""' if settings.backends[0].provider == "local" else "",
        )
    need = "every request needs a key" if settings.keys else "no request needs a key, as open_to_all says"
    for each in sorted(clients.found_open):
        log.warn("{address} can be reached from other machines; {need}", address=each, need=need)
    for each in sorted(operators.found_open):
        log.warn("{address}, for operators, can be reached from other machines", address=each)

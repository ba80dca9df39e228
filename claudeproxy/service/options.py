"""The command line of ``twistd claudeproxy``: one option a setting, made from their declarations."""

from typing import Any, ClassVar

from twisted.python.usage import Options as UsageOptions

from claudeproxy.routing.sources import options


class Options(UsageOptions):
    """Beats the environment, which beats the settings file. Nothing is checked here: `service.reading` does."""

    synopsis = "[options]"
    longdesc = (
        "Answers Anthropic's Messages API with the model of your choice. With nothing configured, the embedded "
        "model answers on http://127.0.0.1:8080. Secrets have no option, because a list of processes would show them."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "The settings file (TOML)."],
        *([name, None, None, meaning] for name, meaning in options()),
    ]

    def given(self) -> dict[str, str]:
        """What was said, by option; without ``--config``."""
        return {name: self[name] for name, _ in options() if self[name] is not None}

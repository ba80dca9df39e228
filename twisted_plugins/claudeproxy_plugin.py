"""The doorbell: tells twistd that there is a claudeproxy, and loads nothing of it before it is chosen."""

from twisted.application.service import ServiceMaker

claudeproxy = ServiceMaker(
    "claudeproxy",
    "claudeproxy.service.tree",
    "Claude Code and other Anthropic clients on OpenAI-compatible, Ollama or embedded models.",
    "claudeproxy",
)

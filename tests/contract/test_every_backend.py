"""One contract, every kind of backend (issue 4). A new kind is a `Stand` and two lines here."""

from tests.contract import answers, endings
from tests.contract.anthropic_stands import LlamaMessagesStand, RawStand, RepairStand
from tests.contract.stands import GenericStand, LlamaStand, OllamaStand, ResponsesStand


class _Contract:
    """Holds the base, so that nothing runs it by itself."""

    class All(
        answers.Opening,
        answers.Streaming,
        answers.Tools,
        answers.Ends,
        answers.Beside,
        endings.Failures,
        endings.Truncation,
        endings.Leaving,
        endings.Returning,
        endings.SlowReading,
    ):
        """The whole contract."""


class GenericTests(_Contract.All):
    """An OpenAI-compatible server of which nothing is known."""

    kind = GenericStand


class LlamaTests(_Contract.All):
    """llama.cpp through Chat Completions."""

    kind = LlamaStand


class OllamaTests(_Contract.All):
    """Ollama's own API."""

    kind = OllamaStand


class ResponsesTests(_Contract.All):
    """The Responses API."""

    kind = ResponsesStand


class RepairTests(_Contract.All):
    """Anthropic's API, its answers read and repaired."""

    kind = RepairStand


class LlamaMessagesTests(_Contract.All):
    """llama.cpp's own /v1/messages, repaired."""

    kind = LlamaMessagesStand


class RawTests(_Contract.All):
    """Anthropic's API, byte for byte."""

    kind = RawStand

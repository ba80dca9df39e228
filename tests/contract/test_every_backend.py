"""One contract, every kind of backend (issue 4). A new kind is a `Stand` and two lines here."""

from tests.contract import answers, endings
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

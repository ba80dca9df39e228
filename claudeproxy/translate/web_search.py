"""The request that Claude Code's WebSearch makes, answered honestly: there is no search engine (PROTOCOL 4.5, 7.6)."""

from claudeproxy.model.anthropic import MessagesRequest, TextBlock
from claudeproxy.model.events import Event, Usage
from claudeproxy.translate.reply import Reply
from claudeproxy.wire.json import encode_text

_QUERY = "query:"
NOT_CONFIGURED = "Web search is not set up on this proxy, so nothing was searched."


def is_web_search(request: MessagesRequest) -> bool:
    """Whether its only tool is Anthropic's web search, which is how the client asks for one search."""
    return len(request.tools) == 1 and (request.tools[0].type or "").startswith("web_search_")


def no_results(request: MessagesRequest, reply: Reply, prompt_tokens: int, unique: str) -> list[Event]:
    """The blocks that the client reads, saying that the search is unavailable; a plain text would read as "found
    nothing"."""
    id = f"srvtoolu_{unique}"
    reply.start(Usage(input=prompt_tokens))
    reply.server_call(id, "web_search", encode_text({"query": _query(request)}))
    error = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    reply.whole_block({"type": "web_search_tool_result", "tool_use_id": id, "content": error})
    reply.text(NOT_CONFIGURED)
    reply.end("end_turn", Usage(input=prompt_tokens, output=len(NOT_CONFIGURED) // 4))
    return reply.take()


def _query(request: MessagesRequest) -> str:
    last = [message for message in request.messages if message.role == "user"][-1:]
    texts = [block.text for message in last for block in message.content if isinstance(block, TextBlock)]
    asked = " ".join(texts)
    return (asked.partition(_QUERY)[2] or asked).strip()

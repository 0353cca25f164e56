"""Answer a question about Python's standard library as a stream of parts.

model    a model answers and calls tools, over the OpenAI chat-completions API
offline  the answer is composed from search results: no key, no network, no model
tools    tool calls as parts: the call, its approval, its result

`answer` chooses by the environment:

    OPENAI_API_KEY    if set, a model answers
    OPENAI_BASE_URL   default https://api.openai.com/v1
    OPENAI_MODEL      default gpt-4o-mini

A part is a plain dict with a `type`: `text-delta` (text), `tool-call` (id, name, input),
`tool-approval` (id, state), `tool-result` (id, output, is_error), `error` (message), `finish`
(reason, usage). A stream ends with `finish` or with `error`.
"""

from collections.abc import AsyncIterator

from demo_app.assistant.model import answer_with_model, model_name
from demo_app.assistant.offline import answer_offline
from demo_app.assistant.tools import Approve, Part


def answer(question: str, *, approve: Approve | None = None) -> AsyncIterator[Part]:
    """Answer with a model if a key is set, otherwise offline.

    Args:
        question: The visitor's question.
        approve: Called with the id of a tool call before a file is read. If it returns false, the
            call fails. None allows every call.
    """
    if model_name():
        return answer_with_model(question, approve=approve)
    return answer_offline(question, approve=approve)

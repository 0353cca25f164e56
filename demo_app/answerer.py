"""Answer a question about Python's standard library as a stream of parts.

Two answerers, one form. `answer_offline` needs neither key nor network: it calls the tools of
`library` and composes its answer from what they return. `answer_with_model` lets a model call the
same tools over the OpenAI chat-completions API. `answer` picks by the environment:

    OPENAI_API_KEY    with it a model answers
    OPENAI_BASE_URL   default https://api.openai.com/v1
    OPENAI_MODEL      default gpt-4o-mini

Parts are plain dicts, told apart by `type`: `text-delta` (text), `tool-call` (id, name, input),
`tool-approval` (id, state), `tool-result` (id, output, is_error), `error` (message), `finish`
(reason, usage). A stream ends with `finish` or with `error`.
"""

from collections.abc import AsyncIterator

from demo_app.answerer_model import answer_with_model, model_name
from demo_app.answerer_offline import answer_offline
from demo_app.answerer_tools import Allow, Part


def answer(question: str, *, allow: Allow | None = None) -> AsyncIterator[Part]:
    """Answer with a model where there is a key, else offline.

    Args:
        question: What the visitor asks.
        allow: Asked with a call's id before a file is read; None: reading needs no leave.
    """
    if model_name():
        return answer_with_model(question, allow=allow)
    return answer_offline(question, allow=allow)

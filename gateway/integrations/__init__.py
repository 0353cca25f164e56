"""Adapters and extensions, one file or folder for each library, imported only when used.

This room may import every room except `cli`.

    anthropic         Anthropic's message streams as parts
    celery/           Celery tasks as runs, and `@task` on Celery workers
    langchain         LangChain's streams as parts
    openai/           OpenAI's streams as parts
    pydantic_ai       Pydantic AI's event streams as parts
    reflex            a gateway in a Reflex application
    taskiq/           Taskiq tasks as runs, and `@task` on Taskiq workers

    _handles          run handles of the messages that this process has sent
    _model_streams    common code of the adapters of model clients
    _run_tracking     tracking of a task queue's own functions as runs
    _tool_inputs      assembly of tool inputs from streamed pieces
"""

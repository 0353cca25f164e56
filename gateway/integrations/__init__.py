"""One file or folder for each library, imported only when used.

May import every room but `cli`.

    anthropic         message streams of Anthropic's client as parts
    langchain         streams of LangChain as parts
    openai            streams of OpenAI's client as parts
    pydantic_ai       event streams of Pydantic AI as parts
    reflex            a gateway inside a Reflex app

    celery/           Celery's tasks as runs
    taskiq/           Taskiq's tasks as runs

    _handles          runs of the messages that this process sent
    _model_streams    what the adapters of model clients share
    _run_tracking     functions of a task queue as runs
    _tool_inputs      inputs of tool calls, assembled from fragments
"""

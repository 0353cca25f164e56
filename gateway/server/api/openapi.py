"""The OpenAPI description of the HTTP endpoints, made from the models that check them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter

from gateway.model.runs import STATUSES, Run
from gateway.server.api.runs import (
    Handle,
    Readers,
    RevokeAnswer,
    RevokeBody,
    RunPage,
    TokenAnswer,
    TokenBody,
    TriggerBody,
)

_ERRORS = {
    "401": "The token is missing, malformed, expired, revoked, or not this gateway's.",
    "403": "No scope of the token allows it, or it has been spent.",
    "404": "There is no such run or task.",
    "413": "The body is over the limit.",
    "422": "The body, an id or a parameter is outside its rule.",
    "503": "The store cannot be reached.",
}


class ErrorBody(BaseModel):
    """What every refusal looks like."""

    code: str
    message: str
    retryable: bool


class SchemasAnswer(BaseModel):
    """What the streams carry that are defined at this gateway and by its workers."""

    streams: dict[str, dict[str, Any]] = Field(description="JSON Schemas by stream id.")


@cache
def document(version: str) -> dict[str, Any]:
    """Make the document.

    Args:
        version: Of the package.

    Returns:
        OpenAPI 3.1, as JSON-able values.
    """
    models = (
        TriggerBody,
        Handle,
        TokenBody,
        TokenAnswer,
        RevokeBody,
        RevokeAnswer,
        RunPage,
        Readers,
        SchemasAnswer,
        ErrorBody,
    )
    schemas = {model.__name__: _schema(model) for model in models}
    schemas["Run"] = _schema(Run)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Realtime Streams", "version": version},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
        "paths": _paths(),
    }


def _paths() -> dict[str, Any]:
    run = _parameter("run", "path", "The run's id.")
    task = _parameter("task", "path", "The task's id.")
    status = {"type": "array", "items": {"enum": list(STATUSES)}}
    query = [
        _parameter("tag", "query", "Only runs with this tag."),
        _parameter("status", "query", "Only these statuses.", status),
        _parameter("before", "query", "Only runs whose id sorts before this one."),
        _parameter(
            "limit", "query", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000}
        ),
    ]
    return {
        "/v1/tasks/{task}/trigger": {
            "post": _operation("Trigger a task", "201", "Handle", [task], "TriggerBody")
        },
        "/v1/runs": {"get": _operation("List runs, newest first", "200", "RunPage", query)},
        "/v1/runs/{run}": {"get": _operation("Look at a run", "200", "Run", [run])},
        "/v1/runs/{run}/readers": {
            "get": _operation(
                "Count the readers of a run's streams at this gateway", "200", "Readers", [run]
            )
        },
        "/v1/runs/{run}/cancel": {
            "post": _operation("Cancel a run and the runs below it", "200", "Run", [run])
        },
        "/v1/tokens": {
            "post": _operation(
                "Mint an access token, with the secret key as bearer",
                "201",
                "TokenAnswer",
                [],
                "TokenBody",
            )
        },
        "/v1/tokens/revoke": {
            "post": _operation(
                "Revoke tokens, with the secret key as bearer",
                "200",
                "RevokeAnswer",
                [],
                "RevokeBody",
            )
        },
        "/v1/stream/{name}": _stream(),
        "/v1/events": {"post": _events()},
        "/v1/schemas": {
            "get": _operation(
                "List the JSON Schemas of streams, with read:runs:*", "200", "SchemasAnswer", []
            )
        },
        "/v1/client.js": {"get": _file("Get the client for JavaScript", "text/javascript")},
        "/v1/client.d.ts": {"get": _file("Get its types", "application/typescript")},
        "/v1/asyncapi.json": {
            "get": _file("Get the description of the WebSocket", "application/json")
        },
    }


def _events() -> dict[str, Any]:
    """Describe the WebSocket's frames over HTTP: `/v1/asyncapi.json` has the frames."""
    return {
        "summary": "Exchange frames of the WebSocket",
        "description": "The body has the client's frames, one a line; the answer the gateway's.",
        "operationId": "exchange_frames",
        "security": [],  # the tokens are in the frames
        "parameters": [
            _parameter(
                "wait_s",
                "query",
                "How long the answer goes on at most, in seconds; default: REALTIME_EVENTS_S.",
                {"type": "number", "minimum": 0},
            )
        ],
        "requestBody": {"content": {"*/*": {}}},
        "responses": {
            "200": {
                "description": "Frames as they come; the last event says why there are no more.",
                "content": {"text/event-stream": {}},
            },
            "422": {"description": _ERRORS["422"], "content": _content("ErrorBody")},
        },
    }


def _file(summary: str, content_type: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": summary.lower().replace(" ", "_"),
        "security": [],  # public: any page may have it
        "responses": {
            "200": {"description": "Here it is.", "content": {content_type: {}}},
            "304": {"description": "It is the one that the request has."},
        },
    }


def _stream() -> dict[str, Any]:
    """Describe streams over HTTP as far as a page of tools needs it; the protocol has the rest."""
    name = _parameter("name", "path", "`{run}/{stream}`, or the path of a stream without a run.")
    where = _parameter("offset", "query", "Where to read on: one that was handed out, -1 or now.")
    live = _parameter("live", "query", "Wait for records.", {"enum": ["long-poll", "sse"]})
    body: dict[str, Any] = {"content": {"*/*": {}}}
    found = {
        "200": "Records, or events as they come.",
        "204": "Nothing came in time.",
        "304": "Nothing is new.",
    }
    return {
        "get": _exchange("Read a stream", [name, where, live], found),
        "put": _exchange(
            "Create a stream", [name], {"200": "It was there.", "201": "Created."}, body
        ),
        "post": _exchange(
            "Append to a stream", [name], {"200": "Appended.", "204": "Appended or known."}, body
        ),
        "delete": _exchange("Delete a stream", [name], {"204": "Deleted."}),
        "head": _exchange("Look at a stream", [name], {"200": "It is there."}),
    }


def _exchange(
    summary: str,
    parameters: list[dict[str, Any]],
    found: dict[str, str],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    refused = _ERRORS | {
        "400": "A header, a parameter or the body is outside its rule.",
        "409": "It is closed, otherwise than asked for, or the append does not follow.",
        "410": "It was deleted, or has nothing at this offset any more.",
    }
    del refused["422"]
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": summary.lower().replace(" ", "_"),
        "parameters": parameters,
        "responses": {
            **{code: {"description": meaning} for code, meaning in found.items()},
            **{
                code: {"description": meaning, "content": _content("ErrorBody")}
                for code, meaning in refused.items()
            },
        },
    }
    return operation if body is None else operation | {"requestBody": body}


def _operation(
    summary: str,
    status: str,
    answer: str,
    parameters: list[dict[str, Any]],
    body: str | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": summary.lower().split(",")[0].replace(" ", "_"),
        "parameters": parameters,
        "responses": {
            status: {"description": "Done.", "content": _content(answer)},
            **{
                code: {"description": meaning, "content": _content("ErrorBody")}
                for code, meaning in _ERRORS.items()
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _parameter(
    name: str, place: str, description: str, schema: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema or {"type": "string"},
    }


def _schema(type_: Any) -> dict[str, Any]:
    schema: dict[str, Any] = TypeAdapter(type_).json_schema(
        ref_template="#/components/schemas/{model}"
    )
    # A nested model's definition stays inside the schema that uses it.
    nested = schema.pop("$defs", {})
    inlined: dict[str, Any] = _inlined(schema, nested)
    return inlined


def _inlined(value: Any, nested: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(item, nested) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(nested[value["$ref"].rsplit("/", 1)[1]], nested)
    return {name: _inlined(item, nested) for name, item in value.items()}

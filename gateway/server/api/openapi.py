"""The OpenAPI document of the HTTP endpoints, made from the models that validate their bodies."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter

from gateway.model.runs import STATUSES, Run
from gateway.server.api.runs import ReaderCounts, RunPage, TriggerAnswer, TriggerBody
from gateway.server.api.tokens import RevokeAnswer, RevokeBody, TokenAnswer, TokenBody

_ERRORS = {
    "401": "The token is missing, malformed, expired, revoked, or not this gateway's.",
    "403": "No scope of the token allows it, or its uses are spent.",
    "404": "There is no such run or task.",
    "413": "The body is over the limit.",
    "422": "The body, an id or a parameter is invalid.",
    "503": "The store cannot be reached.",
}


class ErrorBody(BaseModel):
    """The body of every error response."""

    code: str
    message: str
    retryable: bool


class SchemasAnswer(BaseModel):
    """The schemas of the streams that this gateway and its workers define."""

    streams: dict[str, dict[str, Any]] = Field(description="JSON Schemas by stream id.")


@cache
def document(version: str) -> dict[str, Any]:
    """Make the document.

    Args:
        version: The package's version.

    Returns:
        OpenAPI 3.1 as JSON values.
    """
    models = (
        TriggerBody,
        TriggerAnswer,
        TokenBody,
        TokenAnswer,
        RevokeBody,
        RevokeAnswer,
        RunPage,
        ReaderCounts,
        SchemasAnswer,
        ErrorBody,
    )
    schemas = {schema["title"]: schema for schema in map(_schema, models)}
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
            "limit",
            "query",
            "The largest number of runs.",
            {"type": "integer", "minimum": 1, "maximum": 1000},
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
    """Describe frames over HTTP; `/v1/asyncapi.json` describes the frames."""
    return {
        "summary": "Exchange frames of the WebSocket",
        "description": "The body has the client's frames, one a line; the answer the gateway's.",
        "operationId": "exchange_frames",
        "security": [],  # frames have the tokens
        "parameters": [
            _parameter(
                "wait_s",
                "query",
                "Longest duration of the response, in seconds; default: REALTIME_EVENTS_S.",
                {"type": "number", "minimum": 0},
            )
        ],
        "requestBody": {"content": {"*/*": {}}},
        "responses": {
            "200": {
                "description": "Frames as server-sent events; the last event gives the close code.",
                "content": {"text/event-stream": {}},
            },
            "422": {"description": _ERRORS["422"], "content": _content("ErrorBody")},
        },
    }


def _file(summary: str, content_type: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": summary.lower().replace(" ", "_"),
        "security": [],  # public
        "responses": {
            "200": {"description": "The file.", "content": {content_type: {}}},
            "304": {"description": "The client's copy is current."},
        },
    }


def _stream() -> dict[str, Any]:
    """Describe streams over HTTP for API tools; the Durable Streams protocol has the details."""
    name = _parameter("name", "path", "`{run}/{stream}`, or the path of a stream without a run.")
    where = _parameter("offset", "query", "Where to start: an offset of the gateway, -1 or now.")
    live = _parameter("live", "query", "Wait for records.", {"enum": ["long-poll", "sse"]})
    body: dict[str, Any] = {"content": {"*/*": {}}}
    found = {
        "200": "Records, or server-sent events.",
        "204": "No record arrived in time.",
        "304": "Not modified.",
    }
    return {
        "get": _exchange("Read a stream", [name, where, live], found),
        "put": _exchange(
            "Create a stream", [name], {"200": "It exists already.", "201": "Created."}, body
        ),
        "post": _exchange(
            "Append to a stream",
            [name],
            {"200": "Appended.", "204": "Appended, or already appended."},
            body,
        ),
        "delete": _exchange("Delete a stream", [name], {"204": "Deleted."}),
        "head": _exchange("Look at a stream", [name], {"200": "The stream exists."}),
    }


def _exchange(
    summary: str,
    parameters: list[dict[str, Any]],
    found: dict[str, str],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    refused = _ERRORS | {
        "400": "A header, a parameter or the body is invalid.",
        "409": "The stream is closed or differs, or the append is out of sequence.",
        "410": "The stream was deleted, or no longer has this offset.",
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
    # Inline the definition of a nested model.
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

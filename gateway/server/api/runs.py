"""HTTP for pages and backends: trigger a task, read runs, cancel one.

Source:
    `/v1/openapi.json`, which `gateway.server.api.openapi` makes from the models here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway._internal import tracing
from gateway.auth.permissions import ParentUses, Permissions, TriggerGrant, require
from gateway.errors import InvalidValue, RunNotFound, TokenSpent
from gateway.model.limits import LEAST_LISTED_RUNS, MAX_LISTED_RUNS, MAX_PAYLOAD_BYTES
from gateway.model.log import RunQuery
from gateway.model.records import RUN_STREAM, RunSet, StreamKey, check_run_id, shown
from gateway.model.run_limits import check_tags
from gateway.model.runs import Run, check_statuses
from gateway.protocol import without
from gateway.sdk import runs as sdk_runs
from gateway.sdk.task_registry import find_task
from gateway.server.api.authentication import Authenticator
from gateway.server.api.json_body import RequestBody, json_response, parse_body, read_body
from gateway.server.query_params import allow_params, whole_number
from gateway.stores.base import Store


class TriggerBody(RequestBody):
    """The arguments of a run."""

    payload: dict[str, Any] = Field(default_factory=dict, description="The keyword arguments.")
    tags: list[str] = Field(default_factory=list, description="Refused when the token sets tags.")


class TriggerAnswer(BaseModel):
    """A run that was triggered."""

    model_config = ConfigDict(title="Handle")  # its name in the OpenAPI document

    id: str
    access_token: str = Field(description="Reads this run and its streams, and nothing else.")


class RunPage(BaseModel):
    """Runs, newest first; fewer than `limit` when they are large."""

    runs: list[dict[str, Any]] = Field(
        description="Without fields over 65,536 bytes: `omitted` names those, with their sizes."
    )
    next_before: str | None = Field(description="Give it as `before` for the next page, if any.")


class ReaderCounts(BaseModel):
    """The number of readers of a run's streams at this gateway."""

    model_config = ConfigDict(title="Readers")  # its name in the OpenAPI document

    streams: dict[str, int] = Field(description="By stream id; streams without readers are absent.")


@dataclass(frozen=True, slots=True)
class RunsApi:
    """The endpoints, over an open store.

    Args:
        store: Returns the store, or raises while there is none.
        authenticator: Returns the permissions of a request's bearer.
        readers: Returns the number of readers of each stream of a run at this gateway.
    """

    store: Callable[[], Store]
    authenticator: Authenticator
    readers: Callable[[str], dict[str, int]]

    @property
    def routes(self) -> list[Route]:
        """The endpoints' paths."""
        return [
            Route("/v1/tasks/{task}/trigger", allow_params(self.trigger), methods=["POST"]),
            Route("/v1/runs/{run}/cancel", allow_params(self.cancel), methods=["POST"]),
            Route("/v1/runs/{run}/readers", allow_params(self.count_readers), methods=["GET"]),
            Route("/v1/runs/{run}", allow_params(self.retrieve), methods=["GET"]),
            Route(
                "/v1/runs",
                allow_params(self.list, once=("tag", "before", "limit"), often=("status",)),
                methods=["GET"],
            ),
        ]

    async def trigger(self, request: Request) -> Response:
        """Start a run of a task that the gateway's process defines."""
        access = self.authenticator.permissions(request)
        task_id = request.path_params["task"]
        require(access.may_trigger(task_id), f"trigger task {task_id}")
        body = parse_body(TriggerBody, await read_body(request))
        grant = access.grant or TriggerGrant(uses=None, max_payload_bytes=MAX_PAYLOAD_BYTES)
        size = len(msgspec.json.encode(body.payload))
        if size > grant.max_payload_bytes:
            raise InvalidValue(
                f"the payload is {size} bytes as JSON; the token's max_payload_bytes allows "
                f"{grant.max_payload_bytes} bytes"
            )
        tags = _tags(grant, body)
        for tag in body.tags:
            may = access.may_put_into(RunSet("tag", tag))
            require(may, f"give the run the tag {shown(tag)}; a trigger token has `tags`")
        task = find_task(task_id, access.may_trigger).options(tags=tags)
        task.check_payload(body.payload)  # an invalid payload costs no use of the token
        await self._spend(access, grant)
        parent = tracing.extract(request.headers)
        with tracing.span("POST trigger", kind="consumer", parent=parent, task=task_id):
            handle = await task.trigger_payload(body.payload)
        return json_response(TriggerAnswer(id=handle.id, access_token=handle.access_token), 201)

    async def _spend(self, access: Permissions, grant: TriggerGrant) -> None:
        # The token's own uses first: if none is left, its parents' uses stay untouched.
        own = [] if grant.uses is None else [ParentUses(access.id, grant.uses, access.expires_at_s)]
        for token_id, uses, expires_at_s in [*own, *reversed(grant.shares)]:
            if not await self.store().consume_token_use(token_id, uses, int(expires_at_s * 1000)):
                raise TokenSpent(f"the token may trigger {uses} run(s), and has")

    async def cancel(self, request: Request) -> Response:
        """Cancel a run and its child runs."""
        access = self.authenticator.permissions(request)
        run_id = check_run_id(request.path_params["run"])
        require(access.may_write(StreamKey(run_id, RUN_STREAM)), f"change run {run_id}")
        return JSONResponse(_shown(await sdk_runs.cancel(run_id), access))

    async def retrieve(self, request: Request) -> Response:
        """Return a run's current state."""
        access = self.authenticator.permissions(request)
        return JSONResponse(_shown(await self._readable(request, access), access))

    async def count_readers(self, request: Request) -> Response:
        """Return the number of readers of each stream of a run at this gateway."""
        run = await self._readable(request, self.authenticator.permissions(request))
        return json_response(ReaderCounts(streams=self.readers(run.id)))

    async def _readable(self, request: Request, access: Permissions) -> Run:
        run_id = check_run_id(request.path_params["run"])
        key = StreamKey(run_id, RUN_STREAM)
        # Without permission, a missing and an existing run get the same error.
        if not access.depends_on_run():
            require(access.may_read(key), f"read run {run_id}")
        try:
            run = (await self.store().get_run(run_id)).run
        except RunNotFound:
            require(access.may_read(key), f"read run {run_id}")
            raise
        require(access.may_read(key, run.tags, run.batch_id), f"read run {run_id}")
        return run

    async def list(self, request: Request) -> Response:
        """Return runs with a tag, or all runs, newest first."""
        access = self.authenticator.permissions(request)
        query = request.query_params
        tag = query.get("tag")
        if tag is None:
            require(access.may_read_every_run(), "list runs")
        else:
            check_tags([tag])
            require(access.may_read_set(RunSet("tag", tag)), f"list runs with the tag {tag}")
        limit = whole_number(query, "limit", 50, MAX_LISTED_RUNS)
        asked = RunQuery(
            status=check_statuses(query.getlist("status")),
            tag=tag,
            before=check_run_id(query["before"]) if "before" in query else None,
            limit=limit,
        )
        found = await self.store().list_runs(asked)
        before = found[-1].id if found else None
        if len(found) < min(limit, LEAST_LISTED_RUNS):
            before = None
        elif len(found) < limit:  # the last page, or a page cut short by its size
            rest = replace(asked, before=before, limit=1)
            before = before if await self.store().list_runs(rest) else None
        return json_response(
            RunPage(runs=[_shown(run, access) for run in found], next_before=before)
        )


def _shown(run: Run, access: Permissions) -> dict[str, Any]:
    return without(run.to_wire(), access.skip)


def _tags(grant: TriggerGrant, body: TriggerBody) -> list[str]:
    if grant.tags and body.tags:
        raise InvalidValue("the token sets the run's tags; leave `tags` out")
    return list(grant.tags) or body.tags

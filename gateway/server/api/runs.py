"""HTTP for pages and backends: trigger a task, look at runs, cancel one, mint a token.

Source:
    `/v1/openapi.json`, made by `gateway.server.api.openapi` from the models here.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import tokens
from gateway._internal import tracing
from gateway.auth.permissions import ParentUses, Permissions, TriggerGrant, require
from gateway.errors import (
    FrameTooLarge,
    InvalidToken,
    InvalidValue,
    RealtimeError,
    RunNotFound,
    TokenSpent,
)
from gateway.model.limits import LEAST_LISTED_RUNS, MAX_LISTED_RUNS, MAX_PAYLOAD_BYTES
from gateway.model.log import RunQuery
from gateway.model.records import RUN_STREAM, RunSet, StreamKey, check_run_id, shown
from gateway.model.run_limits import check_tags
from gateway.model.runs import Run, check_statuses
from gateway.model.untrusted_json import NotJson, check_json
from gateway.protocol import without
from gateway.sdk import runs as sdk_runs
from gateway.sdk.task_registry import find_task
from gateway.sdk.values.encoding import format_validation_error
from gateway.server.query_params import taking, whole_number
from gateway.server.request_checks import refuse_secret_url
from gateway.stores.base import Store

MAX_BODY_BYTES = MAX_PAYLOAD_BYTES + (16 << 10)  # a payload and what is around it

EVERYTHING = frozenset(
    {
        "read:runs:*",
        "write:runs:*",
        "trigger:tasks:*",
        "read:paths:*",
        "write:paths:*",
        "read:metrics:*",
    }
)

B = TypeVar("B", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TriggerBody(_Body):
    """What to trigger a task with."""

    payload: dict[str, Any] = Field(default_factory=dict, description="The keyword arguments.")
    tags: list[str] = Field(default_factory=list, description="Refused when the token sets tags.")


class Handle(BaseModel):
    """A run that was triggered."""

    id: str
    access_token: str = Field(description="Reads this run and its streams, and nothing else.")


class TokenBody(_Body):
    """Which token to mint."""

    scopes: list[str]
    ttl_s: float = tokens.DEFAULT_TTL_S
    subject: str | None = Field(default=None, min_length=1, description="Who it is for.")
    skip: list[str] = Field(
        default_factory=list,
        description="Fields of runs that its bearer never sees: payload, output, metadata.",
    )


class TokenAnswer(BaseModel):
    """A new token."""

    token: str
    id: str = Field(description="Its `jti`, by which it can be revoked.")


class RevokeBody(_Body):
    """Which tokens are good no more: one, or those that a subject was given up to a time."""

    token_id: str | None = Field(default=None, description="The token's `jti`.")
    subject: str | None = Field(default=None, description="The tokens' `sub`, in its place.")
    issued_before_s: float | None = Field(
        default=None, description="With `subject`: Unix time; left out, it is now."
    )


class RevokeAnswer(BaseModel):
    """What was revoked, once it is kept."""

    token_id: str | None
    subject: str | None
    issued_before_s: float | None


class RunPage(BaseModel):
    """Runs, newest first; fewer than `limit` when they are large."""

    runs: list[dict[str, Any]] = Field(
        description="Without fields over 65,536 bytes: `omitted` names those, with their sizes."
    )
    next_before: str | None = Field(description="Give it as `before` for the next page, if any.")


class Readers(BaseModel):
    """How many read the streams of a run at this gateway."""

    streams: dict[str, int] = Field(description="By stream id; those without a reader are absent.")


@dataclass(frozen=True, slots=True)
class RunsApi:
    """The endpoints, over an open store.

    Args:
        store: Gives the store, or raises while there is none.
        verify: Checks a token at a time.
        secret_key: Gives the secret, with which a backend may do anything.
        readers: Says how many read each stream of a run here.
        clock_s: Unix time.
    """

    store: Callable[[], Store]
    verify: Callable[[object, float], Permissions]
    secret_key: Callable[[], str]
    readers: Callable[[str], dict[str, int]]
    clock_s: Callable[[], float] = time.time

    @property
    def routes(self) -> list[Route]:
        """The endpoints' paths."""
        return [
            Route("/v1/tasks/{task}/trigger", taking(self.trigger), methods=["POST"]),
            Route("/v1/runs/{run}/cancel", taking(self.cancel), methods=["POST"]),
            Route("/v1/runs/{run}/readers", taking(self.count_readers), methods=["GET"]),
            Route("/v1/runs/{run}", taking(self.retrieve), methods=["GET"]),
            Route(
                "/v1/runs",
                taking(self.list, once=("tag", "before", "limit"), often=("status",)),
                methods=["GET"],
            ),
            Route("/v1/tokens", taking(self.mint), methods=["POST"]),
            Route("/v1/tokens/revoke", taking(self.revoke), methods=["POST"]),
        ]

    async def trigger(self, request: Request) -> Response:
        """Start a run of a task that is defined in the gateway's process."""
        access = self.access(request)
        task_id = request.path_params["task"]
        require(access.may_trigger(task_id), f"trigger task {task_id}")
        body = _parse(TriggerBody, await _read(request, MAX_BODY_BYTES))
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
        task.check_payload(body.payload)  # a mistake does not cost the token's use
        await self._spend(access, grant)
        parent = tracing.extract(request.headers)
        with tracing.span("POST trigger", kind="consumer", parent=parent, task=task_id):
            handle = await task.trigger_payload(body.payload)
        return _json(Handle(id=handle.id, access_token=handle.access_token), 201)

    async def _spend(self, access: Permissions, grant: TriggerGrant) -> None:
        # Its own first: where that is refused, nothing is taken from those it was made from.
        own = [] if grant.uses is None else [ParentUses(access.id, grant.uses, access.expires_at_s)]
        for token_id, uses, expires_at_s in [*own, *reversed(grant.shares)]:
            if not await self.store().consume_token_use(token_id, uses, int(expires_at_s * 1000)):
                raise TokenSpent(f"the token may trigger {uses} run(s), and has")

    async def cancel(self, request: Request) -> Response:
        """Ask for a run, and the runs below it, to be canceled."""
        access = self.access(request)
        run_id = check_run_id(request.path_params["run"])
        require(access.may_write(StreamKey(run_id, RUN_STREAM)), f"change run {run_id}")
        return JSONResponse(_shown(await sdk_runs.cancel(run_id), access))

    async def retrieve(self, request: Request) -> Response:
        """Return a run as it is now."""
        access = self.access(request)
        return JSONResponse(_shown(await self._readable(request, access), access))

    async def count_readers(self, request: Request) -> Response:
        """Say how many read each stream of a run at this gateway."""
        run = await self._readable(request, self.access(request))
        return _json(Readers(streams=self.readers(run.id)))

    async def _readable(self, request: Request, access: Permissions) -> Run:
        run_id = check_run_id(request.path_params["run"])
        key = StreamKey(run_id, RUN_STREAM)
        # Who may not read a run is not told whether there is one.
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
        """Return runs with a tag, or all, newest first."""
        access = self.access(request)
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
        elif len(found) < limit:  # these are all, or they are large
            rest = replace(asked, before=before, limit=1)
            before = before if await self.store().list_runs(rest) else None
        return _json(RunPage(runs=[_shown(run, access) for run in found], next_before=before))

    async def mint(self, request: Request) -> Response:
        """Mint a token; needs the secret key itself."""
        self._require_secret(request, "minting")
        body = _parse(TokenBody, await _read(request, MAX_BODY_BYTES))
        token = tokens.mint(
            body.scopes,
            ttl_s=body.ttl_s,
            subject=body.subject or "",
            skip=body.skip,
            now_s=self.clock_s(),
        )
        return _json(TokenAnswer(token=token, id=tokens.id_of(token)), 201)

    async def revoke(self, request: Request) -> Response:
        """Make tokens good no more; needs the secret key itself."""
        self._require_secret(request, "revoking")
        body = _parse(RevokeBody, await _read(request, MAX_BODY_BYTES))
        done = await tokens.revoke(
            token_id=body.token_id, subject=body.subject, issued_before=body.issued_before_s
        )
        return _json(
            RevokeAnswer(
                token_id=done.token_id,
                subject=done.subject,
                issued_before_s=done.issued_before_s,
            )
        )

    def _require_secret(self, request: Request, what: str) -> None:
        if not self._is_secret(_bearer(request)):
            raise InvalidToken(f"{what} needs the secret key as the bearer")

    def access(self, request: Request) -> Permissions:
        """Say what a request's bearer may do; with the secret key, everything.

        Raises:
            InvalidToken, TokenExpired, TokenRevoked: the token is not good.
        """
        return self.access_of(_bearer(request))

    def access_of(self, bearer: str) -> Permissions:
        """Say what a bearer may do; see `access`."""
        if self._is_secret(bearer):
            return Permissions(EVERYTHING, float("inf"), "secret")
        return self.verify(bearer, self.clock_s())

    def _is_secret(self, bearer: str) -> bool:
        return hmac.compare_digest(bearer.encode(), self.secret_key().encode())


def _shown(run: Run, access: Permissions) -> dict[str, Any]:
    return without(run.to_wire(), access.skip)


def _bearer(request: Request) -> str:
    refuse_secret_url(request.scope)
    given = next(
        (value for name, value in request.scope["headers"] if name == b"authorization"), b""
    )
    scheme, _, value = given.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not value:
        raise InvalidToken("send `Authorization: Bearer TOKEN`; a token never travels in a URL")
    return value.strip()


async def _read(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > max_bytes:
            raise FrameTooLarge(f"the body is over the limit of {max_bytes} bytes")
    return bytes(data)


def _parse(model: type[B], data: bytes) -> B:
    try:
        return model.model_validate_json(check_json(data or b"{}"))
    except NotJson as error:
        raise InvalidValue(f"the body is no JSON that is accepted: {error}") from None
    except ValidationError as error:
        raise InvalidValue(f"the body: {format_validation_error(error)}") from None


def _tags(grant: TriggerGrant, body: TriggerBody) -> list[str]:
    if grant.tags and body.tags:
        raise InvalidValue("the token sets the run's tags; leave `tags` out")
    return list(grant.tags) or body.tags


def _json(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status, media_type="application/json")


def error_answer(error: RealtimeError) -> JSONResponse:
    """Answer a request with an error: its code, message and whether to try again."""
    body = {"code": error.code, "message": error.message, "retryable": error.retryable}
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return JSONResponse(body, error.http_status, headers)

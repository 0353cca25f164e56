"""`realtime runs …` and `realtime trigger`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from gateway.cli import _http
from gateway.cli._output import (
    JsonOption,
    emit,
    escape_control,
    exit_with_status,
    format_age,
    info,
    make_table,
    print_table,
    styled_status,
)
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.runs_watch import watch_runs
from gateway.cli.tail import StartOption, printing_follower
from gateway.errors import ConfigurationError, InvalidValue, TaskNotFound
from gateway.model.log import RunQuery
from gateway.model.records import RunSet, check_run_id
from gateway.model.runs import STATUSES, Run
from gateway.model.untrusted_json import NotJson, read_json
from gateway.sdk.execution.cancellation import cancel as cancel_run
from gateway.sdk.runtime import Runtime
from gateway.stores.base import Store, all_runs

COLUMNS = ("RUN", "TASK", "STATUS", "AGE", "TOOK", "TAGS")

app = typer.Typer(help="List, show, cancel and watch runs.", no_args_is_help=True)

TagOption = Annotated[str | None, typer.Option(help="Only runs with this tag.")]
ParentOption = Annotated[str | None, typer.Option(help="Only children of this run.")]
BatchOption = Annotated[str | None, typer.Option(help="Only runs of this batch.")]
StatusOption = Annotated[
    list[str] | None, typer.Option("--status", help="Only this status; repeatable.")
]
LimitOption = Annotated[int, typer.Option(help="Maximum number of runs.", min=1, max=1000)]


@app.command("list")
def list_runs(
    statuses: StatusOption = None,
    tag: TagOption = None,
    parent: ParentOption = None,
    batch: BatchOption = None,
    before: Annotated[
        str | None, typer.Option(help="Only runs with smaller ids than this one.")
    ] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """List runs, newest first."""
    query = RunQuery(_check_statuses(statuses), tag, parent, batch, None, before, limit)

    async def read(opened: Store) -> list[Run]:
        return await all_runs(opened, query)

    listed = asyncio.run(_with_store(Target.from_options(url, token, store), read))
    if as_json:
        for run in listed:
            emit(run.to_wire())
        return
    print_table(COLUMNS, [table_row(run) for run in listed])


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Show all fields of a run."""
    run_id = check_run_id(run)

    async def read(opened: Store) -> Run:
        return (await opened.get_run(run_id)).run

    run_state = asyncio.run(_with_store(Target.from_options(url, token, store), read))
    _print_run(run_state, as_json)


@app.command()
def cancel(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Request the cancellation of a run and its descendants.

    An executing run gets time to finish; `realtime tail RUN` shows when it has.
    """
    run_id = check_run_id(run)

    async def request_cancellation(opened: Store) -> Run:
        return await cancel_run(Runtime(opened, asyncio.get_running_loop()), run_id)

    after = asyncio.run(_with_store(Target.from_options(url, token, store), request_cancellation))
    if as_json:
        emit(after.to_wire())
    elif after.is_finished:
        info(f"run {after.id} is {after.status}")
    else:
        info(f"run {after.id} is {after.status}; its cancellation was requested")


@app.command()
def watch(
    tag: TagOption = None,
    parent: ParentOption = None,
    batch: BatchOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Show the newest runs in a table and keep it up to date until Ctrl-C.

    Without a terminal, each changed run is printed as a line. Runs of a tag, parent or batch are
    followed; the list of all runs is polled every second.
    """
    options = {"tag": tag, "parent": parent, "batch": batch}
    sets = [RunSet(kind, id) for kind, id in options.items() if id]  # type: ignore[arg-type]
    if len(sets) > 1:
        raise InvalidValue("--tag, --parent and --batch exclude each other: set one")
    target = Target.from_options(url, token, store)
    asyncio.run(_watch(target, sets[0] if sets else None, limit, as_json))


async def _watch(target: Target, which: RunSet | None, limit: int, as_json: bool) -> None:
    async with target.store() as store, aclosing(watch_runs(store, which, limit)) as states:
        if as_json or not sys.stdout.isatty():
            await _print_changes(states, as_json)
            return
        with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
            async for runs in states:
                live.update(make_table(COLUMNS, [table_row(run) for run in runs]), refresh=True)


async def _print_changes(states: AsyncGenerator[list[Run], None], as_json: bool) -> None:
    printed: dict[str, Run] = {}
    async for runs in states:
        for run in reversed(runs):
            if printed.get(run.id) == run:
                continue
            if as_json:
                emit(run.to_wire())
            else:
                print_table(COLUMNS, [table_row(run)])
                sys.stdout.flush()
        printed = {run.id: run for run in runs}


def trigger(
    task: Annotated[str, typer.Argument(help="Id of a task of the gateway's process.")],
    payload: Annotated[
        str, typer.Option(help="JSON object of its arguments; @FILE reads a file, - reads stdin.")
    ] = "{}",
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="Tag of the run; repeatable.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Then print records like `realtime tail`.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Start a run of a task of the gateway's process, and print its id."""
    target = Target.from_options(url, token, None)
    arguments = _payload(payload)
    asyncio.run(_trigger(target, task, {"payload": arguments, "tags": tags or []}, follow, as_json))


class _Handle(NamedTuple):
    id: str
    access_token: str


async def _trigger(
    target: Target, task: str, body: dict[str, Any], follow: bool, as_json: bool
) -> None:
    scopes = [f"trigger:tasks:{task}", *(f"read:tags:{tag}" for tag in body["tags"])]
    try:
        response = await _http.request(target, "POST", f"/v1/tasks/{task}/trigger", body, *scopes)
    except TaskNotFound as error:
        raise TaskNotFound(
            f"{target.http_url}: {error}. Only tasks of the gateway's own process can be "
            "triggered, that of an application with `add_gateway` or `gateway.mount`. `realtime "
            "serve` alone has no tasks, and a worker's own code triggers the worker's tasks"
        ) from None
    handle = _Handle(response.value["id"], response.value["access_token"])
    if as_json:
        emit(handle._asdict())
    else:
        typer.echo(handle.id)
        sys.stdout.flush()
    if not follow:
        return
    # With the run's own token: the one that may trigger may not read.
    async with Target(target.settings, handle.access_token).store() as store:
        tail = printing_follower(raw=False, as_json=as_json, with_names=True)
        reason = await tail.run(store, handle.id, StartOption("beginning"), follow=True)
    exit_with_status(reason or "deleted")


def _payload(text: str) -> dict[str, Any]:
    source = "--payload"
    if text == "-":
        text, source = sys.stdin.read(), "the payload on standard input"
    elif text.startswith("@"):
        path, source = Path(text[1:]), f"the payload in {text[1:]}"
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read {source}: {error}") from None
    try:
        value = read_json(text)
    except NotJson as error:
        raise InvalidValue(f"{source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidValue(f"{source} is not a JSON object of the task's arguments")
    return value


def _check_statuses(statuses: Sequence[str] | None) -> tuple[str, ...]:
    for each in statuses or ():
        if each not in STATUSES:
            raise InvalidValue(f"--status is {each!r}; it must be one of {', '.join(STATUSES)}")
    return tuple(statuses or ())


async def _with_store(target: Target, call: Any) -> Any:
    async with target.store() as store:
        return await call(store)


def table_row(run: Run) -> tuple[str | Text, ...]:
    """Return the cells of a run's row."""
    took = "" if run.duration_ms is None else f"{run.duration_ms / 1000:.1f} s"
    return (
        run.id,
        run.task,
        styled_status(run.status),
        format_age(run.created_at),
        took,
        " ".join(run.tags),
    )


def _print_run(run: Run, as_json: bool) -> None:
    wire = run.to_wire()
    if as_json:
        emit(wire)
        return
    for name, value in wire.items():
        if value in (None, "", [], {}):
            continue
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        typer.echo(f"{typer.style(f'{name:<20}', dim=True)} {escape_control(text)}")

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
    age,
    emit,
    end_as,
    note,
    print_table,
    shown,
    status,
    table_of,
)
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.runs_watch import watch_runs
from gateway.cli.tail import Start, printer
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
    list[str] | None, typer.Option("--status", help="Only this status; may be given again.")
]
LimitOption = Annotated[int, typer.Option(help="At most so many.", min=1, max=1000)]


@app.command("list")
def list_runs(
    statuses: StatusOption = None,
    tag: TagOption = None,
    parent: ParentOption = None,
    batch: BatchOption = None,
    before: Annotated[
        str | None, typer.Option(help="Only runs whose id sorts before this one.")
    ] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """List runs, newest first."""
    query = RunQuery(_statuses(statuses), tag, parent, batch, None, before, limit)

    async def ask(opened: Store) -> list[Run]:
        return await all_runs(opened, query)

    found = asyncio.run(_with_store(Target.of(url, token, store), ask))
    if as_json:
        for run in found:
            emit(run.to_wire())
        return
    print_table(COLUMNS, [row_of(run) for run in found])


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

    async def ask(opened: Store) -> Run:
        return (await opened.get_run(run_id)).run

    _print_run(asyncio.run(_with_store(Target.of(url, token, store), ask)), as_json)


@app.command()
def cancel(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Ask for a run, and the runs below it, to be canceled.

    One that executes is asked and given time to end; `realtime tail RUN` shows when it has.
    """
    run_id = check_run_id(run)

    async def ask(opened: Store) -> Run:
        return await cancel_run(Runtime(opened, asyncio.get_running_loop()), run_id)

    after = asyncio.run(_with_store(Target.of(url, token, store), ask))
    if as_json:
        emit(after.to_wire())
    elif after.is_finished:
        note(f"run {after.id} is {after.status}")
    else:
        note(f"run {after.id} is {after.status}, and was asked to end")


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
    """Show the newest runs as a table that changes with them, until Ctrl-C.

    Where the output is no terminal each run is printed anew when it changes. The runs of a tag, a
    parent or a batch are followed; all runs are looked at every second.
    """
    asked = {"tag": tag, "parent": parent, "batch": batch}
    sets = [RunSet(kind, id) for kind, id in asked.items() if id]  # type: ignore[arg-type]
    if len(sets) > 1:
        raise InvalidValue("one of --tag, --parent and --batch can be watched at a time")
    reach = Target.of(url, token, store)
    asyncio.run(_watch(reach, sets[0] if sets else None, limit, as_json))


async def _watch(reach: Target, which: RunSet | None, limit: int, as_json: bool) -> None:
    async with reach.store() as store, aclosing(watch_runs(store, which, limit)) as states:
        if as_json or not sys.stdout.isatty():
            await _print_changes(states, as_json)
            return
        with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
            async for runs in states:
                live.update(table_of(COLUMNS, [row_of(run) for run in runs]), refresh=True)


async def _print_changes(states: AsyncGenerator[list[Run], None], as_json: bool) -> None:
    told: dict[str, Run] = {}
    async for runs in states:
        for run in reversed(runs):
            if told.get(run.id) == run:
                continue
            if as_json:
                emit(run.to_wire())
            else:
                print_table(COLUMNS, [row_of(run)])
                sys.stdout.flush()
        told = {run.id: run for run in runs}


def trigger(
    task: Annotated[str, typer.Argument(help="Id of the task, as it is defined at the gateway.")],
    payload: Annotated[
        str, typer.Option(help="JSON object of its arguments; @FILE reads it there, - from stdin.")
    ] = "{}",
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="The run gets it; may be given again.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Then print what comes, as `realtime tail` does.")
    ] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Start a run of a task that is defined in the gateway's process, and print its id."""
    reach = Target.of(url, token, None)
    arguments = _payload(payload)
    asyncio.run(_trigger(reach, task, {"payload": arguments, "tags": tags or []}, follow, as_json))


class _Handle(NamedTuple):
    id: str
    access_token: str


async def _trigger(
    reach: Target, task: str, body: dict[str, Any], follow: bool, as_json: bool
) -> None:
    scopes = [f"trigger:tasks:{task}", *(f"read:tags:{tag}" for tag in body["tags"])]
    try:
        answer = await _http.ask(reach, "POST", f"/v1/tasks/{task}/trigger", body, *scopes)
    except TaskNotFound as error:
        raise TaskNotFound(
            f"{reach.http_url}: {error}. This process is the gateway's, an application with "
            "`add_gateway` or `gateway.mount`: `realtime serve` by itself has no tasks, and those "
            "of a worker are triggered by its own code"
        ) from None
    handle = _Handle(answer.value["id"], answer.value["access_token"])
    if as_json:
        emit(handle._asdict())
    else:
        typer.echo(handle.id)
        sys.stdout.flush()
    if not follow:
        return
    # With the run's own token: the one that may trigger may not read.
    async with Target(reach.settings, handle.access_token).store() as store:
        tail = printer(raw=False, as_json=as_json, names=True)
        reason = await tail.run(store, handle.id, Start("beginning"), follow=True)
    end_as(reason or "deleted")


def _payload(text: str) -> dict[str, Any]:
    source = "--payload"
    if text == "-":
        text, source = sys.stdin.read(), "the payload on standard input"
    elif text.startswith("@"):
        path, source = Path(text[1:]), f"the payload in {text[1:]}"
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{source} cannot be read: {error}") from None
    try:
        value = read_json(text)
    except NotJson as error:
        raise InvalidValue(f"{source} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidValue(f"{source} is no JSON object: it names the task's arguments")
    return value


def _statuses(given: Sequence[str] | None) -> tuple[str, ...]:
    for each in given or ():
        if each not in STATUSES:
            raise InvalidValue(f"--status is {each!r}; it is one of {', '.join(STATUSES)}")
    return tuple(given or ())


async def _with_store(reach: Target, ask: Any) -> Any:
    async with reach.store() as store:
        return await ask(store)


def row_of(run: Run) -> tuple[str | Text, ...]:
    """Return a run's cells."""
    took = "" if run.duration_ms is None else f"{run.duration_ms / 1000:.1f} s"
    return (run.id, run.task, status(run.status), age(run.created_at), took, " ".join(run.tags))


def _print_run(run: Run, as_json: bool) -> None:
    wire = run.to_wire()
    if as_json:
        emit(wire)
        return
    for name, value in wire.items():
        if value in (None, "", [], {}):
            continue
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        typer.echo(f"{typer.style(f'{name:<20}', dim=True)} {shown(text)}")

"""Hooks for sets of runs: those with a tag, those of a batch, the children of a run.

mine = use_realtime_runs_with_tag(State.tag, access_token=State.token, skip=["payload"])
rx.foreach(mine.runs, lambda run: rx.text(run.task, ": ", run.status))
rx.button("More", on_click=mine.load_more, disabled=~mine.has_more | mine.is_full)
rx.cond(mine.is_full, rx.text("Older runs are not shown."))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, cast

from reflex.event import EventType
from reflex.vars import ArrayVar, BooleanVar, NumberVar, Var
from reflex.vars.function import FunctionVar

from .arguments import check
from .hooks import handler_of, hook_of
from .page_runs import PageRun
from .vars import Subscribed

Handler = EventType[dict[str, str]] | EventType[()] | None


class RealtimeRuns(Subscribed):
    """A set of runs as the page sees it. `status` and `error` are those of the subscription."""

    @property
    def runs(self) -> ArrayVar[list[PageRun]]:
        """The runs, newest first; typed, also as the loop variable of `rx.foreach`."""
        return cast("ArrayVar[list[PageRun]]", self._hook.read("$.runs", list[PageRun]))

    @property
    def count(self) -> NumberVar[int]:
        """How many runs there are in `runs`."""
        return cast("NumberVar[int]", self._hook.read("$.runs.length", int))

    @property
    def has_more(self) -> BooleanVar:
        """There are older runs than those shown; see `is_full`."""
        return cast(BooleanVar, self._hook.read("$.hasMore", bool))

    @property
    def is_full(self) -> BooleanVar:
        """There are older runs, and this list cannot show them: `load_more` does nothing any more.

        A set is one subscription, bounded at 1,000 runs and 4 MiB (with `skip` more fit in). Older
        runs are found by narrower tags, or in a backend by `runs.list(tag=…, before=…)`.
        """
        return cast(BooleanVar, self._hook.read("$.isFull", bool))

    @property
    def load_more(self) -> FunctionVar[Any]:
        """Event for `on_click` that shows `limit` older runs more, until the list `is_full`."""
        return cast("FunctionVar[Any]", self._hook.read("$.loadMore", None).to(FunctionVar))


class SetOptions(TypedDict, total=False):
    """What every hook of a set of runs takes besides the set.

    Attributes:
        access_token: See `use_realtime_stream`; which scope it has, each hook says.
        limit: How many runs are shown, the newest, and how many more `load_more` shows (50); 1,000
            in all, and 4 MiB, after which the list `is_full`.
        skip: Fields to leave out: any of `payload`, `output`, `metadata`.
        throttle_ms: At most one update per this many milliseconds (50).
        enabled: While false, the status is `idle`.
        gateway_url: See `use_realtime_stream`.
        on_error: Called with `{code, message}` when the gateway refuses.
        on_token_expiring: See `use_realtime_stream`.
    """

    access_token: str | Var[Any] | None
    limit: int | Var[Any]
    skip: Sequence[str]
    throttle_ms: int | Var[Any]
    enabled: bool | Var[Any]
    gateway_url: str | Var[Any] | None
    on_error: Handler
    on_token_expiring: EventType[()] | None


def use_realtime_runs_with_tag(
    tag: str | Sequence[str] | Var[Any], **options: Unpack[SetOptions]
) -> RealtimeRuns:
    """Follow the runs with a tag, or with any of several. Every argument may be a Var.

    Args:
        tag: The tag, or up to 20; while it is "" or empty, the status is `idle`.
        **options: See `SetOptions`. The token has the scope `read:tags:` of each tag.

    Returns:
        The Vars `runs`, `count`, `has_more`, `is_full`, `load_more`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.

    Source:
        PROTOCOL.md, section 6.
    """
    check("use_realtime_runs_with_tag", locals() | options)
    is_one = isinstance(tag, str) or (isinstance(tag, Var) and not isinstance(tag, ArrayVar))
    named = {"tag": tag} if is_one else {"tags": tag if isinstance(tag, Var) else list(tag)}
    return _runs(named, **options)


def use_realtime_batch(
    batch_id: str | Var[Any] | None, **options: Unpack[SetOptions]
) -> RealtimeRuns:
    """Follow the runs of a batch. Every argument may be a Var.

    Args:
        batch_id: The batch; while it is None or "", the status is `idle`.
        **options: See `SetOptions`. The token has the scope `read:batches:` of the batch.
    """
    check("use_realtime_batch", locals() | options)
    return _runs({"batch": batch_id}, **options)


def use_realtime_children(
    run_id: str | Var[Any] | None, **options: Unpack[SetOptions]
) -> RealtimeRuns:
    """Follow the runs that a run has triggered. Every argument may be a Var.

    Args:
        run_id: Their parent; while it is None or "", the status is `idle`.
        **options: See `SetOptions`. The token has the scope `read:runs:` of the parent; the
            children's own streams need a scope of their own, or that of a tag they carry.
    """
    check("use_realtime_children", locals() | options)
    return _runs({"parent": run_id}, **options)


def _runs(
    named: dict[str, Any],
    *,
    access_token: str | Var[Any] | None = None,
    limit: int | Var[Any] = 50,
    skip: Sequence[str] = (),
    throttle_ms: int | Var[Any] = 50,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_error: Handler = None,
    on_token_expiring: EventType[()] | None = None,
) -> RealtimeRuns:
    options = {
        "runs": named,
        "token": access_token,
        "limit": limit,
        "skip": list(skip) or None,
        "throttleMs": throttle_ms,
        "enabled": enabled,
        "gatewayUrl": gateway_url,
        "onError": handler_of(on_error, {"error": dict[str, str]}),
        "onTokenExpiring": handler_of(on_token_expiring, {}),
    }
    return RealtimeRuns(hook_of("useRealtimeRuns", options))

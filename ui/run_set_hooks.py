"""Hooks for sets of runs: the runs with a tag, the runs of a batch, the children of a run.

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

from .arguments import check_arguments
from .hook_call import event_handler, make_call
from .page_models import PageRun
from .vars import SubscriptionVars

Handler = EventType[dict[str, str]] | EventType[()] | None


class RealtimeRuns(SubscriptionVars):
    """A set of runs on a page. `status` and `error` belong to the subscription."""

    @property
    def runs(self) -> ArrayVar[list[PageRun]]:
        """The runs, newest first. A loop variable of `rx.foreach` over them is typed too."""
        return cast("ArrayVar[list[PageRun]]", self._hook.read("$.runs", list[PageRun]))

    @property
    def count(self) -> NumberVar[int]:
        """Number of runs in `runs`."""
        return cast("NumberVar[int]", self._hook.read("$.runs.length", int))

    @property
    def has_more(self) -> BooleanVar:
        """The set has older runs than the list; see `is_full`."""
        return cast(BooleanVar, self._hook.read("$.hasMore", bool))

    @property
    def is_full(self) -> BooleanVar:
        """The set has older runs, and the list has reached its limit: `load_more` has no effect.

        A list has at most 1,000 runs and 4 MiB; `skip` makes runs smaller. Narrower tags find older
        runs; a backend finds them with `runs.list(tag=…, before=…)`.
        """
        return cast(BooleanVar, self._hook.read("$.isFull", bool))

    @property
    def load_more(self) -> FunctionVar[Any]:
        """An event for `on_click` that adds `limit` older runs, until the list `is_full`."""
        return cast("FunctionVar[Any]", self._hook.read("$.loadMore", None).to(FunctionVar))


class SetOptions(TypedDict, total=False):
    """Options of every hook for a set of runs.

    Attributes:
        access_token: See `use_realtime_stream`. Each hook names the scope that the token needs.
        limit: Number of runs, the newest, and how many `load_more` adds (50). A list has at most
            1,000 runs and 4 MiB; then it `is_full`.
        skip: Fields to leave out: any of `payload`, `output`, `metadata`.
        throttle_ms: Minimum time between two updates, in milliseconds (50).
        enabled: The status is `idle` while it is false.
        gateway_url: See `use_realtime_stream`.
        on_error: Called with `{code, message}` when the gateway rejects the subscription.
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
    """Subscribe to the runs with a tag, or with any of several. Every argument may be a Var.

    Args:
        tag: One tag, or up to 20; the status is `idle` while it is "" or empty.
        **options: See `SetOptions`. The token needs the scope `read:tags:` of each tag.

    Returns:
        The Vars `runs`, `count`, `has_more`, `is_full`, `load_more`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.

    Source:
        PROTOCOL.md, section 6.
    """
    check_arguments("use_realtime_runs_with_tag", locals() | options)
    is_one = isinstance(tag, str) or (isinstance(tag, Var) and not isinstance(tag, ArrayVar))
    named = {"tag": tag} if is_one else {"tags": tag if isinstance(tag, Var) else list(tag)}
    return _runs(named, **options)


def use_realtime_batch(
    batch_id: str | Var[Any] | None, **options: Unpack[SetOptions]
) -> RealtimeRuns:
    """Subscribe to the runs of a batch. Every argument may be a Var.

    Args:
        batch_id: The batch; the status is `idle` while it is None or "".
        **options: See `SetOptions`. The token needs the scope `read:batches:` of the batch.
    """
    check_arguments("use_realtime_batch", locals() | options)
    return _runs({"batch": batch_id}, **options)


def use_realtime_children(
    run_id: str | Var[Any] | None, **options: Unpack[SetOptions]
) -> RealtimeRuns:
    """Subscribe to the runs that a run has triggered. Every argument may be a Var.

    Args:
        run_id: The parent; the status is `idle` while it is None or "".
        **options: See `SetOptions`. The token needs the scope `read:runs:` of the parent. Streams
            of the children need a scope for the child, or for a tag of the child.
    """
    check_arguments("use_realtime_children", locals() | options)
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
        "onError": event_handler(on_error, {"error": dict[str, str]}),
        "onTokenExpiring": event_handler(on_token_expiring, {}),
    }
    return RealtimeRuns(make_call("useRealtimeRuns", options))

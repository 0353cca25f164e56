"""How a run ends: its error as text that every store accepts, and simpler ends if one is refused.

Every run must reach a final status, or its waiters would wait forever. So this module does not
trust the methods of an exception. An end that the store refuses is replaced by a simpler one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

from gateway.errors import IllegalTransition, Internal, RealtimeError, RunNotFound
from gateway.model.limits import MAX_ERROR_CHARACTERS, MAX_ERROR_TYPE_CHARACTERS
from gateway.model.runs import Run, end_patch

_log = logging.getLogger("realtime.runner")

T = TypeVar("T")


def to_run_error(failure: BaseException | str, type_: str | None = None) -> dict[str, str]:
    """Return an exception, or a text, as a run's error.

    Args:
        failure: A text, or an exception, whose methods may fail. The message of a group lists its
            exceptions.
        type_: Replaces the name of the exception's class.

    Returns:
        Type and message, cut to their limits and without lone surrogates.
    """
    is_text = type(failure) is str  # isinstance() asks for __class__, which may raise
    message: Any = failure if is_text else _reasons(cast(BaseException, failure))
    return {
        "type": _storable(type_ or _class_name(failure), MAX_ERROR_TYPE_CHARACTERS),
        "message": _storable(message, MAX_ERROR_CHARACTERS),
    }


def is_any(failure: BaseException, class_: type[BaseException]) -> bool:
    """Whether an exception, or any exception of a group, is of a class."""
    return any(issubclass(type(each), class_) for each in _leaves(failure))


def is_only(failure: BaseException, class_: type[BaseException]) -> bool:
    """Whether an exception, or every exception of a group, is of a class."""
    return all(issubclass(type(each), class_) for each in _leaves(failure))


async def persist_end(
    write: Callable[[dict[str, Any]], Awaitable[T]],
    run: Run,
    status: str,
    now_ms: int,
    *,
    is_output_optional: bool = False,
    **fields: Any,
) -> T:
    """Store a run's end, or a simpler one if the store refuses it.

    Args:
        write: Writes a patch of the run to the store.
        run: The run.
        status: A final status.
        now_ms: The time.
        is_output_optional: Leave a refused output out; otherwise it makes the run `failed`.
        fields: The output or the error.

    Returns:
        The result of `write`.

    Raises:
        RealtimeError: the run has ended or was deleted, the store is unavailable, or it refuses
            every end.
    """
    ends = [(status, fields)]
    refusal: Exception | None = None
    for end_status, end_fields in ends:  # a first refusal adds simpler ends
        try:
            return await write(end_patch(run, end_status, now_ms, **end_fields))
        except (IllegalTransition, RunNotFound):
            raise
        except Exception as error:
            if is_unavailable(error):
                raise
            if refusal is None:
                _log.error("run %s: its end (%s) was refused", run.id, status, exc_info=error)
                ends += _simpler_ends(status, fields, error, is_output_optional)
            refusal = error
    assert refusal is not None
    raise refusal


def _simpler_ends(
    status: str, fields: dict[str, Any], refusal: Exception, is_output_optional: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return the ends to try after a refused one, the most informative first."""
    subject = "output" if status == "completed" else "error"
    message = f"the run's {subject} could not be kept: {_text(refusal)}"
    others = {name: fields[name] for name in fields if name not in ("output", "error")}
    ends = []
    if status == "completed":
        ends = [(status, others)] if is_output_optional else []
        status = "failed"
    errors = (to_run_error(message, _class_name(refusal)), _REFUSED)
    return [*ends, *((status, others | {"error": error}) for error in errors)]


_REFUSED = {"type": "EndRefused", "message": "the run's end could not be kept; the log has more"}


def is_unavailable(error: Exception) -> bool:
    """Whether an error means that the store is unavailable, and not that it refused a value."""
    is_retryable = isinstance(error, RealtimeError) and error.retryable
    return is_retryable and not isinstance(error, Internal)


def _reasons(failure: BaseException) -> str:
    text = _text(failure)
    if not issubclass(type(failure), BaseExceptionGroup):
        if not text and issubclass(type(failure), asyncio.CancelledError):
            return "the function was canceled from within, and nobody had canceled its run"
        return text
    reasons: list[str] = []
    characters = len(text)
    for each in _leaves(failure):
        reasons.append(f"{_class_name(each)}: {_text(each)[:MAX_ERROR_CHARACTERS]}")
        characters += len(reasons[-1])
        if characters > MAX_ERROR_CHARACTERS:
            break
    return f"{text}: {'; '.join(reasons)}"


def _leaves(failure: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or each exception of a nested group once."""
    left, seen = [failure], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if issubclass(type(each), BaseExceptionGroup):
            left.extend(reversed(_exceptions_of(each)))
        else:
            yield each


# The descriptors of the built-in classes, which a subclass cannot replace by a property that
# raises.
_exceptions_of: Callable[[BaseException], tuple[BaseException, ...]]
_exceptions_of = vars(BaseExceptionGroup)["exceptions"].__get__
_name_of: Callable[[type], str] = vars(type)["__name__"].__get__


def _class_name(failure: BaseException | str) -> str:
    return _name_of(type(failure))


def _text(failure: BaseException) -> str:
    try:
        return str.__str__(str(failure))
    except BaseException as error:  # also SystemExit: str() calls code of the user
        return f"its text cannot be shown: str() raised {_class_name(error)}"


def _storable(text: str, limit: int) -> str:
    """Cut a text to a limit, join surrogate pairs, and replace lone surrogates."""
    units = text[:limit].encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "replace")

"""The options of a task's runs: tags, delay, limits, retries. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from gateway.errors import InvalidValue
from gateway.model.limits import MAX_KEY_CHARACTERS, MAX_SECONDS
from gateway.model.run_limits import check_tags, is_text
from gateway.model.runs import LAST_MS, Run, iso_time
from gateway.sdk.values.encoding import Values

IDEMPOTENCY_KEY_TTL_S = 30 * 24 * 3600.0
IN_PROCESS = "process"  # the runner that is no task queue: this process executes


def check_seconds(name: str, seconds: float | None) -> None:
    """Check a duration; None is allowed.

    Raises:
        InvalidValue: it is no number of seconds within the limit; names both.
    """
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 <= seconds <= MAX_SECONDS):
        raise InvalidValue(f"{name} is {seconds!r}; it goes from 0 to {MAX_SECONDS:g} seconds")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed run is retried, and the delays between its attempts.

    The delay after attempt n is `min_s * factor ** (n - 1)` seconds, at most `max_s`. Jitter makes
    it up to twice as long, so that runs that failed together are not retried together.

    Attributes:
        max_attempts: The number of attempts, including the first.
        min_s: The first delay, in seconds.
        max_s: The longest delay, in seconds.
        factor: The ratio of a delay to the one before.
        jitter: Whether to lengthen each delay at random.
        on_crash: Whether to make the next attempt when the process of an attempt dies, restarts or
            is reloaded. That attempt begins without a delay and executes the whole function again.
            Use False for effects that must not happen twice.

    Raises:
        InvalidValue: a value is out of range; names it.
    """

    max_attempts: int = 3
    min_s: float = 1.0
    max_s: float = 30.0
    factor: float = 2.0
    jitter: bool = True
    on_crash: bool = True

    def __post_init__(self) -> None:
        attempts: Any = self.max_attempts
        is_whole = isinstance(attempts, int) and not isinstance(attempts, bool)
        if not is_whole or not 1 <= attempts <= 1000:
            raise InvalidValue(f"max_attempts is {attempts!r}; it is a whole number from 1 to 1000")
        for name in ("jitter", "on_crash"):
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidValue(f"{name} is {value!r}; it is True or False")
        check_seconds("min_s", self.min_s)
        check_seconds("max_s", self.max_s)
        if not 0 <= self.min_s <= self.max_s <= MAX_SECONDS:
            raise InvalidValue(
                f"min_s is {self.min_s!r} and max_s {self.max_s!r}; it is 0 <= min_s <= max_s"
            )
        if not 1 <= self.factor <= 1000:
            raise InvalidValue(f"factor is {self.factor!r}; it goes from 1 to 1000")

    def delay_s(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the delay before the next attempt.

        Args:
            attempt: The number of the attempt that failed, from 1.
            random: Returns a number from 0 to 1.

        Returns:
            Seconds.
        """
        # A power of floats may overflow, so the exponent is limited; the delay is max_s by then.
        delay_s = min(self.max_s, self.min_s * self.factor ** min(attempt - 1, 100))
        return min(self.max_s, delay_s * (1 + random())) if self.jitter else delay_s


ONCE = Retry(max_attempts=1)


@dataclass(frozen=True, slots=True)
class Options:
    """See `Task.options` and `task`."""

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float = IDEMPOTENCY_KEY_TTL_S
    delay_s: float | None = None
    delay_until: datetime | None = None
    ttl_s: float | None = None
    max_duration_s: float | None = None
    retry: Retry = ONCE
    runner: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.retry, Retry):
            raise InvalidValue(f"retry is {self.retry!r:.80}; it is a Retry(max_attempts=…)")
        check_tags(self.tags)
        for name in ("idempotency_key_ttl_s", "delay_s", "ttl_s", "max_duration_s"):
            check_seconds(name, getattr(self, name))
        if self.delay_s is not None and self.delay_until is not None:
            raise InvalidValue("give delay_s or delay_until, not both")
        if self.delay_until is not None:
            moment_ms("delay_until", self.delay_until)
        key = self.idempotency_key
        if key is not None and not is_text(key, MAX_KEY_CHARACTERS):
            raise InvalidValue(
                f"idempotency_key {key!r:.80} is not allowed: 1 to {MAX_KEY_CHARACTERS} "
                "characters, none of them half of a surrogate pair"
            )

    def fields(self, now_ms: int) -> dict[str, Any]:
        """Return the fields of a run that is created now.

        Args:
            now_ms: The time.
        """
        due_ms = self._due_ms(now_ms)
        is_delayed = due_ms > now_ms
        return {
            "status": "delayed" if is_delayed else "queued",
            "created_at": iso_time(now_ms),
            "delay_until": iso_time(due_ms) if is_delayed else None,
            "queued_at": None if is_delayed else iso_time(now_ms),
            "expires_at": _after(due_ms, self.ttl_s),
            "max_duration_s": self.max_duration_s,
            "max_attempts": self.retry.max_attempts,
            "retry_on_crash": self.retry.on_crash,
            "tags": list(self.tags),
            "metadata": _METADATA.plain(self.metadata) if self.metadata else {},
            "idempotency_key": self.idempotency_key,
            "idempotency_key_expires_at": (
                _after(now_ms, self.idempotency_key_ttl_s) if self.idempotency_key else None
            ),
        }

    def _due_ms(self, now_ms: int) -> int:
        if self.delay_until is not None:
            return max(now_ms, moment_ms("delay_until", self.delay_until))
        return now_ms + round((self.delay_s or 0) * 1000)


_METADATA = Values[Any](Mapping[str, Any], "metadata")


def replay_options(run: Run, defaults: Options) -> Options:
    """Return the options to replay a run: its own, without delay, expiry and idempotency key.

    Args:
        run: The earlier run.
        defaults: The options of its task.
    """
    tags, metadata = tuple(run.tags), run.metadata
    return replace(defaults, tags=tags, metadata=metadata, max_duration_s=run.max_duration_s)


def _after(now_ms: int, seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(now_ms + round(seconds * 1000))


def moment_ms(name: str, moment: datetime) -> int:
    """Return a moment as milliseconds since 1970 UTC; `datetime.max` is the end of the year 9999.

    Raises:
        InvalidValue: it is no datetime, or has no time zone.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidValue(
            f"{name} is {moment!r}; it is a datetime with a time zone, as datetime.now(UTC) has"
        )
    return min(round(moment.timestamp() * 1000), LAST_MS)

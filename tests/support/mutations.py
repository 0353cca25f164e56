"""Frames of the shared cases, and damaged copies of them."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.support.gateways import (
    new_run,
)
from tests.support.protocol_cases import CASES

RUN = "run_fuzzed1"


def _frames(value: Any) -> list[dict[str, Any]]:
    """Find every frame of a client in the shared cases."""
    if isinstance(value, list):
        return [frame for each in value for frame in _frames(each)]
    if not isinstance(value, dict):
        return []
    inner = [frame for each in value.values() for frame in _frames(each)]
    return [value, *inner] if isinstance(value.get("type"), str) else inner


SEEDS = [
    *_frames(CASES),
    {"type": "hello", "protocol": 1, "token": "x", "owner": "w"},
    {"type": "subscribe", "id": 1, "run": RUN, "stream": "s", "start": {"last": 3}},
    {"type": "subscribe", "id": 1, "run": RUN, "start": "latest", "throttle_ms": 50},
    {"type": "subscribe", "id": 2, "runs": {"tags": ["a", "b"]}, "limit": 5, "skip": ["output"]},
    {"type": "unsubscribe", "id": 1},
    {"type": "token", "token": "x", "id": 1},
    {"type": "ping"},
    {
        "type": "append",
        "id": 3,
        "run": RUN,
        "stream": "s",
        "records": [1, {"a": []}],
        "writer": {"id": "w", "epoch": 0, "sequence": 0},
    },
    {"type": "head", "id": 4, "run": RUN, "stream": "s"},
    {"type": "read", "id": 5, "run": RUN, "stream": "s", "after": None, "max_bytes": 100},
    {"type": "delete", "id": 6, "run": RUN, "stream": "other"},
    {"type": "run_create", "id": 7, "value": new_run(id="run_fuzzed2").to_wire()},
    {
        "type": "run_patch",
        "id": 8,
        "run": RUN,
        "patch": {"tags": ["a"]},
        "operations": [{"op": "increment", "key": "n", "value": 1}],
    },
    {"type": "run_get", "id": 9, "run": RUN},
    {"type": "run_list", "id": 10, "status": ["queued"], "tag": "a", "limit": 3},
    {"type": "runs_get", "id": 11, "runs": {"parent": RUN}, "limit": 3},
    {"type": "spend", "id": 12, "token_id": "t", "uses": 1, "expires_at_ms": 1},
    {"type": "register", "id": 13, "schemas": {"s": {"type": "string"}}},
]
HOSTILE: list[Any] = [
    None, True, -1, 2**32, 2**53 + 1, 2**64, 10**30, 1e308, -0.0, "", ".", "..", "$run", "$runs",
    "tag:a", "run_", "a" * 65, "\u0000", "\ud800", "\u0661", "../x", "*", [], {}, [[]], {"": None},
    "0" * 16 + "_" + "9" * 16, "beginning", {"position": ""}, {"last": 0}, "🙂" * 300,
]  # fmt: skip


def _hostile(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(HOSTILE))


def mutate(frame: Any, chance: random.Random) -> Any:
    """Damage a frame in one place, and perhaps in more."""
    frame = copy.deepcopy(frame)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
        holder, names = frame, []
        while (isinstance(holder, dict | list) and holder and chance.random() < 0.6) or not names:
            if not isinstance(holder, dict | list) or not holder:
                break
            place = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            names.append((holder, place))
            holder = holder[place]
        if not names:
            continue
        holder, place = names[-1]
        match chance.randrange(5):
            case 0 if isinstance(holder, dict):
                del holder[place]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(["id", "run", "stream", "token", "x"])] = chance.choice(
                    HOSTILE
                )
            case 2:
                holder[place] = copy.deepcopy(chance.choice(SEEDS))
            case _:
                holder[place] = _hostile(chance)
    return frame


def damaged_text(seed: int) -> str | bytes:
    """Make a message: a mutated frame, mostly as JSON, sometimes with bytes damaged."""
    chance = random.Random(seed)
    text = json.dumps(mutate(chance.choice(SEEDS), chance))
    match chance.randrange(12):
        case 0:
            place = chance.randrange(len(text))
            return (
                text[:place] + chance.choice(['"', "{", "\\", "\u0000", "[" * 3000]) + text[place:]
            )
        case 1:
            return text[: chance.randrange(len(text))]
        case 2:
            return text.encode()
    return text

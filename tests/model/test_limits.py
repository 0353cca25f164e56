"""The limits of values: the table in the documents, and the interfaces that enforce them."""

import asyncio
import time

import httpx
import pytest

from gateway import protocol, runs, task
from gateway.errors import InvalidValue, MalformedFrame, RealtimeError
from gateway.model import limits
from gateway.model.log import RunQuery
from gateway.model.patches import Operation, carry_out
from gateway.model.records import Writer
from gateway.model.runs import Run, RunError
from gateway.sdk.session import opened
from tests.support.gateways import SECRET, new_run, serving, working
from tests.support.stores import new_store, store_of
from tests.tools import protocol_tables

OVER = {
    "task": "t" * (limits.MAX_TASK_CHARACTERS + 1),
    "batch_id": "b" * (limits.MAX_BATCH_ID_CHARACTERS + 1),
    "owner": "o" * (limits.MAX_OWNER_CHARACTERS + 1),
    "idempotency_key": "k" * (limits.MAX_KEY_CHARACTERS + 1),
    "tags": [f"t{i}" for i in range(limits.MAX_TAGS + 1)],
    "payload": {"a": "p" * limits.MAX_PAYLOAD_BYTES},
    "output": "o" * (limits.MAX_OUTPUT_BYTES - 1),
    "error": {"type": "E", "message": "m" * (limits.MAX_ERROR_CHARACTERS + 1)},
    "last_error": {"type": "E" * (limits.MAX_ERROR_TYPE_CHARACTERS + 1), "message": "m"},
    "attempt": limits.MAX_ATTEMPTS + 1,
    "max_attempts": limits.MAX_ATTEMPTS + 1,
    "max_duration_s": limits.MAX_SECONDS + 1,
    "duration_ms": limits.MAX_INTEGER + 1,
    "metadata": {"a": "m" * limits.MAX_METADATA_BYTES},
}
OVER_IN_OTHER_WAYS = [
    ("tags", ["t" * (limits.MAX_TAG_CHARACTERS + 1)], "invalid_id"),
    ("tags", ["all*"], "invalid_id"),
    ("tags", [""], "invalid_id"),
    ("metadata", {"k" * (limits.MAX_METADATA_KEY_CHARACTERS + 1): 1}, "invalid_value"),
    ("metadata", {"": 1}, "invalid_value"),
]
CASES = [
    (name, value, "metadata_too_large" if name == "metadata" else "invalid_value")
    for name, value in OVER.items()
] + OVER_IN_OTHER_WAYS
CHANGED = {"tags", "output", "error", "last_error", "attempt", "max_attempts", "owner", "metadata"}


def of_wire(**fields) -> Run:
    return Run.from_wire(new_run().to_wire() | fields)


def test_the_documents_have_the_limits_of_the_code():
    assert protocol_tables.written("limits") == protocol_tables.value_limits()


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_no_way_in_takes_a_value_over_its_limit(kind, tmp_path):
    async with store_of(kind, tmp_path) as store:
        kept = await store.create_run(new_run(status="executing"))
        for name, value, code in CASES:
            with pytest.raises(RealtimeError) as refused:
                await store.create_run(of_wire(**{name: value}))
            assert refused.value.code == code, name
            if name not in CHANGED:
                continue
            with pytest.raises(RealtimeError) as refused:
                await store.patch_run(kept.id, {name: value})
            assert refused.value.code == code, name
        assert [run.id for run in await store.list_runs(RunQuery())] == [kept.id]
        assert (await store.get_run(kept.id)).run == kept


@pytest.mark.parametrize("kind", ["memory", "sqlite", "remote"])
async def test_values_at_their_limits_are_taken_and_listed(kind, tmp_path):
    metadata = {"k" * limits.MAX_METADATA_KEY_CHARACTERS: ""}
    metadata["b"] = "m" * (limits.MAX_METADATA_BYTES - 143)
    run = new_run(
        status="executing",
        task="t" * limits.MAX_TASK_CHARACTERS,
        batch_id="b" * limits.MAX_BATCH_ID_CHARACTERS,
        owner="o" * limits.MAX_OWNER_CHARACTERS,
        tags=[f"{i}".zfill(limits.MAX_TAG_CHARACTERS) for i in range(limits.MAX_TAGS)],
        payload={"a": "p" * (limits.MAX_PAYLOAD_BYTES - 8)},
        metadata=metadata,
        last_error=RunError("E" * limits.MAX_ERROR_TYPE_CHARACTERS, "m" * 2000),
    )
    async with store_of(kind, tmp_path) as store:
        assert await store.create_run(run) == run
        output = "o" * (limits.MAX_OUTPUT_BYTES - 2)
        ended = await store.patch_run(run.id, {"status": "completed", "output": output})
        assert (await store.get_run(run.id)).run == ended
        query = RunQuery(tag=run.tags[0], batch_id=run.batch_id, owner=run.owner)
        assert [found.id for found in await store.list_runs(query)] == [run.id]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_run_over_a_limit_that_an_earlier_version_kept_is_read_and_ends(kind, tmp_path):
    old = of_wire(
        status="executing",
        tags=[f"tag_{i}" for i in range(20)],
        payload={"a": "p" * 1_000_000},
        error={"type": "E", "message": "m" * 5000},
        owner="o" * 100,
    )
    store = new_store(kind, tmp_path)
    async with opened(store):
        if kind == "sqlite":
            await store._write(lambda tx: tx.create_run(old, 0))
        else:
            await store._runs.create(old)
        assert (await store.get_run(old.id)).run == old
        assert [run.id for run in await store.list_runs(RunQuery(tag="tag_7"))] == [old.id]
        await store.patch_run(old.id, {}, operations=[Operation("set", "a", 1)])
        ended = await store.patch_run(old.id, {"status": "completed", "output": 1})
        assert (ended.status, ended.tags, ended.metadata) == ("completed", old.tags, {"a": 1})


async def test_http_and_sdk_enforce_the_websocket_limits():
    @task
    async def work(text: str = "") -> None: ...

    tags = OVER["tags"]
    async with serving() as gateway, httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{gateway.port}/v1/tasks/work/trigger"
        bodies = [{"tags": tags}, {"tags": ["all*"]}, {"payload": {"text": OVER["payload"]["a"]}}]
        answers = [
            await http.post(url, json=body, headers={"Authorization": f"Bearer {SECRET}"})
            for body in bodies
        ]
        assert [answer.status_code for answer in answers] == [422, 422, 422]
        assert f"up to {limits.MAX_TAGS}, got {len(tags)}" in answers[0].json()["message"]
        with pytest.raises(InvalidValue, match=f"up to {limits.MAX_TAGS}, got {len(tags)}"):
            await work.options(tags=tags).trigger()
        for value in (OVER["payload"]["a"], "x" * limits.MAX_PAYLOAD_BYTES):
            with pytest.raises(InvalidValue, match=f"the limit is {limits.MAX_PAYLOAD_BYTES}"):
                await work.trigger(value)
        assert await runs.list() == []


async def test_an_output_over_the_limit_fails_its_run_in_the_gateways_process():
    @task
    async def work() -> str:
        return "x" * 10_000_000

    async with working():
        result = await work.trigger_and_wait()
        assert (result.status, result.error.type) == ("failed", "InvalidValue")
        expected = f"output is 10000002 bytes; the limit is {limits.MAX_OUTPUT_BYTES}"
        assert expected in result.error.message
        assert (await runs.retrieve(result.run_id)).output is None


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "run_list", "status": ["completed"] * 11},
        {"type": "run_list", "status": ["over"]},
        {"type": "run_list", "tag": "t" * 129},
        {"type": "run_list", "owner": "o" * 65},
        {"type": "run_list", "before": "b" * 65},
        {"type": "run_list", "limit": 1001},
        {"type": "runs_get", "runs": {"tags": ["t"] * 21}},
        {"type": "run_patch", "run": "run_1", "operations": [{"op": "delete", "key": "a"}] * 1001},
        {"type": "spend", "token_id": "t", "uses": 2**54, "expires_at_ms": 1},
        {"type": "append", "run": "run_1", "stream": "s", "records": [1] * 1001},
    ],
)
def test_a_frame_over_a_limit_is_refused(frame):
    with pytest.raises(MalformedFrame):
        protocol.decode(protocol.codec._encoder.encode({"id": 1, **frame}).decode())


async def test_operations_cost_no_product_of_their_number_and_the_list():
    metadata = {"a": [{"n": i} for i in range(10_000)]}
    remove = [Operation("remove", "a", {"n": i}) for i in range(1000)]
    both = [Operation(("append", "remove")[i % 2], "a", {"n": i // 2}) for i in range(1000)]
    began_s = time.process_time()
    assert len(carry_out(metadata, remove)["a"]) == 9000
    assert len(carry_out(metadata, both)["a"]) == 9500
    assert len(carry_out(metadata, [Operation("append", "a", i) for i in range(1000)])["a"]) == 11e3
    assert time.process_time() - began_s < 3, "measured: 0.1 s; as a product: 70 s"


@pytest.mark.process
async def test_other_runs_go_on_while_one_sends_the_most_costly_operations(tmp_path):
    items = [[i] for i in range(20_000)]
    remove = [Operation("remove", "a", [i]) for i in range(limits.MAX_OPERATIONS)]
    async with store_of("remote", tmp_path) as store:
        costly = await store.create_run(new_run(metadata={"a": items}))
        other = await store.create_run(new_run())
        writer = Writer("w", 0, 0)
        sent = asyncio.create_task(store.patch_run(costly.id, {}, operations=remove, writer=writer))
        began_s = time.monotonic()
        await store.patch_run(other.id, {}, operations=[Operation("increment", "n", 1)])
        assert time.monotonic() - began_s < 10, "measured: 0.3 s; before: 75 s"
        assert len((await sent).metadata["a"]) == len(items) - len(remove)

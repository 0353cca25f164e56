"""What goes wrong in systems like this one, each as a test.

Here is the gateway's side; `FAULTS` says where the others are. A reader of the table can run each.
"""

import asyncio
import json
import re
from pathlib import Path

import pytest

from gateway import connect, runs, streams, task, tokens
from gateway.errors import NoParent, ReadTimeout, StreamEnded, StreamIncomplete
from gateway.model.records import StreamKey
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)

numbers = streams.define("numbers", int)

# fault -> tests: of this file, of another, or of the client in JavaScript
FAULTS = {
    "1: a clean end of the connection is taken for the end of the stream": [
        "server/test_peer_faults.py: a_connection_that_closes_cleanly_is_not_the_end_of_a_stream",
        "js/connection.test.js: fault 1: clean close is not the end of a stream; the client "
        "resumes",
    ],
    "2: a half-open connection hangs for ever": [
        "server/test_peer_faults.py: a_client_that_is_no_longer_there_is_noticed",
        "js/connection.test.js: fault 2: unanswered ping detects a half-open connection",
    ],
    "3: changing the stream, or the token, does not subscribe anew": [
        "js/store.test.js: fault 3: new token replaces in place, new stream resubscribes",
        "e2e/browser/test_hooks_in_a_page.py: refused_token_calls_handler_and_new_token_resumes",
    ],
    "4: after a switch to run B the values of A show before B's": [
        "js/store.test.js: fault 4: run B never shows values of run A",
        "e2e/browser/test_switch.py: switched_run_shows_no_value_of_other_run",
    ],
    "5: two components with one stream have two connections, and every value twice": [
        "js/store.test.js: fault 5: two observers of a stream share one subscription",
        "e2e/browser/test_run_page.py: page_has_one_socket_and_one_subscription_per_stream",
    ],
    "6: a stream named run never shows": [
        "server/test_peer_faults.py: a_stream_named_run_is_a_stream_like_any_other",
        "js/store.test.js: fault 6: stream named run is an ordinary stream",
        "e2e/browser/test_switch.py: new_streams_appear_even_if_named_run",
    ],
    "7: the error of one stream is not told": [
        "server/test_peer_faults.py: stream_error_carries_its_id_and_others_continue",
        "js/connection.test.js: fault 7: error of one subscription does not affect others",
        "js/store.test.js: fault 7: error of a stream is in its snapshot",
    ],
    "8: a page dies with its token, although it is given another": [
        "server/websocket/test_session.py: "
        "a_subscription_ends_with_its_token_and_resumes_with_another",
        "js/connection.test.js: fault 8: fresh token resumes after the old one has expired",
        "js/store.test.js: fault 8: fresh token clears the expiry error and resumes",
    ],
    "9: resuming in the middle of a batch loses values": [
        "server/test_peer_faults.py: resuming_in_the_middle_of_a_batch_loses_and_repeats_nothing",
        "js/connection.test.js: fault 9: repeated records of a frame are skipped",
    ],
    "10: what comes late is dropped, a canceled run is not over, a failed flush loses": [
        "server/test_peer_faults.py: records_appended_before_run_end_are_never_dropped",
        "server/test_peer_faults.py: a_run_that_did_not_complete_is_over_all_the_same",
        "sdk/test_metadata.py: fault_10_a_canceled_run_is_completed",
        "sdk/test_metadata.py: fault_10_a_failed_flush_loses_no_operation_and_repeats_none",
        "js/store.test.js: fault 10: records after a cancellation are shown, and the run is "
        "finished",
    ],
    "11: a target that is not there is silently another, and nothing says who wrote": [
        "server/test_peer_faults.py: "
        "a_target_that_is_not_there_is_an_error_and_never_silently_another",
        "server/test_peer_faults.py: records_of_children_carry_their_source",
        "sdk/test_metadata.py: fault_11_the_parents_metadata_without_a_parent_is_an_error",
    ],
    "12: a reader's time-out ends its loop as if the stream had ended": [
        "server/test_peer_faults.py: a_readers_timeout_is_never_taken_for_the_end",
    ],
    "13: appends that nobody awaits come in any order, and fail silently": [
        "sdk/test_streams.py: fifty_unawaited_appends_are_stored_in_order",
        "sdk/test_streams.py: unseen_failure_is_raised_once_by_flush",
        "sdk/test_streams.py: a_run_whose_append_failed_fails",
    ],
    "14: every value is a render, and each copies all that there is": [
        "js/store.test.js: fault 14: 50,000 values without a throttle render once per frame",
        "js/views.test.js: cost of add does not depend on the window's size",
    ],
    "15: no scope for a stream, streams that outlive their token, tokens that cannot be revoked": [
        "server/test_peer_faults.py: token_for_one_stream_reads_only_that_stream",
        "server/test_peer_faults.py: a_refresh_with_an_expired_token_is_not_accepted",
        "server/websocket/test_session.py: "
        "a_subscription_ends_with_its_token_and_resumes_with_another",
        "protocol/test_connection_requests.py: revocation_log_cannot_be_deleted",
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_the_tests_that_the_table_names(fault):
    for named in FAULTS[fault]:
        file, _, name = named.partition(": ")
        text = (Path(__file__).parents[1] / file).read_text()
        is_js = file.startswith("js/")
        wanted = rf'^test\("{re.escape(name)}", ' if is_js else rf"^(async )?def test_{name}\("
        assert re.search(wanted, text, re.MULTILINE), f"{file} has no test {name!r}"


def test_the_table_has_all_fifteen_faults():
    assert [int(fault.partition(":")[0]) for fault in FAULTS] == [*range(1, 16)]


async def append(gateway, run, *values, stream="s"):
    data = [json.dumps(value).encode() for value in values]
    return await gateway.store.append(StreamKey(run.id, stream), data)


async def test_a_connection_that_closes_cleanly_is_not_the_end_of_a_stream():
    async with serving() as gateway, gateway.remote(jitter=lambda: 0.1) as store:
        run = await store.create_run(new_run())
        pages = store.follow(StreamKey(run.id, "s"))
        await append(gateway, run, 1)
        assert (await anext(pages)).end is None
        for code in (1000, 1001, 1012):
            (session,) = gateway.gateway._sessions
            await session._websocket.close(code)
            await append(gateway, run, code)
            page = await asyncio.wait_for(anext(pages), DEADLINE_S)
            assert (json.loads(page.records[0].data), page.end) == (code, None)
        await pages.aclose()


async def test_a_client_that_is_no_longer_there_is_noticed(monkeypatch):
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            assert gateway.hub.live_streams == 1
            monkeypatch.setattr("gateway.protocol.timeouts.SILENT_AFTER_PINGS", 0.001)
            await client.ask(type="ping")
            await until(lambda: gateway.hub.live_streams == 0)
            assert await client.close_code() == 4508


async def test_a_stream_named_run_is_a_stream_like_any_other():
    async with connect(store="memory:", secret_key=SECRET) as runtime:
        named_run = streams.define("run", str)

        @task
        async def work():
            named_run.append("shown")

        result = await work.trigger_and_wait()
        assert [value async for value in named_run.read(result.run_id)] == ["shown"]
        state = await runtime.store.get_run(result.run_id)
        assert state.run.status == "completed"


async def test_stream_error_carries_its_id_and_others_continue():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        token = token_for(f"read:streams:{run.id}/good", f"read:runs:{run.id}x")
        async with gateway.client(token=token) as client:
            assert (await client.ask(type="subscribe", id=1, run=run.id, stream="good"))["id"] == 1
            error = await client.ask(type="subscribe", id=2, run=run.id, stream="bad")
            assert (error["id"], error["code"]) == (2, "forbidden")
            await append(gateway, run, "on", stream="good")
            assert (await client.receive())["id"] == 1


async def test_resuming_in_the_middle_of_a_batch_loses_and_repeats_nothing():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        appended = await append(gateway, run, *range(10))
        for offset in range(11):
            position = str(appended.position._replace(offset=offset))
            async with gateway.client(token=worker_token()) as client:
                answer = await client.ask(
                    type="subscribe", id=1, run=run.id, stream="s", start={"position": position}
                )
                assert answer["position"] == position
                await append(gateway, run, "next", stream=f"other{offset}")
                if offset < 10:
                    frame = await client.receive()
                    values = [record["data"] for record in frame["records"]]
                    assert values == list(range(offset, 10))
                else:
                    assert await client.ask(type="ping") == {"type": "pong"}


async def test_records_appended_before_run_end_are_never_dropped():
    async with connect(store="memory:", secret_key=SECRET):

        @task
        async def work():
            for i in range(2000):
                numbers.append(i)

        handle = await work.trigger()
        reading = asyncio.create_task(_read(handle.id))
        assert (await handle.wait()).ok
        assert await reading == list(range(2000))
        assert await _read(handle.id) == list(range(2000))
        # And what comes later is refused aloud.
        with pytest.raises(StreamEnded):
            await numbers.append(1, target=handle.id)


async def _read(run_id):
    return [value async for value in numbers.read(run_id, timeout_s=20)]


@pytest.mark.parametrize("status", ["canceled", "failed", "crashed"])
async def test_a_run_that_did_not_complete_is_over_all_the_same(status):
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            await client.ask(type="subscribe", id=1, run=run.id)
            await gateway.store.patch_run(run.id, {"status": status})
            assert (await client.receive())["records"][0]["data"] == {"status": status}
            end = await client.receive()
            assert (end["type"], end["reason"]) == ("end", status)
            assert (await gateway.store.get_run(run.id)).run.is_finished


async def test_a_target_that_is_not_there_is_an_error_and_never_silently_another():
    async with connect(store="memory:", secret_key=SECRET) as runtime:
        caught = []

        @task
        async def work():
            try:
                numbers.append(1, target="parent")
            except NoParent as error:
                caught.append(error)

        result = await work.trigger_and_wait()
        assert len(caught) == 1
        head = await runtime.store.head(StreamKey(result.run_id, "numbers"))
        assert head.position.offset == 0


async def test_records_of_children_carry_their_source():
    async with connect(store="memory:", secret_key=SECRET):

        @task
        async def child(n: int):
            numbers.append(n, target="parent")

        @task
        async def parent() -> dict:
            results = await child.batch_trigger_and_wait([{"n": n} for n in range(5)])
            return {result.run_id: n for n, result in enumerate(results)}

        result = await parent.trigger_and_wait()
        sent = {record.source: record.value async for record in numbers.read_records(result.run_id)}
        assert sent == result.output


async def test_a_readers_timeout_is_never_taken_for_the_end():
    async with connect(store="memory:", secret_key=SECRET) as runtime:
        run = await runtime.store.create_run(new_run())
        with pytest.raises(ReadTimeout):
            async for _ in numbers.read(run.id, timeout_s=0.01):
                pass
        await runs.cancel(run.id)
        with pytest.raises(StreamIncomplete, match="canceled"):
            async for _ in numbers.read(run.id, timeout_s=0.01):
                pass


async def test_a_refresh_with_an_expired_token_is_not_accepted():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            old = token_for("read:runs:*", age_s=1000)
            assert (await client.ask(type="token", token=old))["code"] == "token_expired"
            await append(gateway, run, 1)
            assert (await client.receive())["type"] == "records"


async def test_token_for_one_stream_reads_only_that_stream():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=token_for(f"read:streams:{run.id}/one")) as client:
            assert (await client.ask(type="subscribe", id=1, run=run.id, stream="one"))[
                "type"
            ] == "subscribed"
            for frame in ({"stream": "two"}, {"stream": "$run"}, {}):
                error = await client.ask(type="subscribe", id=2, run=run.id, **frame)
                assert error["code"] == "forbidden"


async def test_one_stream_has_a_scope_and_does_not_outlive_its_token_nor_its_revocation():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        scope = f"read:streams:{run.id}/one"
        short = token_for(scope, ttl_s=100, age_s=98)  # has some two seconds to live
        kept, revoked = token_for(scope), token_for(scope)
        async with gateway.client() as client:
            for id, token in ((1, kept), (3, revoked), (2, short)):
                ask = {"type": "subscribe", "id": id, "run": run.id, "token": token}
                assert (await client.ask(**ask, stream="two"))["code"] == "forbidden"
                assert (await client.ask(**ask, stream="one"))["type"] == "subscribed"
            await tokens.revoke(token_id=tokens.id_of(revoked))
            frames = [await client.receive() for _ in range(3)]
            assert {(frame["id"], frame.get("code", frame["type"])) for frame in frames} == {
                (2, "token_expiring"),
                (2, "token_expired"),
                (3, "token_revoked"),
            }
            await append(gateway, run, "on", stream="one")
            assert (await client.receive())["id"] == 1
            assert await client.ask(type="ping") == {"type": "pong"}  # and nobody else was told


async def test_a_position_is_there_before_the_first_value_and_resumes_from_there():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            answer = await client.ask(type="subscribe", id=1, run=run.id, stream="s")
        await append(gateway, run, 1, 2)
        async with gateway.client(token=worker_token()) as client:
            start = {"position": answer["position"]}
            await client.ask(type="subscribe", id=1, run=run.id, stream="s", start=start)
            frame = await client.receive()
            assert [record["data"] for record in frame["records"]] == [1, 2]

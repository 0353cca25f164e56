"""`realtime runs …`, `trigger` and `token …`, as processes."""

import asyncio
import json
import time

import pytest

from gateway import __version__, task, tokens
from gateway.cli.runs_watch import RunTable
from gateway.model.records import Record, RunSet
from gateway.sdk.session import store_revocation
from tests.support.cli import realtime, running
from tests.support.gateways import SECRET, new_run, serving, token_for


@pytest.fixture
async def gateway():
    async with serving() as gateway:
        yield gateway


async def test_runs_list_filters_and_sorts_newest_first(gateway):
    first = await gateway.store.create_run(new_run(tags=["a", "b"]))
    second = await gateway.store.create_run(new_run(parent_id=first.id, root_id=first.id))
    await gateway.store.patch_run(second.id, {"status": "executing"})
    where = ("--url", gateway.url)
    plain = await realtime("runs", "list", *where)
    assert [line.split("\t")[:3] for line in plain.lines] == [
        [second.id, "test", "executing"],
        [first.id, "test", "queued"],
    ]
    assert plain.lines[1].split("\t")[5] == "a b"
    for asked in (("--tag", "a"), ("--status", "queued"), ("--before", second.id)):
        found = (await realtime("runs", "list", *asked, "--json", *where)).json
        assert [run["id"] for run in found] == [first.id]
    wrong = await realtime("runs", "list", "--status", "done", *where)
    assert (wrong.code, "--status is 'done'" in wrong.err) == (1, True)


async def test_runs_show_prints_all_fields(gateway):
    run = await gateway.store.create_run(new_run(payload={"a": [1]}, metadata={"stage": "one"}))
    plain = await realtime("runs", "show", run.id, "--url", gateway.url)
    assert dict(line.split(None, 1) for line in plain.lines)["metadata"] == '{"stage":"one"}'
    (wire,) = (await realtime("runs", "show", run.id, "--json", "--url", gateway.url)).json
    assert wire == run.to_wire()
    done = await realtime("runs", "show", "run_absent", "--url", gateway.url)
    assert (done.code, done.err) == (1, "realtime: there is no run run_absent\n")


async def test_runs_cancel_includes_children(gateway):
    parent = await gateway.store.create_run(new_run())
    await gateway.store.patch_run(parent.id, {"status": "executing"})
    child = await gateway.store.create_run(new_run(parent_id=parent.id, root_id=parent.id))
    done = await realtime("runs", "cancel", parent.id, "--url", gateway.url)
    assert (done.code, "its cancellation was requested" in done.err) == (0, True)
    assert (await gateway.store.get_run(parent.id)).run.cancel_requested_at is not None
    assert (await gateway.store.get_run(child.id)).run.status == "canceled"


@pytest.mark.parametrize("which", ["of a tag", "all"])
async def test_runs_watch_prints_each_change_until_ctrl_c(gateway, which):
    run = await gateway.store.create_run(new_run(tags=["x"]))
    asked = ("--tag", "x") if which == "of a tag" else ()
    async with running("runs", "watch", *asked, "--json", "--url", gateway.url) as watch:
        assert json.loads(await watch.line())["status"] == "queued"
        await gateway.store.patch_run(run.id, {"status": "executing"})
        assert json.loads(await watch.line())["status"] == "executing"
        later = await gateway.store.create_run(new_run(tags=["x"]))
        assert json.loads(await watch.line())["id"] == later.id
        watch.interrupt()
        done = await watch.done()
    assert (done.code, done.err) == (130, "")


def test_run_table_keeps_limit_and_drops_removed_runs():
    runs = [new_run(tags=["x"]) for _ in range(3)]
    table = RunTable(RunSet("tag", "x"), 2, runs[:2])

    def change(**fields):
        return table.apply([Record(0, 0, None, json.dumps(fields).encode())])

    assert change(id=runs[2].id, version=0, run=runs[2].to_wire())
    assert [run.id for run in table.runs] == [runs[2].id, runs[1].id]
    assert not change(id=runs[0].id, version=1, patch={"status": "executing"})
    assert change(id=runs[1].id, version=1, patch={"tags": []})
    assert change(id=runs[2].id, version=1, deleted=True)
    assert table.runs == []


async def test_trigger_prints_run_id_and_follows_until_end(gateway):
    @task(id="greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    @task(id="stumble")
    async def stumble() -> None:
        raise ValueError("no")

    where = ("--url", gateway.url)
    done = await realtime("trigger", "greet", "--payload", '{"name": "you"}', "--tag", "t", *where)
    run = (await gateway.store.get_run(done.lines[0])).run
    assert (done.code, run.payload, run.tags) == (0, {"name": "you"}, ["t"])
    done = await realtime("trigger", "stumble", "--follow", "--json", *where)
    assert done.code == 10
    assert done.json[-1]["type"] == "end"
    given = await realtime("trigger", "greet", "--payload", "-", *where, given='{"name": "in"}')
    assert (await gateway.store.get_run(given.lines[0])).run.payload == {"name": "in"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("absent",), "absent"),
        (("absent",), "Only tasks of the gateway's own process"),
        (("absent",), "`realtime serve` alone has no tasks"),
        (("greet", "--payload", "[1]"), "is not a JSON object"),
        (("greet", "--payload", "{"), "--payload is not JSON"),
        (("greet", "--payload", "@absent.json"), "cannot read"),
    ],
)
async def test_trigger_reports_invalid_task_or_payload(gateway, arguments, said):
    done = await realtime("trigger", *arguments, "--url", gateway.url)
    assert done.code == 1
    assert said in done.err


async def test_trigger_without_gateway_fails():
    done = await realtime("trigger", "greet")
    assert (done.code, "this command needs a running gateway" in done.err) == (1, True)


# Tokens.


async def test_token_show_prints_claims_and_verdict(gateway, tmp_path):
    where = ("--url", gateway.url)
    token = token_for("read:runs:run_1", "read:tags:x")
    (good,) = (await realtime("token", "show", token, "--json", *where)).json
    assert (good["verdict"], good["revocation"]) == ("valid", "not revoked")
    assert good["claims"]["scopes"] == ["read:runs:run_1", "read:tags:x"]
    await store_revocation(gateway.store, tokens.Revocation(token_id=tokens.id_of(token)))
    done = await realtime("token", "show", "-", *where, given=token + "\n")
    assert (done.code, done.lines[0].split(":")[0]) == (1, "revoked")
    assert "read:tags:x" in done.out
    assert token not in done.out


async def test_token_show_rejects_invalid_tokens(tmp_path):
    store = ("--store", f"sqlite:{tmp_path}/none.db")
    other = tokens.mint(["read:runs:*"], secret_key="o" * 40, now_s=time.time())
    expired = token_for("read:runs:*", ttl_s=1, age_s=400)
    good = token_for("read:runs:*")
    forged = good.rpartition(".")[0] + "." + other.rpartition(".")[2]
    for token, verdict in (
        (other, "unknown key"),
        (expired, "expired"),
        (forged, "invalid"),
        ("a.b.c", "invalid"),
        ("nonsense", "invalid"),
    ):
        done = await realtime("token", "show", token, "--json", *store)
        assert (done.code, done.json[0]["verdict"]) == (1, verdict)
    (unsure,) = (await realtime("token", "show", good, "--json", *store)).json
    assert unsure["verdict"] == "valid"
    assert "its revocation could not be checked" in unsure["why"]
    done = await realtime("token", "show", good, "--json", *store, without=("REALTIME_SECRET_KEY",))
    assert (done.code, done.json[0]["verdict"]) == (1, "not verified")
    assert not list(tmp_path.iterdir())  # no secret is generated


async def test_token_mint_grants_the_given_scopes():
    (made,) = (await realtime("token", "read:runs:run_1", "--ttl-s", "60", "--json")).json
    access = tokens.verify(made["token"], secret_key=SECRET, now_s=time.time())
    assert (access.scopes, access.id) == (frozenset({"read:runs:run_1"}), made["id"])
    refused = await realtime("token", "mint", "read:everything")
    assert refused.code == 1


async def test_help_lists_every_command():
    top, *below = await asyncio.gather(
        realtime("--help"), realtime("runs", "--help"), realtime("token", "--help")
    )
    for name in ("serve", "tail", "append", "streams", "runs", "trigger", "token", "backup"):
        assert name in top.out
    assert "Exit codes" in top.out
    assert "watch" in below[0].out and "revoke" in below[1].out


async def test_version_option_prints_version():
    done = await realtime("--version")
    assert (done.code, done.out) == (0, f"realtime-streams {__version__}\n")

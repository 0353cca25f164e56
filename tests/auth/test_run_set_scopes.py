"""A token for one run puts it only into sets, and only below runs, that the token names."""

import httpx
import pytest

from gateway import protocol, task
from gateway.auth.permissions import Permissions
from gateway.errors import Forbidden
from gateway.protocol.authorization import require_request
from gateway.sdk import task_registry
from gateway.sdk.session import WORKER_SCOPES
from tests.support.gateways import SECRET, new_run, serving, token_for

ONE, OTHER, PARENT = "run_one", "run_other", "run_parent"
FIELDS = {
    "nothing": {},
    "a tag": {"tags": ["user_7"]},
    "two tags": {"tags": ["user_7", "user_8"]},
    "no tags": {"tags": []},
    "a batch": {"batch_id": "batch_1"},
    "a parent": {"parent_id": PARENT, "root_id": PARENT},
    "a root": {"root_id": PARENT},
    "itself as root": {"root_id": ONE},
    "a tag and a parent": {"tags": ["user_7"], "parent_id": PARENT, "root_id": PARENT},
}
OWN = {"nothing", "no tags", "itself as root"}
TABLE = {  # the further scopes of a token with write:runs:run_one, and the runs that they allow
    (): OWN,
    ("read:tags:user_7",): OWN | {"a tag"},
    ("read:tags:user_*",): OWN | {"a tag", "two tags"},
    ("read:tags:user_7", "read:tags:user_8"): OWN | {"a tag", "two tags"},
    ("read:tags:user",): OWN,
    ("read:batches:batch_1",): OWN | {"a batch"},
    ("read:batches:batch_2", "read:tags:batch_1"): OWN,
    (f"write:runs:{PARENT}",): OWN | {"a parent", "a root"},
    (f"read:runs:{PARENT}",): OWN,
    ("read:runs:*",): OWN,
    (f"write:streams:{PARENT}/s",): OWN,
    ("trigger:tasks:*",): OWN,
    (f"write:runs:{PARENT}", "read:tags:user_7"): {*OWN, "a tag", "a parent", "a root"}
    | {"a tag and a parent"},
    ("write:runs:*",): set(FIELDS),
    tuple(WORKER_SCOPES): set(FIELDS),
}


def may(scopes: tuple[str, ...], frame: protocol.Request) -> bool:
    access = Permissions(frozenset({f"write:runs:{ONE}", *scopes}), 9e9)
    try:
        return require_request(access, frame, 1 << 20)
    except Forbidden as refusal:
        assert "into" in refusal.message, refusal
        return False


@pytest.mark.parametrize("scopes", TABLE, ids=" ".join)
def test_run_enters_only_sets_that_the_token_names(scopes):
    for name, fields in FIELDS.items():
        value = new_run(id=ONE).to_wire() | fields
        assert may(scopes, protocol.RunCreate(1, value)) == (name in TABLE[scopes]), name
        patch = {key: field for key, field in fields.items() if key == "tags"}
        if patch == fields:
            assert may(scopes, protocol.RunPatch(1, ONE, patch)) == (name in TABLE[scopes]), name


def test_a_set_without_write_on_the_run_allows_nothing():
    access = Permissions(frozenset({"read:tags:user_7", f"write:runs:{OTHER}"}), 9e9)
    value = new_run(id=ONE, tags=["user_7"]).to_wire()
    for frame in (protocol.RunCreate(1, value), protocol.RunPatch(1, ONE, {"tags": ["user_7"]})):
        with pytest.raises(Forbidden):
            require_request(access, frame, 1 << 20)


@pytest.mark.parametrize(
    "fields", [{"tags": [7]}, {"tags": "a"}, {"tags": 7}, {"batch_id": 7}, {"root_id": []}]
)
async def test_a_set_of_the_wrong_kind_is_refused_as_such(fields):
    token = token_for(f"write:runs:{ONE}")
    async with serving() as gateway, gateway.client(token=token) as client:
        value = new_run(id=ONE).to_wire() | fields
        answer = await client.ask(type="run_create", id=1, value=value)
        assert answer["code"] in ("invalid_value", "invalid_id"), answer


async def test_run_of_one_token_does_not_appear_in_the_list_of_another():
    async with serving() as gateway, gateway.client(token=token_for("read:tags:user_8")) as theirs:
        async with gateway.client(token=token_for(f"write:runs:{ONE}")) as mine:
            value = new_run(id=ONE).to_wire()
            refused = await mine.ask(type="run_create", id=1, value=value | {"tags": ["user_8"]})
            assert (refused["code"], refused["retryable"]) == ("forbidden", False)
            assert "tag:user_8" in refused["message"]
            assert (await mine.ask(type="run_create", id=2, value=value))["type"] == "result"
            refused = await mine.ask(type="run_patch", id=3, run=ONE, patch={"tags": ["user_8"]})
            assert refused["code"] == "forbidden"
        listed = await theirs.ask(type="run_list", id=1, tag="user_8")
        assert listed["value"] == []


async def test_trigger_token_gives_its_run_no_tag_that_it_does_not_name(monkeypatch):
    monkeypatch.setitem(task_registry._tasks, "takes", task(id="takes")(_takes))
    async with serving() as gateway, httpx.AsyncClient() as http:
        url = gateway.url.replace("ws", "http", 1) + "/v1/tasks/takes/trigger"
        for bearer, status in [
            (token_for("trigger:tasks:takes"), 403),
            (token_for("trigger:tasks:takes", "read:tags:user_8"), 403),
            (token_for("trigger:tasks:takes", "read:tags:user_7"), 201),
            (SECRET, 201),
        ]:
            headers = {"Authorization": f"Bearer {bearer}"}
            answer = await http.post(url, json={"tags": ["user_7"]}, headers=headers)
            assert answer.status_code == status, answer.text


async def _takes() -> int:
    return 1

"""The dashboard and the alerts use metrics and labels that a gateway has."""

import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import BY_CODE, StoreUnavailable
from gateway.model.records import StreamKey
from tests.support.gateways import new_run, serving, token_for

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())
ALERTS = re.findall(r"^ +expr: (.+)$", (DOCS / "operating.md").read_text(), flags=re.M)

_WORDS = {  # keywords of PromQL, and placeholders for durations
    *("sum", "max", "rate", "histogram_quantile", "by", "and", "on", "bool", "label_values"),
}
_OF_REDIS = {"realtime_store_lag_seconds"}
_OF_PROMETHEUS = {"instance", "le"}


def queries():
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    yield from ALERTS


def names_in(query):
    """Return the metrics of a query: names that are no label, keyword, text or duration."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", "", query)
    bare = re.sub(r"\b(by|on) \([^)]*\)", "", bare)
    bare = re.sub(r"(label_values\(\w+), \w+", r"\1", bare)
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - _WORDS


def labels_in(query):
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", query)
    named = {label.strip() for group in grouped for label in group.split(",")}
    return (named | set(matched)) - _OF_PROMETHEUS


@pytest.fixture
async def samples(monkeypatch):
    """The samples of a gateway with some traffic."""
    async with serving() as gateway:
        run = await gateway.gateway._store.create_run(new_run())

        async def full(*args, **options):
            raise StoreUnavailable("the disk is full")

        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
        monkeypatch.setattr(gateway.store, "append", full)
        with pytest.raises(StoreUnavailable):
            await gateway.gateway._store.append(StreamKey(run.id, "s"), [b"1"])
        gateway.gateway.counters.connections_closed["client"] += 1
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{gateway.port}/metrics")).text
        return [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]


async def test_queries_use_existing_metrics_and_labels(samples):
    names = {sample.name for sample in samples} | _OF_REDIS
    labels = {label for sample in samples for label in sample.labels}
    asked = set()
    for query in queries():
        found = names_in(query)
        assert found, query
        assert found <= names, f"{query}: {found - names}"
        assert labels_in(query) <= labels, f"{query}: {labels_in(query) - labels}"
        asked |= found
    codes = re.findall(r'code=~?"([^"]+)"', " ".join(ALERTS))
    assert codes and all(code in BY_CODE for each in codes for code in each.split("|"))
    # Every metric has a panel.
    own = {name for name in names if name.startswith("realtime_")}
    unseen = {re.sub("_(sum|count|bucket)$", "", name) for name in own - asked}
    seen = {re.sub("_bucket$", "", name) for name in asked}
    assert unseen - seen == {"realtime_gateway_info"}


def test_misspelt_metric_is_detected():
    assert names_in('sum(rate(realtime_conections{a="b"}[5m])) > 0') == {"realtime_conections"}
    assert names_in("max by (x) (a and on (y) b)") == {"a", "b"}
    assert labels_in('sum by (le, cod) (rate(a{b=~"c", d="e"}[5m]))') == {"cod", "b", "d"}


def test_panels_have_titles_and_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert panel["title"] and at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))

"""What requests, answers and events look like, without a server."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.records import ORIGIN, Position, Writer
from gateway.server import entity_tags
from gateway.server.durable_streams import bodies, headers, offsets
from gateway.server.durable_streams.configuration import (
    MAX_TOUCH_MS,
    Configuration,
    Fork,
    Part,
    decode,
    encode,
)
from gateway.server.durable_streams.endpoints import check_name
from gateway.server.durable_streams.errors import HttpRefusal
from tests.support.http.events import events_of

HERE = Position("019aab38d0a2ffe1", 7)


# Bodies and events.


@pytest.mark.parametrize(
    ("body", "records"),
    [
        (b'{"a": 1}', [b'{"a": 1}']),
        (b' [ {"a":1} , [2, 3],4 ] ', [b'{"a":1}', b"[2, 3]", b"4"]),
        (b"[[[1,2]]]", [b"[[1,2]]"]),
        (b'"[1]"', [b'"[1]"']),
        (b"[]", []),
        (b"12345678901234567890123", [b"12345678901234567890123"]),
    ],
)
def test_one_level_of_a_json_array_is_taken_apart_and_values_stay_as_they_came(body, records):
    assert bodies.split("json", body, 100) == records


@pytest.mark.parametrize("body", [b"{", b"[1,]", b"nul", b"[1] 2", b"NaN", b'"\xff"', b"\xef\xbb"])
def test_split_rejects_invalid_json(body):
    with pytest.raises(HttpRefusal) as refused:
        bodies.split("json", body, 100)
    assert refused.value.status == 400


def test_a_value_over_the_limit_is_refused_with_both_numbers():
    for form, body in (("json", b'["' + b"x" * 20 + b'"]'), ("binary", b"x" * 22)):
        with pytest.raises(HttpRefusal, match="is 22 bytes; the limit is 21") as refused:
            bodies.split(form, body, 21)
        assert refused.value.status == 413
        assert bodies.split(form, body, 22)
    with pytest.raises(HttpRefusal, match="10001 values; the limit is 10000"):
        bodies.split("json", b"[" + b",".join([b"1"] * 10_001) + b"]", 100)


@given(st.lists(st.binary(min_size=1), max_size=5))
def test_bytes_are_stored_as_json_and_read_back_unchanged(parts):
    records = [record for part in parts for record in bodies.split("binary", part, 1 << 20)]
    for record in records:
        json.loads(record)
    assert bodies.join("binary", records) == b"".join(parts)


@given(st.text(min_size=1))
def test_no_text_can_end_its_event_or_begin_another(text):
    found = events_of(bodies.event("text", [bodies.wrap(text.encode())]))
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert found == [("data", expected)]


@pytest.mark.slow
@given(st.lists(st.recursive(st.none() | st.text(), st.lists), min_size=1))
def test_an_event_of_json_is_one_array(values):
    records = [json.dumps(value, indent=1, ensure_ascii=False).encode() for value in values]
    ((name, data),) = events_of(bodies.event("json", records))
    assert (name, json.loads(data)) == ("data", values)


def test_control_event_contains_only_resume_fields():
    def fields(**more):
        return json.loads(events_of(bodies.control(str(HERE), **more))[0][1])

    assert fields(cursor="5") == {"streamNextOffset": str(HERE), "streamCursor": "5"}
    assert fields(cursor="5", up_to_date=True)["upToDate"] is True
    assert fields(cursor="5", closed=True) == {
        "streamNextOffset": str(HERE),
        "upToDate": True,
        "streamClosed": True,
    }


# Headers.


@pytest.mark.parametrize(
    "given_",
    [
        {"Stream-TTL": "01"},
        {"Stream-TTL": "+1"},
        {"Stream-TTL": "1.0"},
        {"Stream-TTL": "-1"},
        {"Stream-TTL": ""},
        {"Stream-TTL": "\u0661"},
        {"Stream-TTL": str(headers.MAX_TTL_S + 1)},
        {"Stream-TTL": "1", "Stream-Expires-At": "2030-01-01T00:00:00Z"},
        {"Stream-Expires-At": "tomorrow"},
        {"Stream-Expires-At": "2030-01-01"},
        {"Stream-Expires-At": "2030-01-01T00:00:00"},
        {"Stream-Expires-At": "2030-13-01T00:00:00Z"},
        {"Content-Type": "text"},
        {"Content-Type": "text/plain\x00"},
        {"Content-Type": "text/" + "x" * 300},
        {"Stream-Fork-Offset": str(HERE)},
        {"Stream-Fork-Sub-Offset": "0"},
        {"Stream-Forked-From": "/v1/stream/a", "Stream-Fork-Offset": "now"},
        {"Stream-Forked-From": "/v1/stream/a", "Stream-Fork-Sub-Offset": "05"},
    ],
)
def test_a_header_outside_its_rule_is_refused(given_):
    with pytest.raises(HttpRefusal) as refused:
        headers.read_create_headers(given_)
    assert refused.value.status == 400


def test_headers_of_a_creation_are_read():
    read = headers.read_create_headers({"Stream-Expires-At": "2030-01-01T01:00:00.5+01:00"})
    assert read.expires_ms == 1_893_456_000_500
    read = headers.read_create_headers({"Stream-TTL": "0", "Stream-Closed": "TRUE"})
    assert (read.ttl_s, read.closes) == (0, True)
    for value in ("false", "yes", "1", ""):
        assert not headers.read_create_headers({"Stream-Closed": value}).closes


@pytest.mark.parametrize(
    "given_",
    [
        {"Producer-Id": "a"},
        {"Producer-Id": "a", "Producer-Epoch": "0"},
        {"Producer-Epoch": "0", "Producer-Seq": "0"},
        {"Producer-Id": "", "Producer-Epoch": "0", "Producer-Seq": "0"},
        {"Producer-Id": "a" * 257, "Producer-Epoch": "0", "Producer-Seq": "0"},
        {"Producer-Id": "a", "Producer-Epoch": "1e3", "Producer-Seq": "0"},
        {"Producer-Id": "a", "Producer-Epoch": "0", "Producer-Seq": str(2**53)},
        {"Stream-Seq": ""},
        {"Stream-Seq": "x" * 257},
    ],
)
def test_a_producer_is_complete_or_refused(given_):
    with pytest.raises(HttpRefusal):
        headers.read_append_headers(given_)


def test_a_producer_is_a_writer_that_counts_appends():
    given_ = {"Producer-Id": "a", "Producer-Epoch": "1", "Producer-Seq": str(2**53 - 1)}
    assert headers.read_append_headers(given_).producer == Writer("a", 1, 2**53 - 1, "appends")


# Offsets.


@pytest.mark.parametrize("text", ["", "0", "-2", "NOW", str(HERE) + "\n", f"{HERE},{HERE}", "a/b"])
def test_parse_rejects_an_unissued_offset(text):
    with pytest.raises(HttpRefusal):
        offsets.read_offset([text])


def test_an_offset_is_a_position_or_one_of_two_words():
    assert offsets.read_offset([]) is None
    assert offsets.read_offset(["-1"]) == ORIGIN
    assert offsets.read_offset(["now"]) == "now"
    assert offsets.read_offset([str(HERE)]) == HERE
    with pytest.raises(HttpRefusal, match="2 times"):
        offsets.read_offset([str(HERE), "-1"])


def test_an_entity_tag_changes_with_what_there_is_and_with_the_end():
    there = {
        offsets.entity_tag(identity, ORIGIN, stop, closed)
        for identity in ("a", "b")
        for stop in (ORIGIN, HERE)
        for closed in (False, True)
    }
    assert len(there) == 8
    (tag, *_) = there
    assert entity_tags.matches(f'"x", {tag}', tag) and entity_tags.matches(f"W/{tag}", tag)
    assert entity_tags.matches("*", tag)
    assert not entity_tags.matches(None, tag) and not entity_tags.matches('"x"', tag)


@given(st.integers(0, 2**60), st.floats(0, 1, exclude_max=True), st.floats(1.8e9, 4e9))
def test_next_cursor_exceeds_the_given_cursor(given_, chance, now_s):
    current = offsets.next_cursor(now_s, None, lambda: chance)
    assert current == str(int((now_s - 1_728_432_000) // 20))
    following = int(offsets.next_cursor(now_s, str(given_), lambda: chance))
    assert following >= int(current)
    assert following > given_ or given_ >= 10**15


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "9" * 40, "\u0661"])
def test_a_cursor_that_is_none_is_as_good_as_none(text):
    assert offsets.next_cursor(1.8e9, text, lambda: 0.5) == "3578400"


# PathStreams.


@pytest.mark.parametrize("name", ["a", "docs/a", "a" * 128, "A.b_~@:=+-/0", "/".join(["ab"] * 170)])
def test_a_path_of_allowed_characters_is_allowed(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a//b", ".", "a/../b", "ä", "a b", "a%2fb", "a\n", "a" * 129]
)
def test_any_other_path_is_refused(name):
    with pytest.raises(HttpRefusal) as refused:
        check_name(name)
    assert refused.value.status == 400


def test_a_path_that_is_too_long_or_reserved_is_refused():
    with pytest.raises(HttpRefusal, match="up to 512"):
        check_name("/".join(["a" * 100] * 6))
    with pytest.raises(HttpRefusal) as refused:
        check_name("__ds/subscriptions/1")
    assert refused.value.status == 404


# Configurations.


def test_configuration_round_trips():
    kept = Configuration(
        "live", 5, "g", "text/plain", 60, parts=(Part("a", "h", 0, 3),), forks=(Fork("b", "i", 4),)
    )
    assert decode(encode(kept)) == kept
    assert kept.start == 3


def test_touch_restarts_ttl_and_writes_are_rate_limited():
    kept = Configuration("live", ttl_s=100, touched_ms=1000)
    assert not kept.is_expired(100_999) and kept.is_expired(101_000)
    touched = kept.touched(50_000)
    assert touched.touched_ms == 60_000  # a tenth ahead
    assert touched.touched(60_000) is None
    assert not touched.is_expired(150_000), "never before its time"
    assert touched.is_expired(160_000), "and not much after it"
    long = Configuration("live", ttl_s=10**6).touched(5)
    assert long.touched_ms == 5 + MAX_TOUCH_MS
    assert Configuration("live").touched(5) is None
    assert Configuration("live", expires_ms=7).is_expired(7)


def test_a_fork_inherits_up_to_where_it_parts_and_nothing_that_is_empty():
    source = Configuration("live", generation="s", parts=(Part("root", "r", 0, 4),))
    assert source.inherited("source", 6) == (Part("root", "r", 0, 4), Part("source", "s", 4, 6))
    assert source.inherited("source", 4) == (Part("root", "r", 0, 4),)
    assert source.inherited("source", 2) == (Part("root", "r", 0, 2),)
    assert source.inherited("source", 0) == ()
    fork = Configuration("live", parts=source.inherited("source", 6))
    assert [fork.part_at(n).path for n in (0, 3, 4, 5)] == ["root", "root", "source", "source"]
    assert fork.part_at(6) is None and fork.start == 6

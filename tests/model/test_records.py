import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidId, InvalidPosition
from gateway.model.records import (
    ORIGIN,
    Position,
    StreamKey,
    check_run_id,
    check_stream_id,
    split_source,
)
from tests.support.protocol_cases import CASES


@pytest.mark.parametrize("id", ["a", "run", "a" * 64, "A-Z_0.9", "...", ".a", "-", "_", "0"])
def test_a_stream_may_be_named_so(id):
    assert check_stream_id(id) == id


@pytest.mark.parametrize(
    ("id", "rule"),
    [
        ("", "1 to 64"),
        ("a" * 65, "1 to 64"),
        ("a b", "A-Z a-z 0-9"),
        ("a/b", "A-Z a-z 0-9"),
        ("a\n", "A-Z a-z 0-9"),
        ("grün", "A-Z a-z 0-9"),
        ("a:b", "A-Z a-z 0-9"),
        ("a*", "A-Z a-z 0-9"),
        ("$run", r"start with \$ are reserved"),
        ("$mine", r"start with \$ are reserved"),
        (".", "reserved"),
        ("..", "reserved"),
        (None, "1 to 64"),
        (7, "1 to 64"),
    ],
)
def test_a_stream_may_not_be_named_so_and_the_message_says_the_rule(id, rule):
    with pytest.raises(InvalidId, match=rule):
        check_stream_id(id)


def test_a_message_shows_a_long_id_cut_and_its_length():
    with pytest.raises(InvalidId) as caught:
        check_stream_id("x" * 100_000)
    assert len(caught.value.message) < 300
    assert "100002 characters" in caught.value.message or "100000" in caught.value.message


@pytest.mark.parametrize("id", ["run_a", "run_06f1", "run_" + "Z" * 60])
def test_a_run_may_have_this_id(id):
    assert check_run_id(id) == id


@pytest.mark.parametrize(
    "id",
    ["", "run_", "run", "RUN_a", "run_a_b", "run_ä", "run_" + "a" * 61, "run_a\n", "x", None, 1],
)
def test_a_run_may_not_have_this_id(id):
    with pytest.raises(InvalidId, match="run_ and 1 to 60"):
        check_run_id(id)


@given(st.text(max_size=70))
def test_an_id_is_allowed_or_refused_and_nothing_else(id):
    for check in (check_stream_id, check_run_id):
        try:
            assert check(id) == id
        except InvalidId:
            pass


def test_a_key_is_shown_as_run_and_stream():
    assert str(StreamKey("run_a", "progress")) == "run_a/progress"


@given(st.integers(0, 16**16 - 1), st.integers(0, 10**16 - 1))
def test_a_position_is_read_back_from_its_string(epoch, offset):
    position = Position(f"{epoch:016x}", offset)
    assert Position.parse(str(position)) == position


@given(*[st.tuples(st.integers(0, 16**16 - 1), st.integers(0, 10**16 - 1))] * 2)
def test_positions_sort_like_their_strings(a, b):
    first, second = (Position(f"{epoch:016x}", offset) for epoch, offset in (a, b))
    assert (first < second) == (str(first) < str(second))


@pytest.mark.parametrize("case", CASES["positions"], ids=str)
def test_positions_compare_as_the_protocols_cases_say(case):
    a, b = Position.parse(case["a"]), Position.parse(case["b"])
    assert (a > b) - (a < b) == case["order"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "019aab37c2f1a3d4",
        "019aab37c2f1a3d4_",
        "019aab37c2f1a3d4_1",
        "019AAB37C2F1A3D4_0000000000000001",
        "019aab37c2f1a3d4_000000000000000a",
        "019aab37c2f1a3d4_00000000000000001",
        "019aab37c2f1a3d4_-000000000000001",
        "019aab37c2f1a3d4_0000000000000001\n",
        " 019aab37c2f1a3d4_0000000000000001",
        "019aab37c2f1a3d4_" + "\u0660" * 16,
        None,
        3,
        {"position": "x"},
    ],
)
def test_parse_rejects_invalid_position(text):
    with pytest.raises(InvalidPosition, match="is not a position"):
        Position.parse(text)


def test_the_origin_sorts_before_every_other_position():
    assert Position.parse("019aab37c2f1a3d4_0000000000000000") > ORIGIN
    assert str(ORIGIN) == "0" * 16 + "_" + "0" * 16


@pytest.mark.parametrize("source", [None, "run_a", "run_a:", "run_a:x", "run_a:-1", "a:" * 50])
def test_a_source_without_an_attempt_is_of_the_first(source):
    assert split_source(source) == (source, 1)
    assert split_source("run_a:23") == ("run_a", 23)

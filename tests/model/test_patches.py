"""Operations on metadata, against a model in a few lines and the merge patches they make."""

import copy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import InvalidValue
from gateway.model.patches import Operation, carry_out, difference, is_same, merge_patch

scalars = st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b"])
values = st.recursive(
    scalars | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=6,
)
operations = st.lists(
    st.builds(
        Operation,
        st.sampled_from(["set", "delete", "append", "remove", "increment"]),
        st.sampled_from("abc"),
        values,
    ),
    max_size=12,
)


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def model(metadata, operation):
    """Do one operation the simple way; None: it does not fit."""
    op, key, value = operation.op, operation.key, operation.value
    there = metadata.get(key)
    if op == "delete":
        return {k: v for k, v in metadata.items() if k != key}
    if op == "set":
        return {**metadata, key: value}
    if op == "append" and (key not in metadata or isinstance(there, list)):
        return {**metadata, key: [*(there or []), value]}
    if op == "remove" and key not in metadata:
        return metadata
    if op == "remove" and isinstance(there, list):
        return {**metadata, key: [item for item in there if repr_of(item) != repr_of(value)]}
    if op == "increment" and is_number(value) and (key not in metadata or is_number(there)):
        return {**metadata, key: (there or 0) + value}
    return None


def repr_of(value):
    if isinstance(value, dict):
        return f"object {sorted((k, repr_of(v)) for k, v in value.items())}"
    if isinstance(value, list):
        return repr([repr_of(item) for item in value])
    return repr(value)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("abc"), values), operations)
@example({"b": [[]]}, [Operation("remove", "b", {})])
def test_operations_fold_as_the_model_does_and_their_patch_says_all_of_it(metadata, operations):
    before = copy.deepcopy(metadata)
    for operation in operations:
        expected = model(metadata, operation)
        if expected is None:
            with pytest.raises(InvalidValue, match=repr(operation.key)):
                carry_out(metadata, [operation])
            continue
        after = carry_out(metadata, [operation])
        assert is_same(after, expected)
        assert is_same(merge_patch(metadata, *difference(metadata, after)), after)
        metadata = after
    kept = [op for op in operations if model(before, op) is not None]
    try:
        at_once = carry_out(before, kept)
    except InvalidValue:
        return  # one that fits alone may not fit after the others
    assert is_same(merge_patch(before, *difference(before, at_once)), at_once)


@given(st.dictionaries(st.sampled_from("abc"), values))
def test_difference_of_equal_metadata_is_empty(metadata):
    assert difference(metadata, metadata) == ({}, {})


@given(
    st.dictionaries(st.sampled_from("abc"), values), st.dictionaries(st.sampled_from("abc"), values)
)
def test_readers_that_know_no_nulls_lose_nothing_else(before, after):
    patch, _ = difference(before, after)
    assert without_nulls(merge_patch(before, patch)) == without_nulls(after)


def without_nulls(value):
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value


def test_nulls_of_a_deep_object_cost_as_much_as_the_object():
    members = {str(i): None for i in range(1000)}
    for _ in range(100):
        members = {"deeper": members}
    patch, nulls = difference({}, members)
    assert (patch, nulls) == (members, members)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, True, False),
        (0, False, False),
        (1, 1.0, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, True], [True, 1], False),
        (None, {}, False),
    ],
)
def test_the_same_json_is_the_same(one, other, same):
    assert is_same(one, other) is same


def test_remove_deletes_equal_items_of_the_same_type_only():
    after = carry_out({"a": [1, True, 1, "1", [1]]}, [Operation("remove", "a", 1)])
    assert is_same(after, {"a": [True, "1", [1]]})


@pytest.mark.parametrize("number", [float("inf"), float("nan"), "1", None, True, [1]])
def test_only_a_finite_number_can_be_added(number):
    with pytest.raises(InvalidValue, match="'n' is 1: it cannot be incremented by"):
        carry_out({"n": 1}, [Operation("increment", "n", number)])


@pytest.mark.parametrize(("there", "by"), [(0.5, 10**400), (1e308, 1e308), (2**53, 1)])
def test_a_sum_that_no_client_could_hold_is_refused(there, by):
    with pytest.raises(InvalidValue, match="cannot be incremented"):
        carry_out({"n": there}, [Operation("increment", "n", by)])


def test_an_operation_that_is_none_is_refused():
    with pytest.raises(InvalidValue, match="'rename' is none of set, delete"):
        carry_out({}, [Operation("rename", "a", 1)])

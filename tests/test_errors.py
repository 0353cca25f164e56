import re

import pytest

from gateway import errors
from gateway.errors import BY_CODE, RealtimeError, from_wire, on_the_wire
from tests.tools import protocol_tables

CLASSES = RealtimeError.__subclasses__()


def test_error_codes_are_unique():
    codes = [error.code for error in CLASSES]
    assert len(set(codes)) == len(codes)
    assert list(BY_CODE) == codes


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_an_errors_code_is_its_name(error):
    words = re.findall("[A-Z][a-z]*", error.__name__)
    assert error.code == "_".join(words).lower()
    assert 400 <= error.http_status < 600
    assert error.close_code is None or error.close_code == 1011 or 4400 <= error.close_code < 4600


def test_docstring_tree_matches_the_classes():
    lines = re.findall(r"[├└]── (\w+) +(\d+)(.*)", errors.__doc__)
    assert [name for name, _, _ in lines] == [error.__name__ for error in CLASSES]
    for (name, status, rest), error in zip(lines, CLASSES, strict=True):
        assert int(status) == error.http_status, name
        close = re.search(r"close (\d+)", rest)
        assert (int(close[1]) if close else None) == (
            error.close_code if error is not errors.Internal or close else None
        ), name
        assert ("retryable" in rest) == error.retryable, name


def test_protocol_table_matches_the_classes():
    assert protocol_tables.written("errors") == protocol_tables.errors()


def test_retryable_errors_have_reconnecting_close_codes():
    for error in on_the_wire():
        if error.close_code is not None:
            comes_back = not 4000 <= error.close_code < 4500 or error.close_code in (4408, 4429)
            assert comes_back == error.retryable, error.code


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_an_error_survives_the_wire(error):
    back = from_wire(error.code, "what happened")
    assert type(back) is error
    assert (back.message, str(back)) == ("what happened", "what happened")


def test_a_code_that_is_not_known_is_an_error_all_the_same():
    assert type(from_wire("of_a_newer_release", "what happened")) is RealtimeError

"""What is read past h11, held against h11: it would take the same, and read it alike."""

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.server.uvicorn.request_head import MAX_BODY_BYTES, MAX_HEAD_BYTES, read_head

FAST_PATH_PREFIX = b"POST /v1/stream/"
PLAIN = b"POST /v1/stream/a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


def request(*lines: bytes, path=b"/v1/stream/a", body=b"{}", length=True) -> bytes:
    head = [b"POST %b HTTP/1.1" % path, b"Host: x", *lines]
    if length:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def by_h11(data: bytes):
    """Read what h11 makes of it: target, headers, body, and what is left over."""
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(data)
    first = conn.next_event()
    assert isinstance(first, h11.Request) and first.method == b"POST"
    assert first.http_version == b"1.1" and not conn.they_are_waiting_for_100_continue
    body = b""
    while isinstance(event := conn.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage) and not event.headers
    assert conn.their_state is h11.DONE  # it may be followed by another
    assert conn.trailing_data == (b"", False)
    return first.target, list(first.headers), body


def read_whole(data: bytes):
    """Read a request that is there to its last byte, with none of another."""
    head = read_head(data, FAST_PATH_PREFIX)
    if head is None or head.size != len(data):
        return None
    return head.path, list(head.headers), data[len(head.data) :]


def check_alike(data: bytes) -> bool:
    head = read_head(data, FAST_PATH_PREFIX)
    if head is not None:
        assert data.startswith(head.data) and head.data.endswith(b"\r\n\r\n")
        data = data[: head.size].ljust(head.size, b"x")  # what may yet come
        assert by_h11(data) == (head.path, list(head.headers), data[len(head.data) :])
    return head is not None


def test_a_plain_request_is_read():
    whole = read_whole(PLAIN)
    assert whole == (
        b"/v1/stream/a/b",
        [(b"host", b"x"), (b"content-length", b"2")],
        b"{}",
    )
    assert check_alike(PLAIN)


@pytest.mark.parametrize(
    "data",
    [
        request(b"Connection: keep-alive"),
        request(b"CONNECTION: Keep-Alive"),
        request(b"Authorization: Bearer a.b.c", b"Producer-Id: p 1", b"Accept: */*"),
        request(path=b"/v1/stream/run_1/a.b~c:d@e=f+g-h_1"),
        request(body=b""),
        request(body=b"\r\n\r\n\0\xff"),
        request(body=b"x" * MAX_BODY_BYTES),
        request(b"X: " + b"y" * 20_000),
    ],
)
def test_what_such_a_request_may_have(data):
    assert read_whole(data) is not None
    assert check_alike(data)


def test_a_head_tells_how_long_its_request_is():
    for n in range(len(PLAIN) - 2):
        assert read_head(PLAIN[:n], FAST_PATH_PREFIX) is None
    for more in (b"", b"{", b"{}", b"{}x"):
        head = read_head(PLAIN[:-2] + more, FAST_PATH_PREFIX)
        assert (len(head.data), head.size) == (len(PLAIN) - 2, len(PLAIN))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLAIN[:-1],
        PLAIN + b"x",
        PLAIN + PLAIN,
        *(PLAIN[:n] for n in (1, 16, 30, -2, -4)),
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"Host: x\r\n", b"Host: x\n"),
        PLAIN.replace(b"Host: x\r\n", b"Host: x\r"),
        PLAIN.replace(b"Host: x", b"Host: x\r\r\n y"),
        PLAIN.replace(b"POST", b"PUT"),
        PLAIN.replace(b"POST ", b"POST  "),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"1.1", b"1.1 "),
        PLAIN.replace(b"HTTP/1.1", b""),
        PLAIN.replace(b" HTTP/1.1", b""),
        PLAIN.replace(b"a/b", b"a/b?offset=1"),
        PLAIN.replace(b"a/b", b"a%2fb"),
        PLAIN.replace(b"a/b", b"a/b#c"),
        PLAIN.replace(b"a/b", b"a\tb"),
        PLAIN.replace(b"Host: x\r\n", b""),
        request(b"Host: y"),
        request(b"host: x"),
        request(length=False),
        request(b"Content-Length: 2"),
        request(b"Content-Length: 3"),
        request(b"Content-Length: 2, 2", length=False),
        request(b"Content-Length: +2", length=False),
        request(b"Content-Length: 02", length=False),
        request(b"Content-Length: 2 ", length=False),
        request(b"Content-Length: 0x2", length=False),
        request(b"Content-Length: -2", length=False),
        request(b"Content-Length : 2", length=False),
        request(b"Content-Length:\t2", length=False),
        request(b"Content-Length: \xb2", length=False),
        request(b"Content-Length: 2\0", length=False),
        request(b"Transfer-Encoding: chunked"),
        request(b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n", length=False),
        request(b"transfer-encoding: identity"),
        request(b"Transfer-Encoding : chunked"),
        request(b"Expect: 100-continue"),
        request(b"Upgrade: websocket", b"Connection: Upgrade"),
        request(b"Connection: close"),
        request(b"Connection: keep-alive, upgrade"),
        request(b"Trailer: X"),
        request(b": no name"),
        request(b"no colon"),
        request(b"X Y: 1"),
        request(b"X:1"),
        request(b"X: "),
        request(b"X:  1"),
        request(b"X: 1 "),
        request(b"X: a\0b"),
        request(b"X: a\tb"),
        request(b"X: \xe4"),
        request(b"X\xe4: 1"),
        request(b"X: 1", b" folded"),
        request(b"X: 1\rY: 2"),
        request(b"X: 1\nTransfer-Encoding: chunked"),
        request(body=b"x" * (MAX_BODY_BYTES + 1)),
        request(b"X: " + b"y" * MAX_HEAD_BYTES),
        request(b"y" * MAX_HEAD_BYTES + b": x"),
        request(*[b"X: y"] * MAX_HEAD_BYTES),
    ],
    ids=lambda data: repr(data[:60]) if len(data) < 400 else f"{len(data)} bytes",
)
def test_everything_else_is_left_to_h11(data):
    assert read_whole(data) is None


NAMES = st.sampled_from(
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Content-Type",
        b"Producer-Id",
        b"Authorization",
        b"Expect",
        b"X",
        b"X Y",
        b"",
    ]
)
VALUES = st.sampled_from(
    [
        b"x",
        b"2",
        b"3",
        b"02",
        b"chunked",
        b"close",
        b"keep-alive",
        b"100-continue",
        b"a b",
        b"",
        b" ",
    ]
)
LINE_ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\n "])
COLONS = st.sampled_from([b": "] * 8 + [b":", b" : ", b":\t"])
NOISE = st.binary(max_size=2)


@st.composite
def requests(draw):
    """Something like a request: mostly right, and now and then not."""
    data = b"POST /v1/stream/" + draw(st.sampled_from([b"a", b"a/b", b"a?b", b"", b"%41"]))
    data += b" HTTP/1.1" + draw(LINE_ENDS)
    lines = draw(st.lists(st.tuples(NAMES, COLONS, VALUES, LINE_ENDS), max_size=4))
    fixed = [(b"Host", b": ", b"x", b"\r\n"), (b"Content-Length", b": ", b"2", b"\r\n")]
    for parts in draw(st.permutations(fixed + lines)):
        data += b"".join(parts)
    data += b"\r\n" + draw(st.sampled_from([b"{}", b"{", b"{}x", b"2\r\n{}\r\n0\r\n\r\n"]))
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(NOISE | st.just(b"")) + data[at:]


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(requests())
@example(PLAIN)
def test_accepted_heads_are_parsed_as_h11_does(data):
    check_alike(data)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutated_request_head_parses_as_h11_does_or_is_left_to_it(data):
    at = data.draw(st.integers(0, len(PLAIN) - 1))
    check_alike(PLAIN[:at] + data.draw(st.binary(max_size=2)) + PLAIN[at + 1 :])

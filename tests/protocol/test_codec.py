import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import protocol
from gateway.errors import FrameTooLarge, MalformedFrame, RealtimeError, UnknownFrame
from gateway.model.limits import Limits
from gateway.model.records import Record, source_of
from gateway.protocol import (
    Append,
    FromLast,
    FromPosition,
    Hello,
    Ping,
    Subscribe,
    decode,
    decode_gateway,
    encode,
    encode_record,
    encode_records,
    id_of,
    start_of,
)

POSITION = "019aab37c2f1a3d4_0000000000000003"

GOOD = [
    {"type": "hello", "protocol": 1},
    {"type": "hello", "protocol": 99, "token": "t", "owner": "worker_1"},
    {"type": "subscribe", "id": 0, "run": "run_a"},
    {"type": "subscribe", "id": 4294967295, "run": "run_a", "stream": "s", "throttle_ms": 60000},
    {"type": "subscribe", "id": 1, "run": "run_a", "start": {"position": POSITION}, "token": "t"},
    {"type": "unsubscribe", "id": 1},
    {"type": "token", "token": "t"},
    {"type": "token", "token": "t", "id": 1},
    {"type": "ping"},
    {"type": "append", "id": 1, "run": "run_a", "stream": "s", "records": [1, None, {"a": []}]},
    {"type": "append", "id": 1, "run": "run_a", "stream": "s", "records": [], "end": "failed"},
    {
        "type": "append",
        "id": 1,
        "run": "run_a",
        "stream": "s",
        "records": [1],
        "writer": {"id": "w", "epoch": 0, "sequence": 0, "counts": "appends"},
        "order": "2026-01",
    },
    {
        "type": "append",
        "id": 1,
        "run": "run_a",
        "stream": "s",
        "records": [1],
        "writer": {"id": "w", "epoch": 0, "sequence": 0},
        "source": "run_b",
        "token": "t",
    },
    {"type": "head", "id": 1, "run": "run_a", "stream": "s"},
    {"type": "read", "id": 1, "run": "run_a", "stream": "s", "after": POSITION, "max_bytes": 1},
    {"type": "read", "id": 1, "run": "run_a", "stream": "s", "after": None},
    {"type": "delete", "id": 1, "run": "run_a", "stream": "s"},
    {"type": "run_create", "id": 1, "value": {}},
    {"type": "run_patch", "id": 1, "run": "run_a", "patch": {"status": None}},
    {"type": "run_get", "id": 1, "run": "run_a"},
    {"type": "run_delete", "id": 1, "run": "run_a"},
    {"type": "run_list", "id": 1, "status": ["queued"], "tag": "x", "limit": 1000},
    {"type": "spend", "id": 1, "token_id": "t", "uses": 1, "expires_at_ms": 1},
    {"type": "register", "id": 1, "schemas": {"vote": {"type": "integer"}}},
    {"type": "runs_get", "id": 1, "runs": {"tags": ["x", "y"]}, "limit": 1000},
    {"type": "subscribe", "id": 1, "runs": {"parent": "run_a"}, "limit": 1, "skip": ["payload"]},
]

BAD = [
    ("", MalformedFrame),
    ("null", MalformedFrame),
    ("7", MalformedFrame),
    ("[]", MalformedFrame),
    ("{}", MalformedFrame),
    ('{"type":"ping"', MalformedFrame),
    ('{"type":"ping"}x', MalformedFrame),
    ('{"type":"ping"}{"type":"ping"}', MalformedFrame),
    ("{'type':'ping'}", MalformedFrame),
    ('{"type":null}', MalformedFrame),
    ('{"type":7}', MalformedFrame),
    ('{"type":["ping"]}', MalformedFrame),
    ('{"type":"pong"}', UnknownFrame),
    ('{"type":"PING"}', UnknownFrame),
    ('{"type":"records","id":1}', UnknownFrame),
    ('{"type":""}', UnknownFrame),
    ('{"type":"hello"}', MalformedFrame),
    ('{"type":"hello","protocol":"1"}', MalformedFrame),
    ('{"type":"hello","protocol":1,"token":7}', MalformedFrame),
    ('{"type":"hello","protocol":1,"owner":""}', MalformedFrame),
    ('{"type":"hello","protocol":1,"owner":"%s"}' % ("x" * 65), MalformedFrame),
    ('{"type":"subscribe","run":"run_a"}', MalformedFrame),
    ('{"type":"subscribe","id":-1,"run":"run_a"}', MalformedFrame),
    ('{"type":"subscribe","id":4294967296,"run":"run_a"}', MalformedFrame),
    ('{"type":"subscribe","id":1.5,"run":"run_a"}', MalformedFrame),
    ('{"type":"subscribe","id":"1","run":"run_a"}', MalformedFrame),
    ('{"type":"subscribe","id":true,"run":"run_a"}', MalformedFrame),
    ('{"type":"subscribe","id":1,"run":null}', MalformedFrame),
    ('{"type":"subscribe","id":1,"run":"run_a","throttle_ms":-1}', MalformedFrame),
    ('{"type":"subscribe","id":1,"run":"run_a","throttle_ms":60001}', MalformedFrame),
    ('{"type":"unsubscribe"}', MalformedFrame),
    ('{"type":"token"}', MalformedFrame),
    ('{"type":"token","token":null}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s"}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":{}}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":[01]}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":[tru]}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":[NaN]}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":["\\q"]}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":["\x01"]}', MalformedFrame),
    ('{"type":"append","id":1,"run":"run_a","stream":"s","records":[[1,]]}', MalformedFrame),
    ('{"type":"append","id":1,"run":"a","stream":"s","records":[],"end":"gone"}', MalformedFrame),
    ('{"type":"append","id":1,"run":"a","stream":"s","records":[],"writer":{}}', MalformedFrame),
    ('{"type":"read","id":1,"run":"run_a","stream":"s","max_bytes":0}', MalformedFrame),
    ('{"type":"run_create","id":1,"value":[]}', MalformedFrame),
    ('{"type":"run_patch","id":1,"run":"run_a","patch":null}', MalformedFrame),
    ('{"type":"run_list","id":1,"limit":1001}', MalformedFrame),
    ('{"type":"spend","id":1,"token_id":"t","uses":0,"expires_at_ms":1}', MalformedFrame),
    ('{"type":"register","id":1,"schemas":{"vote":3}}', MalformedFrame),
    ('{"type":"subscribe","id":1,"run":"\\ud800"}', MalformedFrame),
    ('{"type":"subscribe","id":1,"run":"run_a","start":' + "[" * 60_000, MalformedFrame),
]  # fmt: skip


@pytest.mark.parametrize("frame", GOOD, ids=json.dumps)
def test_a_good_frame_is_read_and_written_back(frame):
    decoded = decode(json.dumps(frame))
    assert decoded.__struct_config__.tag == frame["type"]
    back = json.loads(encode(decoded))
    assert {name: back[name] for name in frame} == frame
    assert decode(encode(decoded)) == decoded


def test_every_frame_of_a_client_is_among_the_good_ones():
    types = {frame["type"] for frame in GOOD}
    assert types == {cls.__struct_config__.tag for cls in protocol.ClientFrame.__args__}


@pytest.mark.parametrize(("text", "error"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_frame_is_refused(text, error):
    with pytest.raises(error) as caught:
        decode(text)
    assert type(caught.value) is error
    assert len(caught.value.message) < 300


def test_the_message_names_the_type_or_the_field():
    with pytest.raises(UnknownFrame, match="'subscrieb'"):
        decode('{"type":"subscrieb"}')
    with pytest.raises(MalformedFrame, match="throttle_ms"):
        decode('{"type":"subscribe","id":1,"run":"run_a","throttle_ms":"fast"}')


def test_fields_that_are_not_known_are_ignored():
    assert decode('{"type":"ping","colour":"red","deep":{"er":[1]}}') == Ping()
    frame = decode('{"x":[{}],"protocol":1,"type":"hello"}')
    assert frame == Hello(1)


def test_a_frame_may_be_as_large_as_its_limit_counted_in_bytes():
    text = '{"type":"ping","x":"' + "ü" * 100 + '"}'
    size = len(text.encode())
    assert decode(text, Limits(frame_bytes=size)) == Ping()
    with pytest.raises(FrameTooLarge, match=f"is {size} bytes; the limit is {size - 1}"):
        decode(text, Limits(frame_bytes=size - 1))


DATA_FRAMES = [
    {"type": "append", "id": 1, "run": "run_a", "stream": "s", "records": ["x" * 200]},
    {"type": "run_create", "id": 1, "value": {"payload": "x" * 200}},
    {"type": "run_patch", "id": 1, "run": "run_a", "patch": {"output": "x" * 200}},
    {"type": "register", "id": 1, "schemas": {"s": {"title": "x" * 200}}},
]


@pytest.mark.parametrize("frame", DATA_FRAMES, ids=lambda frame: frame["type"])
def test_a_frame_that_carries_data_may_be_larger(frame):
    text = json.dumps(frame)
    limits = Limits(frame_bytes=100, data_frame_bytes=len(text))
    decode(text, limits)
    with pytest.raises(FrameTooLarge, match=f"is {len(text)} bytes; the limit is {len(text) - 1}"):
        decode(text, Limits(frame_bytes=100, data_frame_bytes=len(text) - 1))
    with pytest.raises(FrameTooLarge, match="the limit is 100"):
        decode(text, limits, is_first=True)


def test_a_frame_without_data_may_not_be_as_large_as_one_with():
    token = "x" * 200
    with pytest.raises(FrameTooLarge, match="the limit is 100"):
        decode(json.dumps({"type": "token", "token": token}), Limits(frame_bytes=100))


def test_an_append_has_at_most_a_thousand_records():
    frame = {"type": "append", "id": 1, "run": "run_a", "stream": "s", "records": [0] * 1000}
    decode(json.dumps(frame))
    frame["records"].append(0)
    with pytest.raises(MalformedFrame, match=r"length <= 1000.*records"):
        decode(json.dumps(frame))


def test_the_records_of_an_append_keep_their_bytes():
    values = [
        '{ "a" : 1.0 , "a":2}',
        '"\\u00fc \\/"',
        "1E+300",
        "1e-400",
        "123456789012345678901",
        '"🎉"',
    ]
    text = '{"type":"append","id":1,"run":"run_a","stream":"s","records":['
    frame = decode(text + ",".join(values) + "]}")
    assert isinstance(frame, Append)
    assert [bytes(record).decode() for record in frame.records] == values


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
fields = st.sampled_from(
    [
        "type",
        "id",
        "run",
        "stream",
        "start",
        "throttle_ms",
        "token",
        "protocol",
        "owner",
        "records",
        "writer",
        "end",
        "source",
        "attempt",
        "after",
        "max_bytes",
        "value",
        "patch",
        "status",
        "limit",
        "before",
        "epoch",
        "sequence",
        "position",
        "last",
    ]
)
types = st.sampled_from([frame["type"] for frame in GOOD]) | json_values


@given(st.text() | st.binary())
@example(b"\xff")
@example(b'{"type":"ping","x":"\xff"}')
@example('{"type":"ping","x":"\ud800"}')
@example("[" * 5000)
@example('{"a":' * 5000)
def test_no_text_makes_decoding_raise_anything_else(text):
    _decode_all(text)


@pytest.mark.slow
@given(types, st.dictionaries(fields, json_values, max_size=6))
def test_no_object_makes_decoding_raise_anything_else(type, frame):
    _decode_all(json.dumps(frame | {"type": type}))


@given(st.sampled_from(GOOD), st.data())
def test_no_changed_frame_makes_decoding_raise_anything_else(frame, data):
    name = data.draw(st.sampled_from(sorted(frame)))
    _decode_all(json.dumps(frame | {name: data.draw(json_values)}))
    text = json.dumps(frame)
    _decode_all(text[: data.draw(st.integers(0, len(text)))])


def _decode_all(text):
    try:
        frame = decode(text)
        if isinstance(frame, Subscribe):
            start_of(frame)
        encode(frame)
    except RealtimeError as error:
        assert len(error.message) < 1000
    id = id_of(text)
    assert id is None or 0 <= id < 2**32
    try:
        decode_gateway(text)
    except MalformedFrame:
        pass


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ('{"type":"nonsense","id":7}', 7),
        ('{"id":7}', 7),
        ('{"type":"subscribe","id":-1}', None),
        ('{"type":"subscribe","id":4294967296}', None),
        ('{"type":"subscribe","id":1.0}', None),
        ('{"type":"subscribe","id":true}', None),
        ('{"type":"subscribe","id":"7"}', None),
        ('{"id":7', None),
        ("[]", None),
    ],
)
def test_the_id_of_a_frame_that_cannot_be_read_is_found_if_it_is_one(text, id):
    found = id_of(text)
    assert found == id
    assert found is None or type(found) is int


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("beginning", "beginning"),
        ("latest", "latest"),
        ({"position": POSITION}, FromPosition(POSITION)),
        ({"last": 1}, FromLast(1)),
        ({"last": 1_000_000}, FromLast(1_000_000)),
    ],
)
def test_a_subscription_starts_there(start, expected):
    frame = {"type": "subscribe", "id": 1, "run": "run_a", "start": start}
    assert start_of(decode(json.dumps(frame))) == expected


@pytest.mark.parametrize(
    "start",
    [
        None,
        "",
        "end",
        0,
        [],
        {},
        {"last": 0},
        {"last": -1},
        {"last": 1_000_001},
        {"last": "1"},
        {"position": None},
        {"position": POSITION, "last": 1},
    ],
)
def test_a_subscription_cannot_start_there(start):
    frame = {"type": "subscribe", "id": 1, "run": "run_a", "start": start}
    with pytest.raises(MalformedFrame, match="`start` is none of"):
        start_of(decode(json.dumps(frame)))


# What the gateway writes.


def test_a_record_is_written_byte_for_byte():
    data = '{ "ü" : "\\u00fc" }'.encode()
    assert encode_record(Record(7, 123, "run_a", data), "run_a") == (
        b'{"offset":7,"time_ms":123,"data":' + data + b"}"
    )
    assert encode_record(Record(7, 123, "run_b", b"1"), "run_a") == (
        b'{"offset":7,"time_ms":123,"source":"run_b","data":1}'
    )
    assert encode_record(Record(7, 123, None, b"1"), "run_a") == (
        b'{"offset":7,"time_ms":123,"source":null,"data":1}'
    )
    assert encode_record(Record(7, 123, source_of("run_a", 2), b"1"), "run_a") == (
        b'{"offset":7,"time_ms":123,"attempt":2,"data":1}'
    )
    assert encode_record(Record(7, 123, source_of("run_b", 10), b"1"), "run_a") == (
        b'{"offset":7,"time_ms":123,"source":"run_b","attempt":10,"data":1}'
    )


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run_a", "run_a:2", "run_b", "run_b:3", None]),
            json_values.map(json.dumps),
        ),
        min_size=1,
    )
)
def test_records_survive_the_wire(entries):
    records = [
        Record(i, 1000 + i, source, data.encode())
        for i, (source, data) in enumerate(entries)
        if "NaN" not in data and "Infinity" not in data
    ]
    encoded = [encode_record(record, "run_a") for record in records]
    frame = decode_gateway(encode_records(5, encoded, POSITION))
    assert (frame.id, frame.position) == (5, POSITION)
    assert [record.to_record("run_a") for record in frame.records] == records


@pytest.mark.parametrize(
    "frame",
    [
        protocol.Welcome(1, "c_1", 20000, protocol.LimitFields(1, 2, 3, 4)),
        protocol.Subscribed(1, POSITION),
        protocol.Subscribed(1, POSITION, {"id": "run_a"}),
        protocol.GapFrame(1, POSITION, POSITION, "trimmed"),
        protocol.Reset(1, POSITION, "tail_lost"),
        protocol.End(1, "completed", POSITION),
        protocol.Unsubscribed(1),
        protocol.Appended(1, None, POSITION, False),
        protocol.TokenAccepted(1000),
        protocol.TokenAccepted(1000, 1),
        protocol.Pong(),
        protocol.ErrorFrame("forbidden", "no", False),
        protocol.ErrorFrame("forbidden", "no", False, 1),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_gateways_frame_survives_the_wire(frame):
    assert decode_gateway(encode(frame)) == frame


def test_absent_fields_are_not_encoded():
    assert encode(protocol.Pong()) == '{"type":"pong"}'
    assert "run" not in json.loads(encode(protocol.Subscribed(1, POSITION)))
    assert "id" not in json.loads(encode(protocol.ErrorFrame("c", "m", False)))
    assert json.loads(encode(protocol.GapFrame(1, "a", "b", "trimmed"))) == {
        "type": "gap",
        "id": 1,
        "from": "a",
        "to": "b",
        "reason": "trimmed",
    }
    assert json.loads(encode(protocol.Result(1, None))) == {
        "type": "result",
        "id": 1,
        "value": None,
    }


def test_a_client_ignores_frames_and_fields_that_it_does_not_know():
    assert decode_gateway('{"type":"weather","id":1,"sun":true}') is None
    assert decode_gateway('{"type":"pong","sun":true}') == protocol.Pong()


@pytest.mark.parametrize("text", ["", "null", "{}", '{"type":"end"}', '{"type":"records","id":1}'])
def test_a_client_refuses_a_known_frame_in_another_shape(text):
    with pytest.raises(MalformedFrame):
        decode_gateway(text)

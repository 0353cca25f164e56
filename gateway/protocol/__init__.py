"""The WebSocket protocol without sockets: frames as values, and a connection's state machine.

No I/O, no clock, no asyncio. May import `model` and `auth`, and what these may import. The rest of
the code takes frames from this package: `protocol.Subscribe`, `protocol.decode`.

    authorization   the scope that a frame needs
    client_frames   frames that a client sends
    codec           text to frame, frame to text
    commands        what the state machine asks its session to do
    connection      the state machine: a frame and the time in, commands out
    credentials     the tokens that a client has presented
    encoding        records and runs as they are written in frames
    gateway_frames  frames that a gateway sends
    results         shapes of the results of requests
    subscriptions   the table of a connection's subscriptions
    timeouts        how long a connection may stay

Source:
    PROTOCOL.md, sections 4 and 5.
"""

# ruff: noqa: I001  (one import statement per name otherwise)

from gateway.protocol.client_frames import (
    PING_MS as PING_MS,
    VERSION as VERSION,
    Append as Append,
    ClientFrame as ClientFrame,
    Delete as Delete,
    FromLast as FromLast,
    FromPosition as FromPosition,
    Head as Head,
    Hello as Hello,
    Ping as Ping,
    Read as Read,
    Register as Register,
    Request as Request,
    RunCreate as RunCreate,
    RunDelete as RunDelete,
    RunGet as RunGet,
    RunList as RunList,
    RunPatch as RunPatch,
    RunSetFields as RunSetFields,
    RunsGet as RunsGet,
    Spend as Spend,
    Start as Start,
    Subscribe as Subscribe,
    Token as Token,
    Unsubscribe as Unsubscribe,
    WriterFields as WriterFields,
)
from gateway.protocol.codec import (
    check_sent as check_sent,
    decode as decode,
    decode_gateway as decode_gateway,
    encode as encode,
    id_of as id_of,
    size_of as size_of,
    start_of as start_of,
)
from gateway.protocol.encoding import (
    encode_record as encode_record,
    encode_body as encode_body,
    encode_records as encode_records,
    encode_runs as encode_runs,
    record_data as record_data,
    strip_run_record as strip_run_record,
    time_of as time_of,
    without as without,
)
from gateway.protocol.gateway_frames import (
    Appended as Appended,
    End as End,
    ErrorFrame as ErrorFrame,
    GapFrame as GapFrame,
    GatewayFrame as GatewayFrame,
    LimitFields as LimitFields,
    PageFields as PageFields,
    Pong as Pong,
    ReceivedFrame as ReceivedFrame,
    RecordsFrame as RecordsFrame,
    Reset as Reset,
    Result as Result,
    ResultFrame as ResultFrame,
    Subscribed as Subscribed,
    TokenAccepted as TokenAccepted,
    TokenExpiring as TokenExpiring,
    Unsubscribed as Unsubscribed,
    Welcome as Welcome,
)

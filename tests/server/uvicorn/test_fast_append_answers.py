"""Responses of the application to an append."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.server.uvicorn.fast_append import FastAppendProtocol
from tests.support.http.raw_appends import body, post


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written, self.is_over = b"", False

    def write(self, data):
        self.written += data

    def close(self):
        self.is_over = True

    def is_closing(self):
        return self.is_over


async def answered(*messages, fails=False):
    """Have an application answer an append; gives what is written, and whether that was the end."""

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"1"
        for message in messages:
            await send(message)
        if fails:
            raise ValueError("a fault of the application")

    config = uvicorn.Config(app, http=FastAppendProtocol, log_config=None, proxy_headers=False)
    config.load()
    protocol = FastAppendProtocol(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(post(token="x"))
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(None)
    return transport.written, transport.is_over


def start(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ([start(), body(b"ab")], b"200 OK\r\ncontent-length: 2\r\n\r\nab"),
        (
            [start(200, (b"Content-Length", b"2")), body(b"ab")],
            b"200 OK\r\nContent-Length: 2\r\n\r\nab",
        ),
        ([start(204), body()], b"204 No Content\r\n\r\n"),
        ([start(404, (b"x", b"y")), body()], b"404 Not Found\r\nx: y\r\ncontent-length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_is_written_in_one_piece(messages, written):
    assert await answered(*messages) == (b"HTTP/1.1 " + written, True)


async def test_an_answer_may_end_the_connection():
    written, is_over = await answered(start(413, (b"connection", b"close")), body())
    assert written.startswith(b"HTTP/1.1 413") and is_over


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(b"a", more_body=True)],
        [start(200, (b"x", b"a\r\nset-cookie: b")), body()],
        [start(200, (b"x\n", b"a")), body()],
        [start(200, (b"x", b"a\0")), body()],
        [start(200, (b"content-length", b"7")), body(b"ab")],
        [start(204), body(b"ab")],
        [start(), start()],
        [start()],
    ],
)
async def test_invalid_response_closes_connection_without_writing(messages, caplog):
    assert await answered(*messages) == (b"", True)
    assert caplog.records


@pytest.mark.parametrize("fails", [True, False])
async def test_an_application_that_does_not_answer_is_a_fault(fails, caplog):
    written, _ = await answered(fails=fails)
    assert written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert written.endswith(b"\r\n\r\nInternal Server Error")
    assert caplog.records


async def test_nothing_is_written_after_the_answer(caplog):
    written, is_over = await answered(start(204), body(), body())
    assert written == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert is_over and caplog.records

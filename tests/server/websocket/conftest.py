"""Fixtures of the tests over WebSockets."""

import pytest

from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol
from tests.support.gateways import (
    serving,
)


@pytest.fixture(params=[DirectWebSocketProtocol, "websockets-sansio"], ids=["direct", "plain ASGI"])
async def gateway(request):
    async with serving(protocol=request.param) as gateway:
        yield gateway

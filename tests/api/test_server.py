"""The socket that the service listens on."""

import asyncio
import socket

from service.server import bind
from service.settings import Settings


async def test_what_is_written_leaves_at_once():
    accepted = asyncio.get_running_loop().create_future()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport.get_extra_info("socket"))

    listener = bind(Settings(host="127.0.0.1").model_copy(update={"port": 0}))
    port = listener.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(Connection, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        connection = await accepted
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        writer.close()

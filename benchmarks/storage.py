"""The least that answers the floor's requests: a loopback server that knows one GET and one PUT."""

from __future__ import annotations

import asyncio
import socket

from .exchanges import ANSWERS


class Storage(asyncio.Protocol):
    """Answers each request that has come whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        self._heard += data
        answer = ANSWERS.get(self._heard)
        if answer is not None:
            self._heard = b""
            self._transport.write(answer)


def serve(listener: socket.socket) -> None:
    """Serve until the process is killed."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Storage, sock=listener)
        await server.serve_forever()

    asyncio.run(forever())

"""The least that a fresh process per chunk costs here: fork, connect, GET, PUT, exit, two at a time, and nothing else.

Run as a program it reads a number of chunks from a line of standard input, runs them and answers with a line.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys

_WIDTH = 2
_BODY = b"x" * 400
_GET = b"GET /in HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=0-399\r\n\r\n"
_PUT = b"PUT /out HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: *\r\nContent-Length: 400\r\n\r\n" + _BODY
_FOUND = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 400\r\n\r\n" + _BODY
_CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


class Storage(asyncio.Protocol):
    """Answers each request that has come whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        self._heard += data
        for request, answer in ((_GET, _FOUND), (_PUT, _CREATED)):
            if self._heard == request:
                self._heard = b""
                self._transport.write(answer)


def one_chunk(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request, answer in ((_GET, _FOUND), (_PUT, _CREATED)):
            connection.sendall(request)
            left = len(answer)
            while left:
                received = len(connection.recv(left))
                if not received:
                    raise ConnectionError("the floor's server hung up")
                left -= received


def run_chunks(count: int, port: int) -> None:
    """`count` children, two at a time. Raises RuntimeError when one failed."""
    started = ended = 0
    while ended < count:
        while started < count and started - ended < _WIDTH:
            if os.fork() == 0:
                code = 1
                try:
                    one_chunk(port)
                    code = 0
                finally:
                    os._exit(code)
            started += 1
        _, status = os.wait()
        if status:
            raise RuntimeError(f"a child of the floor ended with status {status}")
        ended += 1


async def serve(listener: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(Storage, sock=listener)
    await server.serve_forever()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    storage = os.fork()
    if storage == 0:
        asyncio.run(serve(listener))
    listener.close()
    gc.freeze()
    try:
        for line in sys.stdin:
            # The storage process is a child too: `os.wait` in `run_chunks` meets it only if it died.
            run_chunks(int(line), port)
            print("done", flush=True)
    finally:
        os.kill(storage, signal.SIGKILL)
        os.waitpid(storage, 0)


if __name__ == "__main__":
    main()

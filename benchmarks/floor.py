"""The least that a fresh process per chunk costs here: fork, connect, GET, PUT, exit, two at a time, and nothing else.

Run as a program it reads a number of chunks from a line of standard input, runs them and answers with a line.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from .exchanges import ANSWERS

_WIDTH = 2


def one_chunk(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request, answer in ANSWERS.items():
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


def start_storage(listener: socket.socket) -> int:
    """Fork the server. What it needs is imported there: the fewer pages here, the cheaper each fork."""
    pid = os.fork()
    if pid == 0:
        from . import storage

        storage.serve(listener)
    return pid


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    server = start_storage(listener)
    listener.close()
    gc.freeze()
    try:
        for line in sys.stdin:
            # The server is a child too, but `os.wait` in `run_chunks` meets it only if it died.
            run_chunks(int(line), port)
            print("done", flush=True)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


if __name__ == "__main__":
    main()

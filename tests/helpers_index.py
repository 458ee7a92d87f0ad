"""A package index on the loopback interface that wants a password and sees what goes on while it is asked."""

from __future__ import annotations

import base64
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER, PASSWORD = "packager", f"only-for-installers-{os.getpid()}"  # other tests' processes are seen as well
_LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Index:
    """`looked_up`: packages that were asked for; `asked`: files that were sent; `arguments_seen`: command lines that
    held the password while the index was asked. While `hold` is set, files are not sent, and `held` tells that one was
    asked for."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.address = f"http://127.0.0.1:{port}/simple"
        self.asked: list[str] = []
        self.arguments_seen: list[str] = []
        self.looked_up: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.held = threading.Event()

    def hold(self) -> None:
        self.held.clear()
        self.go.clear()

    @property
    def options(self) -> list[str]:
        """What has an installer look here and nowhere else."""
        return ["--index-url", self.address.replace("://", f"://{USER}:{PASSWORD}@")]

    def page(self, path: str, method: str) -> bytes | None:
        if path.startswith("/simple/"):
            name = path.split("/")[2].replace("-", "_")
            self.looked_up.append(name)
            files = sorted(file.name for file in self.folder.glob(f"{name}-*"))
            links = "".join(f'<a href="/files/{file}">{file}</a>\n' for file in files)
            return f"<!DOCTYPE html><html><body>{links}</body></html>".encode() if files else None
        name = path.rpartition("/")[2]
        if method == "GET":
            self.held.set()
            self.go.wait()
            self.asked.append(name)
        return (self.folder / name).read_bytes()

    def look_around(self) -> None:
        for entry in os.listdir("/proc"):
            try:
                words = Path("/proc", entry, "cmdline").read_text(errors="replace") if entry.isdigit() else ""
            except OSError:
                continue  # it has just ended
            if PASSWORD in words:
                self.arguments_seen.append(words)


@contextmanager
def index(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[Index]:
    """An index of the files in `folder`, in the block; with `tls`, by HTTPS at localhost."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # uv asks so first
            self.do_GET()

        def do_GET(self) -> None:
            own.look_around()
            login = self.headers.get("Authorization")
            body = own.page(self.path, self.command) if login == _LOGIN else None
            self.send_response(200 if body is not None else 404 if login == _LOGIN else 401)
            if login != _LOGIN:
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Type", "text/html" if self.path.startswith("/simple") else "application/zip")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            try:
                self.wfile.write((body or b"") if self.command == "GET" else b"")
            except ConnectionError:
                pass  # who asked was killed

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    own = Index(folder, server.server_address[1])
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        own.address = own.address.replace("http://127.0.0.1", "https://localhost")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield own
    finally:
        own.go.set()
        server.shutdown()
        thread.join()
        server.server_close()

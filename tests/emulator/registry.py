"""A registry of container images on loopback, with one small image, for who knows the password."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from helpers_http import serving

_DOCKER = "application/vnd.docker."


def _image(files: Mapping[str, bytes]) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an image with these files, and its parts by their digests."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    rootfs = {"type": "layers", "diff_ids": [_digest(layer.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    packed = gzip.compress(layer.getvalue())

    def described(kind: str, content: bytes) -> dict[str, Any]:
        return {"mediaType": _DOCKER + kind, "size": len(content), "digest": _digest(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_DOCKER}distribution.manifest.v2+json",
        "config": described("container.image.v1+json", config),
        "layers": [described("image.rootfs.diff.tar.gzip", packed)],
    }
    return json.dumps(manifest).encode(), {_digest(part): part for part in (config, packed)}


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@contextmanager
def registry(*, user: str, password: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Its address, and the full name of its image."""
    manifest, parts = _image(files)
    key = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _, _, rest = self.path.partition("/v2/")
            if self.headers.get("Authorization") != key:
                self._answer(401, b"", {"WWW-Authenticate": 'Basic realm="registry"'})
            elif not rest:
                self._answer(200, b"{}")
            elif rest == "small/manifests/1":
                self._answer(200, manifest, {"Content-Type": f"{_DOCKER}distribution.manifest.v2+json"})
            elif (digest := rest.rpartition("/")[2]) in parts:
                self._answer(200, parts[digest])
            else:
                self._answer(404, b"")

        def _answer(self, status: int, content: bytes, headers: Mapping[str, str] = {}) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as url:
        address = url.partition("//")[2]
        yield address, f"{address}/small:1"

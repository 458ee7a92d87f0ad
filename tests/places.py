"""Where the executor's own suite can run: `pytest tests/conformance --place NAME`.

A place is an account that the environment leads to, on a service that runs as one does for other people. At `here`, the
default, nothing is configured: the executor brings its own service.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import helpers_containers

from batchexec.testing import local_azure

VARIABLES = {
    "BATCHEXEC_PYTHON": sys.executable,
    "BATCHEXEC_REQUIREMENTS": "none",  # it has all that the suite uses, or shares it
    "BATCHEXEC_POOL_ID": "place",
    "BATCHEXEC_ECHO": "true",
}


class Place:
    """`environment` leads to the account. `disturb` does what the place is there for, while tests run."""

    def __init__(self, environment: dict[str, str], disturb: Callable[[], None] | None = None) -> None:
        self.environment = environment
        self.disturb = disturb
        self.disturbed = 0  # times


@contextmanager
def _service(*options: str, key: bool = True) -> Iterator[Place]:
    """`key`: whether the client has the account's keys, or a token."""
    with local_azure(*options) as azure:
        found = azure.environment
        if not key:
            for name in ("AZURE_BATCH_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING"):
                del found[name]
            found["BATCHEXEC_STORAGE_ACCOUNT"] = azure.ready["storage_account"]
            found["BATCHEXEC_BLOB_ENDPOINT"] = azure.ready["blob_endpoint"]
        yield Place(found | VARIABLES)


@contextmanager
def _containers() -> Iterator[Place]:
    helpers_containers.need_containers()
    with _service(*helpers_containers.OPTIONS, *(f"--container-option={option}" for option in _shared())) as place:
        place.environment["BATCHEXEC_IMAGE"] = helpers_containers.IMAGE
        place.environment["BATCHEXEC_PYTHON"] = "/usr/bin/python3"
        yield place


def _shared() -> Iterator[str]:
    """What the suite and its calls have in common on one machine: temporary files, process ids, numpy."""
    import numpy  # for this place alone

    yield f"--volume={tempfile.gettempdir()}:{tempfile.gettempdir()}"
    yield "--pid=host"
    for path in Path(numpy.__file__).parents[1].glob("numpy*"):
        yield f"--volume={path}:/usr/local/lib/python3.11/dist-packages/{path.name}:ro"


@contextmanager
def _restarted() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as directory, local_azure("--data-dir", f"{directory}/data") as azure:

        def restart() -> None:
            azure.kill()
            azure.start()

        yield Place(azure.environment | VARIABLES, restart)


PLACES: dict[str, Callable[[], AbstractContextManager[Place]]] = {
    "processes": _service,
    "containers": _containers,
    "restarted": _restarted,
    "tokens": lambda: _service("--tls", key=False),
    "latency": lambda: _service("--latency", "azure:0.01"),
}

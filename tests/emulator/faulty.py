"""A running emulator whose faults are armed by the control route."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.rest import HttpRequest
from batch_service import Service, emulator


class Faulty(Service):
    """A service with its control route."""

    def control(self, method: str, path: str = "faults", body: object = None) -> Any:
        query = {"api-version": "2025-06-01"}
        request = HttpRequest(method, f"/emulator/{path}", params=query, json=body)
        response = self.client.send_request(request)
        response.raise_for_status()
        return response.json() if response.content else None

    def arm(self, *faults: dict[str, Any]) -> None:
        self.control("POST", body=list(faults))

    def armed(self) -> list[dict[str, Any]]:
        return self.control("GET")["value"]

    def disarm(self) -> None:
        self.control("DELETE")

    def fired(self) -> list[int]:
        """How often each has fired; they are gone then."""
        found = [fault["fired"] for fault in self.armed()]
        self.disarm()
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with emulator(tmp_path_factory.mktemp("emulator")) as (service, process), unrepeating(service) as faulty:
        yield faulty
    assert process.returncode == 0


@contextmanager
def unrepeating(service: Service) -> Iterator[Faulty]:
    """The same service seen through a client that repeats nothing by itself."""
    credential = AzureNamedKeyCredential(service.info["account"], service.info["batch_key"])
    with BatchClient(service.info["batch_endpoint"], credential, retry_total=0) as client:
        yield Faulty(client, service.info, service.root)


@pytest.fixture
def service(running: Faulty) -> Iterator[Faulty]:
    running.disarm()
    yield running
    running.disarm()

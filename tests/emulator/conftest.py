"""The Blob services that tests of storage run on: the embedded one and, in the slow tests, Azurite as well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import azurite as azurite_process
import pytest
from azure.storage.blob import ContainerClient
from blob_servers import Azurite, BlobServer, Embedded
from blob_wire import ACCOUNT, KEY


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "azurite_departs(why): what the test says holds for the service but not for Azurite"
    )


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    if why := azurite_process.missing():
        # Where all checks must run, none is skipped unseen.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with azurite_process.azurite(ACCOUNT, KEY, tmp_path_factory.mktemp("azurite")) as port:
        yield Azurite(port)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    service = Embedded(tmp_path_factory.mktemp("blobs") / "data")
    yield service
    service.stop()


@pytest.fixture
def ours(embedded: Embedded) -> Iterator[Embedded]:
    """The embedded service; its clock is right again afterwards."""
    yield embedded
    embedded.skew = timedelta(0)


@pytest.fixture(params=["embedded", pytest.param("azurite", marks=pytest.mark.slow)])
def blobs(request: pytest.FixtureRequest) -> BlobServer:
    """Each of the services in turn. A test that Azurite is known to fail must fail there."""
    departs = request.node.get_closest_marker("azurite_departs")
    if departs and request.param == "azurite":
        request.applymarker(pytest.mark.xfail(reason=departs.args[0], strict=True))
    server: BlobServer = request.getfixturevalue(request.param)
    return server


def _box(server: BlobServer) -> Iterator[ContainerClient]:
    with server.client() as client:
        container = client.create_container("box")
        yield container
        container.delete_container()


@pytest.fixture
def box(blobs: BlobServer) -> Iterator[ContainerClient]:
    """The container `box`, empty, as the account's owner."""
    yield from _box(blobs)


@pytest.fixture
def our_box(ours: Embedded) -> Iterator[ContainerClient]:
    """The same in the embedded service alone."""
    yield from _box(ours)

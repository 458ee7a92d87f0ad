"""What every test starts from: an environment that names no account, or the one of `--place`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from places import PLACES, Place

_ACCOUNT = ("AZURE_", "BATCH_", "BATCHEXEC_", "STORAGE_")

# In the background of a shell, Ctrl-C is ignored by it and by what it starts: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure of what is tested.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--place", choices=["here", *PLACES], default="here", help="where executors run (tests/places.py)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "here: about executors that bring their own service; skipped in other places")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--place") != "here":
        for item in items:
            if item.get_closest_marker("here"):
                item.add_marker(pytest.mark.skip(reason="about executors that bring their own service"))
        return
    # For `--dist loadgroup`: files stay together. Whole suites in one test take longest: each by itself, and first.
    items.sort(key=_is_suite, reverse=True)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.name if _is_suite(item) else item.path.name))


def _is_suite(item: pytest.Item) -> bool:
    return item.path.name == "test_places.py"


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where executors run: an account of `tests/places.py`, or none at all."""
    name = request.config.getoption("--place")
    if name == "here":
        yield Place({})
        return
    with PLACES[name]() as found:
        yield found
        print(f"{name}: disturbed {found.disturbed} times")


@pytest.fixture(scope="session", autouse=True)
def account(place: Place) -> Iterator[None]:
    """Nobody's own account settings reach a test, or what it starts; nor a fixture that is shared by several tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_ACCOUNT):
                patch.delenv(name)
        for name, value in place.environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a module's service; in it are those of its nodes."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(autouse=True)
def disturbed(request: pytest.FixtureRequest, place: Place) -> Iterator[None]:
    """In some places something happens while every tenth test runs."""
    items = request.session.items
    if not place.disturb or items.index(request.node) % 10 != 5:
        yield
        return
    disturbing = threading.Thread(target=place.disturb)
    disturbing.start()
    yield
    disturbing.join()
    place.disturbed += 1

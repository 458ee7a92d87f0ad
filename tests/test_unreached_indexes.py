"""Indexes that cannot be asked: real installers say why, and what they say is told from a wrong requirement (slow)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from helpers_http import serving
from helpers_index import PASSWORD, Index, index
from helpers_packages import make_wheels, use_made
from helpers_service import service
from helpers_venv import Interpreter

from batchexec import BatchExecutor
from batchexec._worker.packages import installer
from batchexec._worker.packages.install_failures import InstallError
from batchexec._worker.packages.pip_settings import PipSettings
from batchexec._worker.packages.runs import Work
from batchexec.emulator.identity.tls import Certificates, certificates
from batchexec.errors import RequirementsError

pytestmark = pytest.mark.slow
UV = Path(__file__).parents[1] / ".venvs" / "uv" / "bin"


class Installer:
    """uv or pip, in an interpreter that has nothing."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._own = ["--retries", "0"] if name == "pip" else []  # which uv does not know, and pip says least with

    def installs(self, *options: str, line: str = "first", proxy: str | None = None, ca: str | None = None) -> None:
        """Raises InstallError."""
        directory, scratch = self._folder / "environment", self._folder / "scratch"
        for path in (directory, scratch):
            path.mkdir()
        settings = PipSettings({"options": [*self._own, *options], "proxy": proxy}, ca)
        work = Work([line], [], {}, None, settings, str(self._folder / "cache"), str(scratch))
        installer.install(work, str(directory), lambda text: None)

    def fails(self, *options: str, **more: Any) -> str:
        """Its kind and reason."""
        with pytest.raises(InstallError) as caught:
            self.installs(*options, **more)
        assert caught.value.installer == self.name
        assert PASSWORD not in str(caught.value)
        return f"{caught.value.kind} {caught.value.reason}"


@pytest.fixture(params=["pip", "uv"])
def by(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    if request.param == "uv":
        if not (UV / "uv").exists():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("uv is missing: `make tools` installs it")
        monkeypatch.setenv("PATH", f"{UV}{os.pathsep}{os.environ['PATH']}")
    for name in [*os.environ]:
        if name.upper().startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    return Installer(request.param, tmp_path)


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_wheels(tmp_path_factory.mktemp("links")))


@pytest.fixture
def packages(links: Path) -> Iterator[Index]:
    with index(links) as running:
        yield running


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where no one listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """Answers a request for /CODE/... with that status, and those to a proxy with 407."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.split("/")[1]) if self.path.startswith("/") else 407)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_CONNECT = do_GET

        def parse_request(self) -> bool:
            parsed = super().parse_request()
            if self.command == "CONNECT":
                self.path = "proxy"
            return parsed

    with serving(Refusing) as address:
        yield address


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("authority"), ["localhost"])


def test_a_wrong_requirement(by: Installer, packages: Index) -> None:
    assert by.fails(*packages.options, line="nosuch==1") == "resolution unknown"


def test_nobody_listens(by: Installer, packages: Index, nobody: str) -> None:
    assert by.fails("--extra-index-url", f"{nobody}/simple", *packages.options, line="first==8") == "network connection"


def test_a_login_is_wanted(by: Installer, packages: Index) -> None:
    assert by.fails("--index-url", packages.address) == "network login"


def test_an_index_says_no(by: Installer, refusing: str) -> None:
    assert by.fails("--index-url", f"{refusing}/403/simple") == "network login"


def test_an_index_says_no_of_what_it_does_not_have(by: Installer, refusing: str, packages: Index) -> None:
    also = ["--extra-index-url", f"{refusing}/403/simple"]
    assert by.fails(*packages.options, *also, line="nosuch==1") == "resolution unknown"


def test_an_index_is_broken(by: Installer, refusing: str) -> None:
    assert by.fails("--index-url", f"{refusing}/503/simple") == "network busy"


def test_an_authority_that_nobody_knows(by: Installer, links: Path, authority: Certificates) -> None:
    with index(links, authority.server_context()) as packages:
        assert by.fails(*packages.options) == "network tls"


def test_an_authority_that_was_given(by: Installer, links: Path, authority: Certificates) -> None:
    with index(links, authority.server_context()) as packages:
        by.installs(*packages.options, ca=authority.authority.read_text())
        assert "first-1.0-py3-none-any.whl" in packages.asked


def test_a_proxy_that_is_not_there(by: Installer, nobody: str) -> None:
    assert by.fails("--index-url", "https://index.invalid/simple", proxy=nobody) == "network proxy"


def test_a_proxy_that_refuses(by: Installer, refusing: str) -> None:
    assert by.fails("--index-url", "https://index.invalid/simple", proxy=refusing) == "network proxy"


@pytest.mark.parametrize("by", ["pip"], indirect=True)
def test_a_host_that_is_not_asked_in_plain_text(by: Installer) -> None:
    assert by.fails("--index-url", "http://index.invalid/simple") == "network plain"


def test_the_client_is_told_what_to_do(tmp_path: Path, packages: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"max_workers": 1, "python": Interpreter(tmp_path / "bare").python, "echo": False, "progress": False}
    own |= {
        "pip_options": ["--index-url", packages.address],
        "requirements": ["first"],
        "env": {"PATH": "/usr/bin:/bin"},
    }
    with service() as account, BatchExecutor(**{**account.settings, **own}) as executor:
        error = executor.submit(use_made, 1).exception(120)
    assert isinstance(error, RequirementsError)
    assert error.kind == "network"
    assert "401 Client Error: Unauthorized for url" in str(error)
    assert "https://user:token@host/simple" in str(error)

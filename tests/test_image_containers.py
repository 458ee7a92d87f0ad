"""Images in real containers: the generic one, its build, a registry with a password, users that no image knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator.registry import registry
from helpers_containers import COMMAND, IMAGE, WORKER_IMAGE, container_service, for_tests, need_containers, on, podman
from helpers_resources import fitted, gpus_beside, whoami
from helpers_work import double

from batchexec import BatchExecutor, errors
from batchexec._cli import main

pytestmark = [*for_tests, pytest.mark.timeout(1200)]  # images are built, packages installed


@pytest.fixture(autouse=True)
def _needed() -> None:
    need_containers(WORKER_IMAGE)


@pytest.fixture
def anybody_may_write() -> Iterator[None]:
    """A node's directories belong to the user that its containers run as; here they are open to any."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("image", [IMAGE, WORKER_IMAGE])
def test_tasks_run_as_a_user_that_the_image_does_not_know(image: str, anybody_may_write: None, tmp_path: Path) -> None:
    user = "--container-option=--user=12345:12345"
    with container_service(tmp_path / "root", user) as account:
        with BatchExecutor(**account.settings | on(image)) as executor:
            for future in [executor.submit(whoami, number) for number in range(3)]:
                assert future.result(200) == (12345, True, "kept at home")
            if image == WORKER_IMAGE:
                assert executor.submit(fitted).result(200) == pytest.approx([1.0, 2.0, 3.0])


def test_gpus_are_shared_out_between_containers(tmp_path: Path) -> None:
    (together := tmp_path / "together").mkdir()
    size = {"vm_size": "Standard_NC48ads_A100_v4", "slots": 2}
    mount = f"--container-option=--volume={together}:{together}"
    with container_service(tmp_path / "root", mount) as account:
        with BatchExecutor(**account.settings | on(IMAGE, **size)) as executor:
            futures = [executor.submit(gpus_beside, str(together), str(number), 2) for number in range(2)]
            assert sorted(future.result(200) for future in futures) == ["0", "1"]


def test_a_private_registry_opens_by_the_password_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image holds no Python: where it was fetched, that is what is missing."""
    with registry(user="me", password="pass: word", files={"/bin/nothing": b""}) as (server, image):
        config = tmp_path / "registries.conf"
        config.write_text(f'[[registry]]\nlocation = "{server}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(config))
        said = {}
        with container_service(tmp_path / "root") as account:
            for name, password in (("wrong", "wrong"), ("right", "pass: word\n")):
                file = tmp_path / name
                file.write_text(password)
                login = {"registry_user": "me", "registry_password_file": str(file), "pool_id": name}
                with BatchExecutor(**account.settings | on(image), **login, retries=0) as executor:
                    said[name] = executor.submit(double, 1).exception(200)
    try:
        assert isinstance(said["right"], errors.TaskError), said["right"]
        assert "python3" in str(said["right"])
        assert isinstance(said["wrong"], errors.NodeError), said["wrong"]
        assert "ContainerInvalidImage" in str(said["wrong"])
        assert "pass: word" not in f"{said}"
    finally:
        subprocess.run([*COMMAND.split(), "rmi", "--force", image], capture_output=True)


@pytest.mark.parametrize(
    ("tool", "options"),
    [(COMMAND, ["--network", "host"]), ("buildah", ["--isolation", "chroot", "--network", "host"])],
)
def test_the_generic_image_is_built_by_what_is_there(tool: str, options: list[str], capfd: Any) -> None:
    """On one that has its packages already: nothing is fetched, but the smoke test runs."""
    if shutil.which(tool.split()[0]) is None:
        pytest.skip(f"there is no {tool} here")
    tag = f"localhost/batchexec-test-{os.getpid()}:1"
    try:
        done = main(["image", "build", "--tool", tool, "--tag", tag, "--base", WORKER_IMAGE, "--", *options])
        said = capfd.readouterr()
        assert done == 0, said.err
        assert said.out == f'image = "{tag}"\n'
        assert "smoke test passed: Python 3.11" in said.err
        assert podman("image", "inspect", "--format", "{{.Config.Cmd}} {{.Config.Entrypoint}}", tag) == "[python3] []"
    finally:
        subprocess.run([*COMMAND.split(), "rmi", "--force", tag], capture_output=True)


def test_a_build_that_fails_is_a_failure(tmp_path: Path, capfd: Any) -> None:
    unsatisfiable = ["--base", IMAGE, "--build-arg", f"PIP_INDEX_URL=file://{tmp_path}"]
    tag = f"localhost/batchexec-test-{os.getpid()}:2"
    assert (
        main(
            [
                "image",
                "build",
                "--tool",
                COMMAND,
                "--tag",
                tag,
                *unsatisfiable,
                "--",
                "--network",
                "host",
                "--layers=false",
            ]
        )
        == 1
    )
    assert "BatchExecError: podman failed with exit code 1" in capfd.readouterr().err


def test_an_installed_package_has_what_the_image_is_made_of(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    for name in ("batchexec", "worker_image", "Dockerfile", "LICENSE", "README.md", "pyproject.toml"):
        source = root / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    # An environment of its own: pip takes an installed batchexec away from the one that it is called in.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", tmp_path], check=True)
    code = "from batchexec._cli.image import _recipe; print(*_recipe())"
    found = subprocess.run([python, "-I", "-c", code], cwd="/", check=True, capture_output=True, text=True)
    dockerfile, sources = map(Path, found.stdout.split())
    assert dockerfile.is_relative_to(tmp_path / "venv")
    assert dockerfile.read_text() == (root / "Dockerfile").read_text()
    assert sorted(file.name for file in sources.iterdir() if file.is_file()) == ["requirements.txt", "smoke_test.py"]

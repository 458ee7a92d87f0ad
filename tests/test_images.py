"""image=, the registry that it comes from, start_command=, and the command that builds the generic worker image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_resources import read
from helpers_service import Account, service

from batchexec import BatchConfig, BatchExecutor, errors
from batchexec._cli import main
from batchexec._engine.pools import images, pool

IDENTITY = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/puller"
PASSWORD = "not-to-be-seen"
MACHINE = {"where": "azure", "batch_account": "name", "batch_endpoint": "https://name.region.batch.azure.com"}
AZURE = {**MACHINE, "storage_account": "store"}


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as running:
        yield running


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return str(file)


def registries(**settings: Any) -> list[dict[str, Any]]:
    machine = pool.azure_pool(BatchConfig(**AZURE, **settings), 1)["virtualMachineConfiguration"]
    found: list[dict[str, Any]] = machine["containerConfiguration"].get("containerRegistries", [])
    return found


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ({}, images.default_image()),
        ({"image": "team/worker:1"}, "team/worker:1"),
        ({"image": "team/worker:1", "registry": "docker.io"}, "team/worker:1"),
        ({"image": "team/worker:1", "registry": "my.azurecr.io"}, "my.azurecr.io/team/worker:1"),
        ({"image": "my.azurecr.io/worker", "registry": "my.azurecr.io"}, "my.azurecr.io/worker"),
        ({"image": "localhost:5000/worker"}, "localhost:5000/worker"),
    ],
)
def test_the_image_is_fetched_by_its_full_name_when_the_pool_is_made(settings: dict[str, Any], image: str) -> None:
    body = pool.azure_pool(BatchConfig(**settings), 1)
    assert body["virtualMachineConfiguration"]["containerConfiguration"]["containerImageNames"] == [image]


def test_nodes_log_in_by_password_or_identity(password: str) -> None:
    login = {"registry_user": "me", "registry_password_file": password}
    assert registries(image="my.azurecr.io/w", **login) == [
        {"registryServer": "my.azurecr.io", "username": "me", "password": PASSWORD}
    ]
    assert registries(image="team/w", **login) == [{"username": "me", "password": PASSWORD}], "Docker Hub by default"
    assert registries(registry="my.azurecr.io", registry_identity=IDENTITY) == [
        {"registryServer": "my.azurecr.io", "identityReference": {"resourceId": IDENTITY}}
    ]
    assert registries() == []


def test_the_password_is_in_no_configuration_and_no_text(password: str) -> None:
    config = BatchConfig(**AZURE, registry_user="me", registry_password_file=password)
    shown = repr(config) + str(config.describe()) + repr(pool.azure_pool(config, 1)) + pool.pool_id(config)
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"registry_user": "me"}, "registry_user: needs registry_password_file"),
        ({"registry_password_file": "x"}, "registry_password_file: needs registry_user"),
        ({"registry_user": "me", "registry_password_file": "no/such"}, "there is no file no/such"),
        ({"registry_user": "me", "registry_password_file": os.devnull}, "there is no file /dev/null"),
        ({"registry_user": "me", "registry_password_file": "EMPTY"}, "is empty"),
        ({"registry_user": "me", "registry_identity": IDENTITY}, "not both"),
        ({"image": "a.azurecr.io/w", "registry": "b.azurecr.io"}, "comes from a.azurecr.io, got 'b.azurecr.io'"),
    ],
)
def test_a_half_given_registry_is_refused(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    given = {name: value.replace("EMPTY", f"{tmp_path}/empty") for name, value in settings.items()}
    with pytest.raises(errors.ConfigError, match=text):
        BatchConfig(**AZURE, **given)


def test_a_password_that_goes_before_the_pool_is_made_is_said(account: Account, password: str) -> None:
    with BatchExecutor(**account.settings, registry_user="me", registry_password_file=password) as executor:
        Path(password).unlink()
        error = executor.submit(len, "").exception()
    assert isinstance(error, errors.ConfigError)
    assert "registry_password_file" in str(error)
    assert not account.left()


def test_here_no_registry_is_asked(tmp_path: Path) -> None:
    login = {"registry_user": "me", "registry_password_file": str(tmp_path / "not-on-this-machine")}
    assert BatchConfig(where="local", **login).registry_user == "me"


def test_pools_with_other_logins_or_start_commands_are_others(password: str) -> None:
    login = {"registry_user": "me", "registry_password_file": password}
    several = [{}, login, {"registry_identity": IDENTITY}, {"registry": "my.azurecr.io"}, {"start_command": "true"}]
    assert len({pool.pool_id(BatchConfig(**AZURE, **settings)) for settings in several}) == len(several)


@pytest.mark.parametrize("where", ["local", "azure"])
def test_a_start_command_is_run_on_each_node_before_any_task(where: str, account: Account, tmp_path: Path) -> None:
    file = tmp_path / "made by root; once"
    command = f"umask 077 && echo 'with a shell' > '{file}' && id -u >> '{file}'"
    settings = account.settings if where == "azure" else {"where": "local"}
    with BatchExecutor(**settings, start_command=command, max_nodes=1) as executor:
        assert executor.submit(read, str(file)).result() == f"with a shell\n{os.getuid()}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_start_command_that_fails_is_an_error_with_its_words() -> None:
    command = "echo 'E: Unable to locate package gdal' >&2; exit 100"
    with BatchExecutor(where="local", start_command=command) as executor:
        error = executor.submit(len, "").exception(60)
    assert isinstance(error, errors.NodeError)
    assert "its start task failed (exit code 100)" in str(error)
    assert "E: Unable to locate package gdal" in str(error)


def test_the_service_is_asked_to_run_it_as_root_and_to_wait_for_it() -> None:
    task = pool.azure_pool(BatchConfig(**AZURE, start_command="apt-get install -y gdal-bin"), 1)["startTask"]
    assert task["commandLine"] == "/bin/sh -c 'apt-get install -y gdal-bin'"
    assert task["userIdentity"]["autoUser"] == {"scope": "pool", "elevationLevel": "admin"}
    assert task["waitForSuccess"] is True
    assert task["maxTaskRetryCount"] == 1


def test_a_pool_without_this_start_command_is_used_with_a_warning() -> None:
    config = BatchConfig(**AZURE, start_command="true")
    body = {**pool.azure_pool(config, 1), "state": "active"}
    assert pool.differences(body, config) == []
    (found,) = pool.differences(body, BatchConfig(**AZURE, start_command="false"))
    assert "made without this start_command" in found


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tool", "kaniko"], "expected docker, podman, buildah, got 'kaniko'"),
        (["--tool", "/nowhere/buildah"], "there is no /nowhere/buildah here: `apt install buildah`"),
        (["--tag", "worker", "--push"], "'worker' names no registry"),
        (
            ["--ca", "/nowhere/ca.pem", "--tool", "cat/docker"],
            "there is no cat/docker here: see https://docs.docker.com",
        ),
    ],
)
def test_what_cannot_build_an_image_is_said(arguments: list[str], text: str, capsys: Any) -> None:
    assert main(["image", "build", *arguments]) == 1
    assert text in capsys.readouterr().err


def test_without_any_tool_it_says_what_to_install(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["image", "build"]) == 1
    assert "nothing here builds images: install docker" in capsys.readouterr().err

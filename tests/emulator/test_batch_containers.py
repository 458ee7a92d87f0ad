"""Tasks that ask for containers, on a service without a container runtime: they run as processes of the node."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import IMAGE, Service, emulator, refused, service

from batchexec.emulator.node.container_secrets import full_name
from batchexec.emulator.node.containers import argv, create_options

__all__ = ["service"]

IMAGE_NAME = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
PRINT = "-c 'import sys; print(sys.executable, *sys.argv[1:])' 'two words'"


def container(options: str | None = None) -> models.BatchTaskContainerSettings:
    return models.BatchTaskContainerSettings(image_name=IMAGE_NAME, container_run_options=options)


def container_pool(service: Service, id: str = "", **more: Any) -> str:
    machines = models.VirtualMachineConfiguration(
        image_reference=IMAGE.image_reference,
        node_agent_sku_id=IMAGE.node_agent_sku_id,
        container_configuration=models.BatchContainerConfiguration(
            type="dockerCompatible", container_image_names=[IMAGE_NAME]
        ),
    )
    return service.pool(id=id, virtual_machine_configuration=machines, **more)


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return container_pool(service)


@pytest.fixture(scope="module")
def plain_pool(service: Service) -> str:
    return service.pool()


# What runs


@pytest.mark.parametrize(
    ("options", "line", "expected"),
    [
        ("--entrypoint python3", "-c 'a b'", ["python3", "-c", "a b"]),
        ("--rm --entrypoint=python3 --ipc host", "x", ["python3", "x"]),
        ("--entrypoint 'my program' --entrypoint last", "", ["last"]),
        ("--entrypoint ''", "echo x", ["echo", "x"]),
        ("--rm", "echo x", ["echo", "x"]),
        (None, "echo x", ["echo", "x"]),
    ],
)
def test_the_command_line_follows_the_entry_point(options: str | None, line: str, expected: list[str]) -> None:
    settings = {"imageName": "i"} if options is None else {"imageName": "i", "containerRunOptions": options}
    assert argv({"commandLine": line, "containerSettings": settings}) == expected


def test_a_container_task_runs_its_entry_point(service: Service, pool: str) -> None:
    job = service.job(pool)
    task = service.run(job, PRINT, container_settings=container("--rm --entrypoint python3"))
    assert task.execution_info.exit_code == 0
    assert service.output(job) == f"{sys.executable} two words\n", "python3 is the interpreter of the service"
    info = task.execution_info.container_info
    assert (len(info.container_id), info.state) == (64, "exited")
    assert task.container_settings.image_name == IMAGE_NAME


def test_each_attempt_has_a_container_of_its_own(service: Service, pool: str) -> None:
    job = service.job(pool)
    once = models.BatchTaskConstraints(max_task_retry_count=1)
    line = "-c '[ -e again ] && exit 3; until [ -e go ]; do sleep 0.01; done; touch again; exit 3'"
    service.task(job, line, container_settings=container("--entrypoint /bin/sh"), constraints=once)
    task = service.until(
        lambda: service.client.get_task(job, "t"), lambda task: task.execution_info.container_info is not None
    )
    first = task.execution_info.container_info
    assert first.state == "running"
    (service.node_root(job) / task.node_info.task_root_directory / "wd" / "go").touch()
    execution = service.completed(job).execution_info
    assert (execution.exit_code, execution.retry_count, execution.container_info.state) == (3, 1, "exited")
    assert execution.container_info.container_id != first.container_id


def test_a_task_without_container_shows_none(service: Service, plain_pool: str) -> None:
    assert service.run(service.job(plain_pool), "true").execution_info.container_info is None


def test_a_container_needs_no_command_line_but_something_to_run(service: Service, pool: str) -> None:
    job = service.job(pool)
    assert service.run(job, "", "env", container_settings=container("--entrypoint env")).execution_info.exit_code == 0
    assert f"AZ_BATCH_JOB_ID={job}\n" in service.output(job, "env")
    failure = service.run(job, "", "image", container_settings=container()).execution_info.failure_info
    assert (failure.category, failure.code) == ("usererror", "ContainerInvalidSettings")


@pytest.mark.parametrize("setting", ["preparation", "start"])
def test_preparation_and_start_tasks_may_use_containers_or_the_host(service: Service, pool: str, setting: str) -> None:
    inside = {"command_line": "-c 'echo inside > $AZ_BATCH_NODE_SHARED_DIR/x'"}
    inside |= {"container_settings": container("--entrypoint /bin/sh")}
    outside = {"command_line": "/bin/sh -c 'echo outside > $AZ_BATCH_NODE_SHARED_DIR/x'"}
    for options, said in ((inside, "inside\n"), (outside, "outside\n")):
        if setting == "start":
            job = service.job(container_pool(service, start_task=models.BatchStartTask(**options)))
        else:
            job = service.job(pool, job_preparation_task=models.BatchJobPreparationTask(**options))
        service.run(job, "-c 'cat $AZ_BATCH_NODE_SHARED_DIR/x'", container_settings=container("--entrypoint /bin/sh"))
        assert service.output(job) == said


def test_a_container_task_is_forked_from_a_warm_zipapp(service: Service, pool: str, tmp_path: Path) -> None:
    app = tmp_path / "app.pyz"
    with zipfile.ZipFile(app, "w") as archive:
        archive.writestr(
            "forked.py",
            "import os, sys\nserved = os.getpid()\npreload = print\n"
            "def run(argv, env, cwd):\n    print(argv[1:], sys.executable, os.getppid() == served)\n    return 0\n",
        )
    digest = hashlib.sha256(app.read_bytes()).hexdigest()
    env = [models.EnvironmentSetting(name="BATCHEXEC_FORK_SERVER", value=f"{app}:forked:{digest}")]
    job = service.job(pool)
    task = service.run(job, "a 'b c'", container_settings=container("--entrypoint python3"), environment_settings=env)
    assert service.output(job) == f"['a', 'b c'] {sys.executable} True\n", task.execution_info
    assert task.execution_info.container_info.state == "exited"


# What a runtime is asked for, where there is one


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "--mount type=bind,source={root},target={root} --workdir {task}/wd"),
        (
            {"containerRunOptions": "--rm --ipc 'a b'", "workingDirectory": "containerImageDefault"},
            "--mount type=bind,source={root},target={root} --ipc a b",
        ),
        ({"containerHostBatchBindMounts": []}, "--workdir {task}/wd"),
        (
            {
                "containerHostBatchBindMounts": [
                    {"source": "Task"},
                    {"source": "VfsMounts", "isReadOnly": True},
                    {"source": "JobPrep", "isReadOnly": False},
                ],
                "workingDirectory": "taskWorkingDirectory",
            },
            "--mount type=bind,source={task},target={task} "
            "--mount type=bind,source={root}/fsmounts,target={root}/fsmounts,readonly "
            "--mount type=bind,source={root}/prep,target={root}/prep --workdir {task}/wd",
        ),
    ],
)
def test_settings_become_options(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    root, task = tmp_path, tmp_path / "task"
    body = {"commandLine": "", "containerSettings": {"imageName": "i", **settings}}
    assert " ".join(create_options(body, root, task, str(root / "prep"))) == expected.format(root=root, task=task)


def test_a_mounted_path_may_hold_anything(tmp_path: Path) -> None:
    root = tmp_path / 'a,"b'
    _, mount, *_ = create_options({"commandLine": "", "containerSettings": {"imageName": "i"}}, root, root, None)
    source, target = (f'"{name}={tmp_path}/a,""b"' for name in ("source", "target"))
    assert mount == f"type=bind,{source},{target}"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("team/image", "docker.io/team/image"),
        ("registry.io/team/image@sha256:0", "registry.io/team/image@sha256:0"),
        ("localhost/image", "localhost/image"),
        ("host:5000/image", "host:5000/image"),
    ],
)
def test_short_names_of_images_are_dockers(image: str, expected: str) -> None:
    assert full_name(image) == expected


def test_a_runtime_that_is_not_there_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "batchexec.emulator"]
    command += ["--containers", "docker", "--container-command", "/no/such x"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "there is no program '/no/such'" in ended.stderr


# What does not fit


def test_a_pool_with_containers_runs_no_task_without(service: Service, pool: str) -> None:
    execution = service.run(service.job(pool), "true").execution_info
    failure = execution.failure_info
    assert (execution.exit_code, failure.category, failure.code) == (None, "usererror", "ContainerTaskSettingsNotFound")


def test_a_container_task_fails_in_a_pool_without(service: Service, plain_pool: str) -> None:
    job = service.job(plain_pool)
    execution = service.run(job, "true", container_settings=container()).execution_info
    assert (execution.exit_code, execution.failure_info.category) == (None, "usererror")
    assert execution.failure_info.code == "ContainerInvalidSettings"
    assert "containerConfiguration" in execution.failure_info.details[0].value


def test_a_plain_task_fails_where_its_pool_came_later_with_containers(service: Service) -> None:
    job = service.job("late-containers")
    service.task(job, "true")
    container_pool(service, id="late-containers")
    assert service.completed(job).execution_info.failure_info.code == "ContainerTaskSettingsNotFound"


def test_a_preparation_in_a_container_bars_the_nodes_of_a_pool_without(service: Service, plain_pool: str) -> None:
    prep = models.BatchJobPreparationTask(command_line="true", container_settings=container())
    job = service.job(plain_pool, job_preparation_task=prep)
    service.task(job, "true")
    status = service.until(
        lambda: list(service.client.list_job_preparation_and_release_task_status(job)),
        lambda found: found and found[0].job_preparation_task_execution_info.state == "completed",
    )[0].job_preparation_task_execution_info
    assert status.failure_info.code == "ContainerInvalidSettings"
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "active")


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({}, "MissingRequiredProperty"),
        ({"imageName": ""}, "InvalidPropertyValue"),
        ({"imageName": "i", "workingDirectory": "/"}, "InvalidPropertyValue"),
        ({"imageName": "i", "entrypoint": "x"}, "InvalidRequestBody"),
    ],
)
def test_container_settings_that_cannot_be_are_refused(
    service: Service, pool: str, settings: dict[str, str], code: str
) -> None:
    body: Any = {"id": "t", "commandLine": "true", "containerSettings": settings}
    with refused(code, 400):
        service.client.create_task(service.job(pool), body)


# What the service says of it


def test_the_nodes_and_the_log_say_that_containers_are_processes(service: Service, pool: str) -> None:
    node = next(iter(service.client.list_nodes(pool)))
    assert (node.state, bool(node.errors)) == ("idle", False)
    assert "containers are processes" in node.node_agent_info.version


def test_the_log_says_it_once_and_python_is_what_it_was_told(tmp_path: Path) -> None:
    python = tmp_path / "my python"
    python.write_text('#!/bin/sh\necho "told $0 $*"\n')
    python.chmod(0o755)
    with (
        open(tmp_path / "log", "wb") as file,
        emulator(tmp_path / "root", "--python", os.path.relpath(python), stderr=file) as (service, _),
    ):
        pools = [container_pool(service) for _ in range(2)]
        for pool, line in zip(pools, ("python3 x", "/bin/sh -c 'python y'"), strict=True):
            job = service.job(pool)
            service.run(job, line, container_settings=container())
            assert service.output(job) == f"told {python} {line.split()[-1].rstrip(chr(39))}\n"
    log = Path(file.name).read_text()
    assert log.count("no container runtime") == 1
    assert pools[0] in log


def test_a_python_that_is_not_there_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "batchexec.emulator", "--python", "/no/such/python"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "'/no/such/python' is no program" in ended.stderr

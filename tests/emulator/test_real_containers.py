"""Tasks in real containers: podman and an image made here, as `make containers` provides them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import IMAGE as MACHINE
from batch_service import Service, emulator
from helpers_containers import (
    COMMAND,
    IMAGE,
    MARKER,
    OPTIONS,
    known,
    left_in,
    need_containers,
    podman,
    podman_as_docker,
)
from helpers_service import processes_of
from manual_service import emulated, until
from registry import registry

from batchexec.emulator.options import Containers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOWHERE = "127.0.0.1:9/no/such:image"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    need_containers()
    with emulator(tmp_path_factory.mktemp("emulator"), *OPTIONS) as (service, process):
        yield service
    assert process.returncode == 0
    assert not left_by(service)


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return container_pool(service)


def container(options: str | None = None, image: str = IMAGE, **more: Any) -> models.BatchTaskContainerSettings:
    return models.BatchTaskContainerSettings(image_name=image, container_run_options=options, **more)


def container_pool(service: Service, images: tuple[str, ...] = (IMAGE,), **more: Any) -> str:
    containers = models.BatchContainerConfiguration(type="dockerCompatible", container_image_names=list(images))
    machines = models.VirtualMachineConfiguration(
        image_reference=MACHINE.image_reference,
        node_agent_sku_id=MACHINE.node_agent_sku_id,
        container_configuration=containers,
    )
    return service.pool(virtual_machine_configuration=machines, **more)


def left_by(service: Service) -> list[str]:
    return left_in(service.root)


def running(service: Service, job: str, id: str = "t") -> models.BatchTask:
    """The task, once what runs in its container has said so in its standard output."""
    service.running(job, id)
    log = service.node_root(job, id) / f"workitems/{job}/job-1/{id}/stdout.txt"
    service.until(lambda: log.is_file() and log.read_text(), bool, 120)
    return service.client.get_task(job, id)


def completed(service: Service, job: str, id: str = "t") -> models.BatchTaskExecutionInfo:
    service.until(lambda: service.client.get_task(job, id).state, lambda state: state == "completed", 240)
    return service.client.get_task(job, id).execution_info


def run(service: Service, job: str, line: str, id: str = "t", **more: Any) -> models.BatchTaskExecutionInfo:
    service.task(job, line, id, **{"container_settings": container(), **more})
    return completed(service, job, id)


# What runs, and what it sees


def test_a_task_runs_in_its_image_and_its_files_stay_on_the_node(service: Service, pool: str) -> None:
    assert not Path(MARKER).exists()
    job = service.job(pool)
    line = f"/bin/sh -c 'cat {MARKER}; pwd; echo oops >&2; echo kept > file; echo lost > /file; exit 3'"
    execution = run(service, job, line)
    assert (execution.exit_code, execution.failure_info.code) == (3, "FailureExitCode")
    root = service.node_root(job) / f"workitems/{job}/job-1/t"
    assert service.output(job).split("\n") == ["by tests/containers/install.sh", f"{root}/wd", ""]
    assert service.output(job, name="stderr.txt") == "oops\n"
    assert (root / "wd" / "file").read_text() == "kept\n"
    info = execution.container_info
    assert (len(info.container_id), info.state, info.error) == (64, "exited", None)
    service.until(lambda: known(info.container_id), lambda there: not there)


def test_it_has_the_environment_of_batch_and_of_its_image_not_of_the_node(service: Service, pool: str) -> None:
    given = {"LANG": "C", "HOME": "/given", "PLAIN": "a b='c' $d #e", "EMPTY": "", "LINES": "1\n2\r\n", "AFTER": "x\r"}
    given |= {"UNICODE": "ünï→", "SPACED": "  two  ", "#": "hash", "LONG": "x" * 100_000}
    settings = [models.EnvironmentSetting(name=name, value=value) for name, value in given.items()]
    job = service.job(pool)
    dump = "-c 'import json, os; print(json.dumps(dict(os.environ)))'"
    run(service, job, dump, container_settings=container("--entrypoint python3"), environment_settings=settings)
    seen = json.loads(service.output(job))
    assert {name: seen[name] for name in given} == given
    root = service.node_root(job)
    assert seen["AZ_BATCH_NODE_ROOT_DIR"] == str(root)
    assert seen["AZ_BATCH_TASK_WORKING_DIR"] == f"{root}/workitems/{job}/job-1/t/wd"
    assert (seen["AZ_BATCH_JOB_ID"], seen["AZ_BATCH_TASK_ID"], seen["AZ_BATCH_POOL_ID"]) == (job, "t", pool)
    assert seen["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert "TMPDIR" not in seen
    run(service, job, dump, "plain", container_settings=container("--entrypoint python3"))
    assert json.loads(service.output(job, "plain"))["HOME"] == "/root"


def test_no_secret_is_ever_an_argument_or_taken_from_the_service(tmp_path: Path) -> None:
    need_containers()
    told, calls = tmp_path / "podman", tmp_path / "calls"
    told.write_text(f'#!/bin/sh\nprintf "%s " "$@" >> {calls}\nexec {COMMAND} "$@"\n')
    told.chmod(0o755)
    secrets = {"KEY": "secret-in-one-line", "KEYS": "secret-in\ntwo-lines"}
    settings = [models.EnvironmentSetting(name=name, value=value) for name, value in secrets.items()]
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    seen.add((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue  # it has ended

    watcher = threading.Thread(target=watch)
    options = ("--containers", "podman", "--container-command", str(told))
    with emulator(tmp_path / "root", *options) as (service, _):
        job = service.job(container_pool(service))
        watcher.start()
        try:
            line = "/bin/sh -c 'env; echo $KEY; until [ -e go ]; do sleep 0.1; done'"
            given = container("--env VIRTUAL_ENV")
            service.task(job, line, container_settings=given, environment_settings=settings)
            running(service, job)
            # What stands by the container while that runs.
            service.until(lambda: [line for line in list(seen) if "podman" in line and f"batch-{job}-t-" in line])
            (service.node_root(job) / f"workitems/{job}/job-1/t/wd/go").touch()
            completed(service, job)
        finally:
            over.set()
            watcher.join()
        out = service.output(job)
    assert not [line for line in seen if "secret-in" in line]
    assert f"create --name batch-{job}-t-" in calls.read_text()
    assert "secret-in" not in calls.read_text()
    assert "KEY=secret-in-one-line\n" in out
    assert "VIRTUAL_ENV" not in out


@pytest.fixture(scope="module")
def own_image(service: Service) -> Iterator[str]:
    """An image with an entry point, a command and a working directory of its own."""
    name = f"batchexec-test-entry-{uuid.uuid4().hex[:8]}"
    podman("create", "--name", name, IMAGE, "true")
    changes = ('ENTRYPOINT ["/bin/echo", "entry"]', 'CMD ["command"]', "WORKDIR /opt")
    options = [word for change in changes for word in ("--change", change)]
    podman("commit", "--quiet", *options, name, f"localhost/{name}:1")
    podman("rm", name)
    yield f"localhost/{name}:1"
    podman("rmi", f"localhost/{name}:1")


@pytest.mark.parametrize(
    ("options", "line", "said"),
    [
        (None, "", "entry command\n"),
        (None, "a 'b  c'", "entry a b  c\n"),
        ("--rm --entrypoint /bin/pwd", "-P", "{wd}\n"),
        ("--entrypoint='/bin/cat'", "/etc/hostname", None),
    ],
)
def test_the_command_line_follows_the_entry_point(
    service: Service, pool: str, own_image: str, options: str | None, line: str, said: str | None
) -> None:
    job = service.job(pool)
    execution = run(service, job, line, container_settings=container(options, own_image))
    assert execution.exit_code == 0, execution
    wd = service.node_root(job) / f"workitems/{job}/job-1/t/wd"
    assert said is None or service.output(job) == said.format(wd=wd)


def test_the_working_directory_may_be_the_images(service: Service, pool: str, own_image: str) -> None:
    job = service.job(pool)
    settings = container("--entrypoint /bin/pwd", own_image, working_directory="containerImageDefault")
    run(service, job, "", container_settings=settings)
    assert service.output(job) == "/opt\n"


def test_it_sees_the_nodes_root_or_only_what_is_mounted(service: Service, pool: str) -> None:
    prep = models.BatchJobPreparationTask(command_line="/bin/sh -c 'echo prepared > file'")
    job = service.job(pool, job_preparation_task=prep)
    line = (
        "/bin/sh -c 'cd / && for d in NODE_SHARED NODE_STARTUP NODE_MOUNTS TASK JOB_PREP; do "
        "eval p=\\$AZ_BATCH_${d}_DIR; if [ ! -d $p ]; then echo $d none; elif touch $p/x; then echo $d write; "
        "else echo $d read; fi; done'"
    )

    def seen(id: str, mounts: list[models.ContainerHostBatchBindMountEntry] | None) -> dict[str, str]:
        settings = container(
            working_directory="containerImageDefault" if mounts is not None else None,
            container_host_batch_bind_mounts=mounts,
        )
        assert run(service, job, line, id, container_settings=settings).exit_code == 0
        return dict(line.split() for line in service.output(job, id).splitlines())

    names = ["NODE_SHARED", "NODE_STARTUP", "NODE_MOUNTS", "TASK", "JOB_PREP"]
    sources = ["Shared", "Startup", "VfsMounts", "Task", "JobPrep"]
    assert seen("all", None) == dict.fromkeys(names, "write")
    assert seen("none", []) == dict.fromkeys(names, "none")
    for name, source in zip(names, sources, strict=True):
        for is_read_only in (True, False):
            mount = models.ContainerHostBatchBindMountEntry(source=source, is_read_only=is_read_only)
            expected = {**dict.fromkeys(names, "none"), name: "read" if is_read_only else "write"}
            assert seen(f"{source}-{is_read_only}", [mount]) == expected


def test_it_reaches_the_service(service: Service, pool: str) -> None:
    job = service.job(pool)
    code = """
import os, urllib.error, urllib.request
try:
    urllib.request.urlopen(os.environ["AZ_BATCH_ACCOUNT_URL"])
except urllib.error.HTTPError as error:
    print("answered", error.code // 100)
"""
    run(service, job, f"-c '{code}'", container_settings=container("--entrypoint python3"))
    assert service.output(job) == "answered 4\n"


def test_a_download_is_there_before_it_starts(service: Service, pool: str) -> None:
    job = service.job(pool)
    file = models.ResourceFile(http_url=service.blob(b"content\n"), file_path="sub/file")
    run(service, job, "cat sub/file", resource_files=[file])
    assert service.output(job) == "content\n"


@pytest.mark.parametrize("setting", ["preparation", "start"])
def test_preparation_and_start_tasks_run_in_containers_or_on_the_host(service: Service, setting: str) -> None:
    line = f"/bin/sh -c '[ -e {MARKER} ] && echo image || echo host'"
    for settings, said in ((container(), "image\n"), (None, "host\n")):
        if setting == "start":
            task = models.BatchStartTask(command_line=line, container_settings=settings)
            job = service.job(container_pool(service, start_task=task))
            file = "startup/stdout.txt"
        else:
            prep = models.BatchJobPreparationTask(command_line=line, container_settings=settings)
            job = service.job(container_pool(service), job_preparation_task=prep)
            file = f"workitems/{job}/job-1/jobpreparation/stdout.txt"
        run(service, job, "true")
        assert (service.node_root(job) / file).read_text() == said


def test_each_attempt_has_a_container_of_its_own(service: Service, pool: str) -> None:
    job = service.job(pool)
    once = models.BatchTaskConstraints(max_task_retry_count=1)
    line = "/bin/sh -c 'echo $HOSTNAME; [ -e /again ] && exit 4; touch /again; cat /proc/1/cgroup >> cgroups; exit 3'"
    execution = run(service, job, line, constraints=once)
    assert (execution.exit_code, execution.retry_count) == (3, 1), "what the first wrote outside of the node is lost"


def test_the_node_does_not_say_that_containers_are_processes(service: Service, pool: str) -> None:
    service.until(
        lambda: [node.state for node in service.client.list_nodes(pool)], lambda found: found == ["idle"], 120
    )
    assert "processes" not in next(iter(service.client.list_nodes(pool))).node_agent_info.version


# What cannot start


@pytest.mark.parametrize(
    ("settings", "line", "code", "said"),
    [
        (container(image=NOWHERE), "true", "ContainerInvalidImage", NOWHERE),
        (container("--frobnicate"), "true", "ContainerInvalidSettings", "--frobnicate"),
        (container("--volume 'open"), "true", "CommandLaunchFailed", "quotation"),
        (container(), "no-such-program", "CommandProgramNotFound", "no-such-program"),
        (container(), "/etc/passwd", "ContainerInvalidSettings", "permission denied"),
        (container(), "echo " + 200_000 * "x", "ContainerInvalidSettings", "too long"),
        (container("--workdir /no/such"), "true", "ContainerInvalidSettings", "/no/such"),
        (
            container(container_host_batch_bind_mounts=[models.ContainerHostBatchBindMountEntry(source="JobPrep")]),
            "true",
            "ContainerInvalidSettings",
            "JobPrep",
        ),
    ],
)
def test_what_cannot_start_fails_with_the_reason(
    service: Service, pool: str, settings: models.BatchTaskContainerSettings, line: str, code: str, said: str
) -> None:
    job = service.job(pool)
    retries = models.BatchTaskConstraints(max_task_retry_count=3)
    execution = run(service, job, line, container_settings=settings, constraints=retries)
    failure = execution.failure_info
    assert (execution.exit_code, execution.retry_count, failure.category, failure.code) == (None, 0, "usererror", code)
    assert said in failure.message + "".join(detail.value for detail in failure.details)
    if execution.container_info is not None:
        assert (execution.container_info.state, said in execution.container_info.error) == ("created", True)
        assert service.output(job, name="stderr.txt") == "", "nothing ran that could say anything"


@pytest.mark.parametrize("code", [125, 126, 127, 137])
def test_exit_codes_that_runtimes_use_are_a_tasks_own_too(service: Service, pool: str, code: int) -> None:
    execution = run(service, service.job(pool), f"/bin/sh -c 'exit {code}'")
    assert (execution.exit_code, execution.failure_info.code) == (code, "FailureExitCode")


def test_a_node_that_cannot_fetch_its_pools_images_is_unusable(service: Service) -> None:
    pool = container_pool(service, (IMAGE, NOWHERE), start_task=models.BatchStartTask(command_line="true"))
    look = lambda: next(iter(service.client.list_nodes(pool)))  # noqa: E731
    node = service.until(look, lambda node: node.state == "unusable", 240)
    (error,) = node.errors
    assert error.code == "ContainerInvalidImage"
    assert NOWHERE in error.error_details[0].value
    assert node.start_task_info is None


def test_the_password_of_a_registry_opens_it_and_is_nowhere_left(tmp_path: Path, monkeypatch: Any) -> None:
    need_containers()
    (tmp_path / "passwords").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "passwords"))
    with registry(user="me", password="pass: word", files={"/bin/nothing": b""}) as (server, image):
        config = tmp_path / "registries.conf"
        config.write_text(f'[[registry]]\nlocation = "{server}"\ninsecure = true\n')
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(config))
        right = models.ContainerRegistryReference(username="me", password="pass: word", registry_server=server)
        wrong = models.ContainerRegistryReference(username="me", password="wrong", registry_server=server)
        with emulator(tmp_path / "root", *OPTIONS) as (service, _):
            job = service.job(container_pool(service))
            for id, given in (("none", None), ("wrong", wrong)):
                settings = container(image=image, registry=given)
                failure = run(service, job, "none", id, container_settings=settings).failure_info
                assert failure.code == "ContainerInvalidImage"
            # The image is there then, and holds no such program.
            settings = container(image=image, registry=right)
            failure = run(service, job, "none", "right", container_settings=settings).failure_info
            assert failure.code == "CommandProgramNotFound"
        podman("rmi", image)
    assert not list((tmp_path / "passwords").iterdir())


# How it ends

FOREVER = "/bin/sh -c 'trap \"\" TERM; sleep 1000 & setsid sleep 1000 & echo up; while :; do sleep 1000; done'"


@pytest.mark.parametrize("end", ["terminate", "delete", "job"])
def test_what_ends_a_task_kills_all_in_its_container(service: Service, pool: str, end: str) -> None:
    job = service.job(pool)
    service.task(job, FOREVER, container_settings=container())
    id = running(service, job).execution_info.container_info.container_id
    assert json.loads(podman("inspect", id))[0]["State"]["Running"]
    if end == "terminate":
        service.client.terminate_task(job, "t")
    elif end == "delete":
        service.client.delete_task(job, "t")
    elif end == "job":
        why = {"terminateReason": "over"}
        service.client.begin_terminate_job(job, why, polling_interval=0.1).wait()
    if end != "delete":
        execution = completed(service, job)
        assert (execution.exit_code, execution.failure_info.code) == (137, "TaskEnded")
    service.until(lambda: known(id), lambda there: not there)
    service.until(lambda: processes_of(f"{job}/job-1/t/wd"), lambda found: not found)


def test_a_time_limit_kills_all_in_the_container(tmp_path: Path) -> None:
    need_containers()

    async def play() -> None:
        async with emulated(tmp_path, containers=Containers("podman", shlex.split(COMMAND))) as here:
            machine = {**MACHINE.as_dict(), "containerConfiguration": {"type": "dockerCompatible"}}
            await here.pool(targetDedicatedNodes=1, virtualMachineConfiguration=machine)
            constraints = {"maxWallClockTime": "PT10S"}
            await here.task(commandLine=FOREVER, containerSettings={"imageName": IMAGE}, constraints=constraints)
            output = await here.directory() / "stdout.txt"
            await until(output.exists)
            await until(output.read_text)
            id = (await here.task_in("running")).execution_info.container_info.container_id
            assert json.loads(podman("inspect", id))[0]["State"]["Running"]
            here.clock.advance(10)
            execution = (await here.task_in("completed")).execution_info
            assert (execution.exit_code, execution.failure_info.code) == (137, "TaskEnded")
            await until(lambda: not known(id))
            await until(lambda: not processes_of(str(output.with_name("wd"))))

    asyncio.run(play())
    assert not left_in(tmp_path)


def test_a_task_that_is_ended_while_its_image_is_fetched_has_no_container(service: Service, pool: str) -> None:
    job = service.job(pool)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        image = f"127.0.0.1:{silent.getsockname()[1]}/no/such:image"
        service.task(job, "true", container_settings=container(image=image))
        with silent.accept()[0]:
            service.client.terminate_task(job, "t")
            execution = completed(service, job)
    assert (execution.failure_info.code, execution.container_info) == ("TaskEnded", None)


@pytest.mark.parametrize("how", ["end-of-file", "kill -9"])
def test_nothing_is_left_of_a_service_that_ends_however_it_does(tmp_path: Path, how: str) -> None:
    need_containers()
    with emulator(tmp_path / "root", *OPTIONS) as (service, process):
        job = service.job(container_pool(service))
        service.task(job, FOREVER, container_settings=container())
        id = running(service, job).execution_info.container_info.container_id
        assert left_by(service)
        if how == "kill -9":
            process.kill()
            process.wait()
            service.until(lambda: left_by(service), lambda found: not found)
    assert not left_by(service)
    assert not known(id)


@pytest.mark.parametrize("with_reaper", [True, False])
def test_the_next_service_in_the_same_root_removes_what_was_left_and_keeps_its_own(
    tmp_path: Path, with_reaper: bool
) -> None:
    """After the kill of a service, and of what would have cleaned up after it or not."""
    need_containers()
    root = tmp_path / "root"
    with emulator(root, *OPTIONS) as (service, process):
        job = service.job(container_pool(service))
        service.task(job, FOREVER, container_settings=container())
        id = running(service, job).execution_info.container_info.container_id
        if with_reaper:
            os.killpg(reaper_of(process.pid), signal.SIGKILL)
        process.kill()
        process.wait()
        assert known(id) or not with_reaper
    with emulator(root, *OPTIONS) as (service, process):
        job = service.job(container_pool(service))
        assert [run(service, job, "sleep 1", f"t{number}").exit_code for number in range(2)] == [0, 0]
        assert not known(id)


def reaper_of(pid: int) -> int:
    """The process that would clean up after a service."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended, as clients of podman do
            if b"cat >/dev/null" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("there is none")


# Docker's own client, which asks podman here


def test_the_client_of_docker_does_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_containers()
    if shutil.which("docker") is None:
        pytest.skip("there is no docker client")
    with podman_as_docker(tmp_path) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        options = [f"--container-option=--ulimit={name}={most}" for name, most in (("nofile", 1024), ("nproc", 1024))]
        with emulator(tmp_path / "root", "--containers", "docker", *options) as (service, _):
            job = service.job(container_pool(service))
            line = f"/bin/sh -c 'cat {MARKER}; echo \"$KEY\"; exit 3'"
            env = [models.EnvironmentSetting(name="KEY", value="in\ntwo lines")]
            assert run(service, job, line, environment_settings=env).exit_code == 3
            assert service.output(job) == "by tests/containers/install.sh\nin\ntwo lines\n"
            # Docker itself would say why; podman in its place does not.
            assert run(service, job, "none", "none").failure_info.code == "ContainerInvalidSettings"
            service.task(job, FOREVER, "forever", container_settings=container())
            id = running(service, job, "forever").execution_info.container_info.container_id
            service.client.terminate_task(job, "forever")
            assert completed(service, job, "forever").exit_code == 137
            service.until(lambda: known(id), lambda there: not there)
        assert not left_by(service)

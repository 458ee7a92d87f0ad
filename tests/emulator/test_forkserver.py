"""The fork-server contract, kept by a node; and that no process outlives the emulator."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from azure.batch import models
from batch_service import Service, contract_app, emulator, fork_setting, refused, service
from helpers_processes import process_lives
from manual_service import emulated

__all__ = ["service"]

APP = """
    import json, os, sys, time

    served = os.getpid()

    def preload(names):
        for name in names:
            try:
                __import__(name)
            except ImportError:
                pass

    def run(argv, env, cwd):
        channel = int(env["BATCHEXEC_FORK_PRELOAD_FD"])
        what = argv[1]
        if what == "wants" and "colorsys" not in sys.modules:
            os.write(channel, json.dumps(["no_such_module", "colorsys"]).encode() + b"\\n")
            os.close(channel)
            return None
        os.close(channel)
        print(json.dumps({"argv": argv, "cwd": os.getcwd() == cwd, "environ": dict(os.environ) == env,
                          "server": served, "parent": os.getppid(), "session": os.getsid(0) == os.getpid(),
                          "stdin": sys.stdin.read(), "colorsys": "colorsys" in sys.modules,
                          "threads": os.environ.get("OMP_NUM_THREADS"), "x": env.get("X"),
                          "first": env.get("BATCHEXEC_FORK_FIRST_RUN")}), flush=True)
        if what == "loops":
            return None
        if what == "raises":
            raise ValueError("no good")
        if what == "dies":
            os.kill(os.getpid(), 9)
        if what == "sleeps":
            if os.fork() == 0:
                os.setsid()
            print(os.getpid(), flush=True)
            time.sleep(100)
        return int(what) if what.isdigit() else 0

    def postmortem(argv, env, cwd, status):
        print("postmortem", status, os.getcwd() == cwd, flush=True)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contract_app(tmp_path_factory.mktemp("app"), "forked", APP)


@pytest.fixture(scope="module")
def job(service: Service, app: Path) -> str:
    return forking_job(service, app)


def forking_job(
    service: Service, app: Path, digest: str = "", preparation: models.BatchJobPreparationTask | None = None
) -> str:
    digest = digest or hashlib.sha256(app.read_bytes()).hexdigest()
    return service.job(
        service.pool(),
        common_environment_settings=[
            models.EnvironmentSetting(name="BATCHEXEC_FORK_SERVER", value=f"app.pyz:forked:{digest}"),
            models.EnvironmentSetting(name="X", value="secret"),
        ],
        job_preparation_task=preparation or models.BatchJobPreparationTask(command_line=f"cp {app} app.pyz"),
    )


def run(service: Service, job: str, what: str, **more: object) -> tuple[models.BatchTaskExecutionInfo, str]:
    task = service.run(job, f"{sys.executable} {what} 'two words'", what, **more)
    return task.execution_info, service.output(job, what)


def test_a_task_is_forked_from_a_warm_server(service: Service, job: str) -> None:
    outputs = [json.loads(run(service, job, what)[1]) for what in ("one", "other")]
    assert outputs[0]["argv"] == [sys.executable, "one", "two words"]
    for found in outputs:
        assert found["parent"] == found["server"] == outputs[0]["server"]
        assert found["cwd"]
        assert found["environ"]
        assert found["session"]
        assert (found["stdin"], found["threads"], found["x"]) == ("", None, "secret")
    command_line = Path(f"/proc/{outputs[0]['server']}/cmdline").read_bytes()
    assert b"secret" not in command_line
    assert b"secret" not in Path(f"/proc/{outputs[0]['server']}/environ").read_bytes()


def test_modules_asked_for_are_preloaded_and_the_task_starts_again(service: Service, job: str) -> None:
    execution, output = run(service, job, "wants")
    assert (execution.result, execution.retry_count) == ("success", 0)
    assert '"colorsys": true' in output
    assert output.count("argv") == 1


def test_only_the_first_start_of_a_task_is_called_its_first(service: Service, job: str) -> None:
    once = models.BatchTaskConstraints(max_task_retry_count=1)
    for what, constraints, expected in (("6", None, '"1"'), ("wants", None, '"1"'), ("7", once, "null")):
        id = f"first-{what}"
        service.run(job, f"{sys.executable} {what}", id, constraints=constraints)
        assert f'"first": {expected}' in service.output(job, id)
    service.client.reactivate_task(job, "first-6")
    service.completed(job, "first-6")
    assert '"first": null' in service.output(job, "first-6")


def test_a_task_that_starts_again_without_asking_fails(service: Service, job: str) -> None:
    assert run(service, job, "loops")[0].exit_code == 1


def test_an_exit_code_is_what_run_returned(service: Service, job: str) -> None:
    execution, output = run(service, job, "5")
    assert execution.exit_code == 5
    assert "postmortem 5 True" in output


def test_a_postmortem_follows_a_death_before_the_task_completes(service: Service, job: str) -> None:
    execution, output = run(service, job, "dies")
    assert execution.exit_code == 137
    assert output.endswith("postmortem -9 True\n")


def test_an_exception_of_run_goes_to_standard_error(service: Service, job: str) -> None:
    execution, _ = run(service, job, "raises")
    assert execution.exit_code == 1
    assert "ValueError: no good" in service.output(job, "raises", "stderr.txt")


def test_no_postmortem_when_the_node_ended_the_task(app: Path, tmp_path: Path) -> None:
    async def play() -> None:
        async with emulated(tmp_path) as here:
            await here.pool(targetDedicatedNodes=1)
            setting = {"name": "BATCHEXEC_FORK_SERVER", "value": fork_setting(app, "forked")}
            assert "postmortem" not in await here.sleeper_out_of_time([setting], lines=3)

    asyncio.run(play())


def test_another_digest_means_the_plain_command(service: Service, app: Path) -> None:
    job = forking_job(service, app, digest="0" * 64)
    service.task(job, f"{sys.executable} {app}")
    assert service.completed(job).execution_info.exit_code == 0
    assert service.output(job) == "plain\n"


def test_a_zipapp_without_the_module_means_the_plain_command(service: Service, app: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pyz"
    with zipfile.ZipFile(bare, "w") as archive:
        archive.writestr("__main__.py", "print('bare')")
    job = forking_job(service, bare)
    service.task(job, f"{sys.executable} {bare}")
    assert service.completed(job).execution_info.exit_code == 0
    assert service.output(job) == "bare\n"


def test_a_server_that_dies_gives_its_tasks_back(service: Service, app: Path) -> None:
    job = forking_job(service, app)
    service.task(job, f"{sys.executable} sleeps", "sleeps")
    text = service.until(lambda: service.said(job, "sleeps"), lambda text: text.count("\n") == 3)
    found = json.loads(text.splitlines()[0])
    os.kill(found["server"], signal.SIGKILL)
    # Given back, it starts as the plain command: `python sleeps`, a file that is not there.
    assert service.completed(job, "sleeps").execution_info.exit_code == 2
    task, escaped = sorted(map(int, text.split()[-2:]))
    service.until(lambda: process_lives(task), lambda lives: not lives)
    os.kill(escaped, signal.SIGKILL)  # it had left the task's group, and its server could not look after it


def test_a_child_that_is_killed_while_it_waits_for_a_task_is_replaced(service: Service, app: Path) -> None:
    job = forking_job(service, app)
    server = json.loads(run(service, job, "0")[1])["server"]
    waiting = service.until(lambda: _children(server), lambda pids: len(pids) == 2)
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    service.until(lambda: set(_children(server)) & set(waiting), lambda left: not left)
    execution, output = run(service, job, "00")
    assert execution.result == "success"
    assert json.loads(output)["server"] == server


def test_children_that_wait_for_a_task_end_with_their_server(service: Service, app: Path) -> None:
    job = forking_job(service, app)
    server = json.loads(run(service, job, "0")[1])["server"]
    waiting = service.until(lambda: _children(server), lambda pids: len(pids) == 2)
    os.kill(server, signal.SIGKILL)
    service.until(lambda: list(filter(process_lives, waiting)), lambda left: not left)


def test_what_a_task_had_preloaded_the_next_one_finds(service: Service, app: Path) -> None:
    job = forking_job(service, app)
    server = json.loads(run(service, job, "0")[1])["server"]
    early = service.until(lambda: _children(server), lambda pids: len(pids) == 2)
    run(service, job, "wants")
    assert json.loads(run(service, job, "00")[1])["colorsys"]
    service.until(lambda: list(filter(process_lives, early)), lambda left: not left)


def test_the_server_starts_beside_the_preparation_task(service: Service, app: Path) -> None:
    begun = "until ls $AZ_BATCH_NODE_ROOT_DIR/sys/fork-server-*; do sleep 0.01; done"
    file = models.ResourceFile(http_url=service.blob(app.read_bytes()), file_path="app.pyz")
    preparation = models.BatchJobPreparationTask(command_line=f"/bin/sh -c '{begun}'", resource_files=[file])
    job = forking_job(service, app, preparation=preparation)
    assert json.loads(run(service, job, "0")[1])["x"] == "secret"


@pytest.mark.parametrize("how", ["eof", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_the_emulator(how: str, app: Path, tmp_path: Path) -> None:
    with emulator(tmp_path / "root") as (service, process):
        job = forking_job(service, app)
        service.task(job, "/bin/sh -c 'sleep 100 & echo $!; setsid sleep 100 & echo $!; echo $$; wait'", "plain")
        service.task(job, f"{sys.executable} sleeps", "sleeps")
        plain = service.until(lambda: service.said(job, "plain"), lambda text: text.count("\n") == 3)
        forked = service.until(lambda: service.said(job, "sleeps"), lambda text: text.count("\n") == 3)
        pids = [int(line) for line in (plain + forked).splitlines() if line.isdigit()]
        assert len(pids) == 5
        servers = _children(process.pid)
        assert len(servers) == 2, "one for programs, one for the zipapp"
        if how == "eof":
            assert process.stdin
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        process.wait(60)
        service.until(lambda: list(filter(process_lives, pids + servers)), lambda left: not left)


def _children(pid: int) -> list[int]:
    # It ends with 1 where there are none.
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], stdout=subprocess.PIPE, text=True)
    return [int(word) for word in listed.stdout.split()]


def test_the_emulator_ends_while_a_download_hangs_and_a_server_imports(app: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.pyz"
    with zipfile.ZipFile(slow, "w") as archive:
        archive.writestr("forked.py", "import os, time; print(os.getpid(), flush=True); time.sleep(100)")
    with socket.create_server(("127.0.0.1", 0)) as silent, emulator(tmp_path / "root") as (service, process):
        job = forking_job(service, slow)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        service.task(job, "true", "hangs", resource_files=[models.ResourceFile(http_url=url, file_path="x")])
        service.task(job, f"{sys.executable} x", "imports")
        with silent.accept()[0]:
            logs = lambda: [log.read_text() for log in (tmp_path / "root").glob("nodes/*/sys/fork*")]  # noqa: E731
            (pid,) = "".join(service.until(logs, lambda found: any(found))).split()
            assert process.stdin
            process.stdin.close()
            process.wait(60)
        assert not process_lives(pid)


def test_a_ctrl_c_in_the_terminal_is_the_parents_affair(tmp_path: Path) -> None:
    with emulator(tmp_path / "root") as (service, process):
        list(service.client.list_pools())
        process.send_signal(signal.SIGINT)
        with refused("PoolNotFound", 404):
            service.client.get_pool("none")


def test_a_temporary_root_goes_with_the_emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with emulator(None) as (service, _):
        service.pool()
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())

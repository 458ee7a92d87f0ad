"""`--runner inline`: tasks of the fork-server contract share processes that stay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import Service, contract_app, emulator, fork_setting
from helpers_processes import process_is_there, process_lives
from manual_service import emulated, until

APP = """
    import json, os, subprocess, sys, threading, time

    runs = 0

    def preload(names):
        for name in names:
            try:
                __import__(name)
            except ImportError:
                pass

    def run(argv, env, cwd):
        global runs
        runs += 1
        what = argv[1]
        channel = int(env["BATCHEXEC_FORK_PRELOAD_FD"])
        if what == "wants" and "colorsys" not in sys.modules:
            os.write(channel, json.dumps(["no_such_module", "colorsys"]).encode() + b"\\n")
            os.close(channel)
            print("to be forgotten")
            return None
        if what != "keeps":
            os.close(channel)
        secret = env.pop("SECRET")
        print(json.dumps({"argv": argv, "cwd": os.getcwd() == cwd, "pid": os.getpid(), "runs": runs,
                          "parent": os.getppid(),
                          "environ": {**os.environ, "SECRET": secret} == {**env, "SECRET": secret},
                          "leader": os.getsid(0) == os.getpid(), "stdin": sys.stdin.read(),
                          "colorsys": "colorsys" in sys.modules, "own": os.environ.get("OWN"),
                          "first": env.get("BATCHEXEC_FORK_FIRST_RUN")}), flush=True)
        return globals().get(what, lambda: int(what) if what.isdigit() else 0)()

    def loops():
        return None

    def raises():
        raise ValueError("no good")

    def exits():
        raise SystemExit(0)

    def dies():
        os.kill(os.getpid(), 9)

    def leaves():
        os._exit(3)

    def closes():
        sys.stdout.close()
        return 4

    def forks():
        return 5 if os.fork() else 6

    def begets():
        children = [subprocess.Popen(["sleep", "100"], start_new_session=late) for late in (False, True)]
        def beget():
            children.append(subprocess.Popen(["sleep", "100"], start_new_session=True))
        thread = threading.Thread(target=beget)
        thread.start()
        thread.join()
        print(*[child.pid for child in children], flush=True)
        return 0

    def sleeps():
        begets()
        time.sleep(100)

    def meets():
        here, there = os.environ["MEETS"].split()
        open(here, "w").close()
        while not os.path.exists(there):
            time.sleep(0.005)
        return 0

    def postmortem(argv, env, cwd, status):
        print("postmortem", status, os.getcwd() == cwd, env["SECRET"], os.environ["SECRET"], flush=True)
        if status == 7:
            raise ValueError("the postmortem's own")
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contract_app(tmp_path_factory.mktemp("app"), "inlined", APP)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with emulator(tmp_path_factory.mktemp("emulator"), "--runner", "inline") as (service, process):
        yield service
    assert process.returncode == 0


@pytest.fixture(scope="module")
def job(service: Service, app: Path) -> str:
    return inline_job(service, app, slots=1)


def inline_job(service: Service, app: Path, slots: int) -> str:
    named = [models.EnvironmentSetting(**setting) for setting in settings(app)]
    return service.job(service.pool(slots=slots), common_environment_settings=named)


def settings(app: Path) -> list[dict[str, str]]:
    """The environment of the tasks of a job."""
    fork = {"name": "BATCHEXEC_FORK_SERVER", "value": fork_setting(app, "inlined")}
    return [fork, {"name": "SECRET", "value": "secret"}]


def run(
    service: Service, job: str, what: str, id: str = "", **more: object
) -> tuple[models.BatchTaskExecutionInfo, dict[str, Any], str]:
    """How the task ended, what it said of itself, and the rest of its output."""
    id = id or f"{what}-{time.monotonic_ns()}"
    task = service.run(job, f"{sys.executable} {what} 'two words'", id, **more)
    first, _, rest = service.output(job, id).partition("\n")
    return task.execution_info, json.loads(first), rest


def test_tasks_run_one_after_another_in_the_same_process(service: Service, job: str) -> None:
    own = [[models.EnvironmentSetting(name="OWN", value=value)] for value in "ab"]
    found = [run(service, job, what, environment_settings=own[what == "two"])[1] for what in ("one", "two")]
    third = run(service, job, "keeps")[1]
    assert found[0]["pid"] == found[1]["pid"] == third["pid"]
    assert [found[1]["runs"], third["runs"]] == [found[0]["runs"] + 1, found[0]["runs"] + 2]
    for said in found:
        assert said["cwd"]
        assert said["environ"]
        assert said["leader"]
        assert (said["stdin"], said["first"]) == ("", "1")
    assert found[0]["argv"] == [sys.executable, "one", "two words"]
    assert [said["own"] for said in (*found, third)] == ["a", "b", None]


def test_there_are_as_many_processes_as_tasks_were_at_work_at_a_time(
    service: Service, app: Path, tmp_path: Path
) -> None:
    job = inline_job(service, app, slots=3)
    lone = run(service, job, "0")[1]["pid"]
    assert run(service, job, "0")[1]["pid"] == lone
    ends = [str(tmp_path / "here"), str(tmp_path / "there")]
    for id, way in (("a", ends), ("b", ends[::-1])):
        meets = [models.EnvironmentSetting(name="MEETS", value=" ".join(way))]
        service.task(job, f"{sys.executable} meets", id, environment_settings=meets)
    pids = set()
    for id in ("a", "b"):
        assert service.completed(job, id).execution_info.exit_code == 0
        pids.add(json.loads(service.output(job, id).partition("\n")[0])["pid"])
    assert len(pids) == 2
    assert lone in pids
    assert run(service, job, "0")[1]["pid"] in pids


def test_a_retry_is_not_called_the_first_run(service: Service, job: str) -> None:
    once = models.BatchTaskConstraints(max_task_retry_count=1)
    execution, said, _ = run(service, job, "8", constraints=once)
    assert (execution.retry_count, execution.exit_code) == (1, 8)
    assert said["first"] is None


def test_an_exit_code_is_what_run_returned_and_the_process_stays(service: Service, job: str) -> None:
    before = run(service, job, "0")[1]["pid"]
    execution, said, rest = run(service, job, "5")
    assert execution.exit_code == 5
    assert rest == "postmortem 5 True secret secret\n"
    assert said["pid"] == before == run(service, job, "0")[1]["pid"]


@pytest.mark.parametrize(
    ("what", "code", "words"), [("raises", 1, "ValueError: no good"), ("exits", 1, "SystemExit"), ("7", 7, "own")]
)
def test_an_exception_goes_to_standard_error_and_the_process_stays(
    service: Service, job: str, what: str, code: int, words: str
) -> None:
    execution, said, _ = run(service, job, what, id=what)
    assert execution.exit_code == code
    assert words in service.output(job, what, "stderr.txt")
    assert run(service, job, "0")[1]["pid"] == said["pid"]


def test_modules_asked_for_are_imported_and_the_task_starts_again(service: Service, job: str) -> None:
    before = run(service, job, "0")[1]
    assert not before["colorsys"]
    execution, said, rest = run(service, job, "wants")
    assert (execution.result, execution.retry_count) == ("success", 0)
    assert (said["colorsys"], said["first"], rest) == (True, "1", "")
    assert (said["pid"], said["runs"]) == (before["pid"], before["runs"] + 2)


def test_a_task_that_starts_again_without_asking_fails(service: Service, job: str) -> None:
    assert run(service, job, "loops")[0].exit_code == 1


@pytest.mark.parametrize(("what", "code", "status"), [("dies", 137, -9), ("leaves", 3, 3), ("closes", 4, 4)])
def test_a_process_that_dies_with_its_task_is_replaced(
    service: Service, job: str, what: str, code: int, status: int
) -> None:
    execution, said, rest = run(service, job, what)
    assert execution.exit_code == code
    assert rest == f"postmortem {status} True secret secret\n"
    assert run(service, job, "0")[1]["pid"] != said["pid"]


def test_a_child_of_the_task_that_comes_back_from_it_runs_no_other(service: Service, job: str) -> None:
    execution, said, _ = run(service, job, "forks")
    assert execution.exit_code == 5
    after = run(service, job, "0")[1]
    assert (after["pid"], after["runs"]) == (said["pid"], said["runs"] + 1)


def test_nothing_that_a_task_started_outlives_it(service: Service, job: str) -> None:
    execution, said, rest = run(service, job, "begets")
    assert execution.exit_code == 0
    assert len(rest.split()) == 3
    assert not [pid for pid in rest.split() if Path("/proc", pid).exists()]
    assert run(service, job, "0")[1]["pid"] == said["pid"]


def test_what_ends_a_task_ends_its_process_and_no_postmortem_follows(service: Service, job: str) -> None:
    id = service.task(job, f"{sys.executable} sleeps", "sleeps")
    service.until(lambda: service.said(job, id), lambda text: text.count("\n") == 2)
    service.client.terminate_task(job, id)
    assert service.completed(job, id).execution_info.failure_info.code == "TaskEnded"
    pid, *in_group = processes_after(service.output(job, id))
    service.until(lambda: list(filter(process_lives, (pid, *in_group))), lambda left: not left)
    assert run(service, job, "0")[1]["pid"] != int(pid)


def test_a_time_limit_ends_the_process_and_no_postmortem_follows(app: Path, tmp_path: Path) -> None:
    async def play() -> None:
        async with emulated(tmp_path, inline=True) as here:
            await here.pool(targetDedicatedNodes=1)
            ended = processes_after(await here.sleeper_out_of_time(settings(app), lines=2))
            await until(lambda: not list(filter(process_lives, ended)))

    asyncio.run(play())


def processes_after(text: str) -> tuple[str, str]:
    """The task's process and one of its group, after the task `sleeps` was ended; no postmortem came."""
    first, rest = text.split("\n", 1)
    assert "postmortem" not in rest
    return str(json.loads(first)["pid"]), rest.split()[0]


def test_a_process_killed_between_tasks_is_replaced(service: Service, job: str) -> None:
    pid = run(service, job, "0")[1]["pid"]
    os.kill(pid, signal.SIGKILL)
    service.until(lambda: process_is_there(pid), lambda there: not there)
    execution, said, _ = run(service, job, "00")
    assert execution.exit_code == 0
    assert said["pid"] != pid


def test_processes_that_wait_for_a_task_end_with_their_server(service: Service, app: Path) -> None:
    job = inline_job(service, app, slots=1)
    said = run(service, job, "0")[1]
    os.kill(said["parent"], signal.SIGKILL)
    service.until(lambda: process_lives(said["pid"]), lambda lives: not lives)
    service.run(job, f"{sys.executable} {app}", "after")
    assert service.output(job, "after") == "plain\n"


def test_other_tasks_run_as_processes_of_their_own(service: Service, app: Path, job: str) -> None:
    plain = service.job(service.pool())
    service.run(plain, f"{sys.executable} {app}")
    assert service.output(plain) == "plain\n"
    elsewhere = [models.EnvironmentSetting(name="BATCHEXEC_FORK_SERVER", value=f"{app}:inlined:{'0' * 64}")]
    service.run(job, f"{sys.executable} {app}", "other-digest", environment_settings=elsewhere)
    assert service.output(job, "other-digest") == "plain\n"


@pytest.mark.parametrize("how", ["eof", "SIGKILL"])
def test_no_process_outlives_the_emulator(how: str, app: Path, tmp_path: Path) -> None:
    with emulator(tmp_path / "root", "--runner", "inline") as (service, process):
        job = inline_job(service, app, slots=1)
        idle = run(service, inline_job(service, app, slots=1), "0")[1]["pid"]
        service.task(job, f"{sys.executable} sleeps", "sleeps")
        text = service.until(lambda: service.said(job, "sleeps"), lambda text: text.count("\n") == 2)
        first, rest = text.split("\n", 1)
        pids = [str(idle), str(json.loads(first)["pid"]), *rest.split()]
        assert len(pids) == 5
        if how == "eof":
            assert process.stdin
            process.stdin.close()
        else:
            process.kill()
        process.wait(60)
        service.until(lambda: list(filter(process_lives, pids)), lambda left: not left)

"""However a client ends, no process of ours outlives it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_scripts import Script
from helpers_service import Account, processes_of, service, until
from helpers_venv import Interpreter

SLEEPING = """
with BatchExecutor(max_workers=2) as ex:
    list(ex.map(partial(work.sleep_with_family, started), range(4)))
"""
FAMILY = ("task0", "child0", "grandchild0", "task1", "child1", "grandchild1")

Run = Callable[..., Script]


def slow(*values: object) -> Any:
    """A case that the quick tests leave out: it differs little from one that they have."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a script; what is left of it when a test fails is ended."""
    scripts: list[Script] = []

    def run(text: str, **env: str) -> Script:
        scripts.append(Script(tmp_path, text, **env))
        return scripts[-1]

    yield run
    for script in scripts:
        if script.process.poll() is None:
            script.process.kill()
            script.process.communicate()
        for pid in script.others():
            os.kill(pid, signal.SIGKILL)


# quiet ends


@pytest.mark.parametrize(
    ("text", "code", "out", "err"),
    [
        ("with BatchExecutor() as ex: print(list(ex.map(work.double, range(3))))", 0, "[0, 2, 4]\n", ""),
        ("with BatchExecutor() as ex: list(ex.map(work.double, range(3))); 1 / 0", 1, "", "ZeroDivisionError"),
        slow("with BatchExecutor() as ex: list(ex.map(work.double, range(3))); sys.exit(5)", 5, "", ""),
        slow("with BatchExecutor() as ex: list(ex.map(len, [1]))", 1, "", "TypeError: object of type 'int' has no len"),
        # Without `with`, the interpreter waits for what was submitted.
        ("BatchExecutor().submit(work.double, 4).add_done_callback(lambda f: print(f.result()))", 0, "8\n", ""),
        slow("ex = BatchExecutor(); print(next(iter(ex.map(work.double, [4]))))", 0, "8\n", ""),
        # An executor that was dropped finishes its work.
        slow("f = BatchExecutor().submit(work.double, 4); print(f.result(60))", 0, "8\n", ""),
        # One that was made and never used has started nothing.
        ("ex = BatchExecutor(); print(sys.exc_info()[0])", 0, "None\n", ""),
        ("t = threading.Thread(target=in_thread); t.start(); t.join()", 0, "8\n", ""),
    ],
    ids=["normal", "exception", "exit", "failure", "pending", "iterated", "dropped", "unused", "thread"],
)
def test_a_script_that_ends_leaves_nothing(run: Run, text: str, code: int, out: str, err: str) -> None:
    script = run(text)
    found = script.end()
    assert found[:2] == (code, out), found[2]
    if err:
        assert err in found[2]
    else:
        assert found[2] == ""
    script.leaves_nothing()


def test_an_executor_outlives_its_name_but_not_its_work(run: Run) -> None:
    """Dropping it while its future is awaited elsewhere drains it: its job goes while the script lives on."""
    script = run("""
import gc
future = BatchExecutor().submit(work.double, 4)
gc.collect()
assert future.result(60) == 8
deadline = time.monotonic() + 60
while any(t.name.startswith("batchexec") for t in threading.enumerate()):
    assert time.monotonic() < deadline
    time.sleep(0.01)
print("drained")
""")
    assert script.end()[:2] == (0, "drained\n")
    script.leaves_nothing()


# Ctrl-C


@pytest.mark.parametrize("how", [slow("process"), "group"])
def test_ctrl_c_ends_all_without_waiting_for_it(run: Run, how: str) -> None:
    script = run(SLEEPING)
    script.wait_for(*FAMILY)
    send = script.send if how == "process" else script.send_to_group
    send(signal.SIGINT)
    code, _, err = script.end()
    assert code == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    script.leaves_nothing()


def test_ctrl_c_without_a_block_ends_all_too(run: Run) -> None:
    script = run("ex = BatchExecutor(max_workers=2)\nlist(ex.map(partial(work.sleep_with_family, started), range(4)))")
    script.wait_for(*FAMILY)
    script.send(signal.SIGINT)
    code, _, err = script.end()
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    script.leaves_nothing()


def test_ctrl_c_while_the_service_starts_ends_all(run: Run) -> None:
    script = run("""
with BatchExecutor() as ex:
    future = ex.submit(time.sleep, 600)
    signal.raise_signal(signal.SIGINT)
""")
    code, _, err = script.end()
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    script.leaves_nothing()


def test_ctrl_c_while_the_end_is_awaited_ends_all(run: Run) -> None:
    script = run("""
with BatchExecutor(max_workers=2) as ex:
    futures = [ex.submit(work.sleep_with_family, started, n) for n in range(4)]
""")
    script.wait_for(*FAMILY)
    script.send(signal.SIGINT)
    code, _, err = script.end()
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    script.leaves_nothing()


@pytest.fixture
def account() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool()
        yield account


def as_azure(account: Account) -> dict[str, str]:
    """The environment of a client of this account."""
    ready = account.ready
    return {
        "AZURE_BATCH_ACCOUNT": ready["account"],
        "AZURE_BATCH_ENDPOINT": ready["batch_endpoint"],
        "AZURE_BATCH_ACCESS_KEY": ready["batch_key"],
        "AZURE_STORAGE_CONNECTION_STRING": ready["connection_string"],
        "BATCHEXEC_POOL_ID": "fixed",
        "BATCHEXEC_PYTHON": sys.executable,
        "BATCHEXEC_REQUIREMENTS": "none",
    }


# What leaves its session ends with the node, and that of an account stays (docs/fork-server.md).
ON_AN_ACCOUNT = """
with BatchExecutor(max_workers=2) as ex:
    list(ex.map(partial(work.sleep_with_family, started, family=("child",)), range(4)))
"""
AT_HOME = ("task0", "child0", "task1", "child1")


@pytest.mark.parametrize("waiting_for", ["result", "end"])
def test_ctrl_c_terminates_the_job_of_an_account(run: Run, account: Account, waiting_for: str) -> None:
    text = ON_AN_ACCOUNT if waiting_for == "result" else ON_AN_ACCOUNT.replace("list(", "results = (")
    script = run(text, **as_azure(account))
    script.wait_for(*AT_HOME)
    (job,) = account.jobs()
    tasks = f"{job}/job-1/c"  # in the path of the directory that they and their children work in
    assert len(processes_of(tasks)) >= len(AT_HOME)
    script.send_to_group(signal.SIGINT)
    code, _, err = script.end()
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert f"interrupted: ending job {job}." in err
    assert account.jobs()[job] in ("terminating", "completed"), "before the client has gone"
    until(account.jobs, lambda states: states == {job: "completed"})
    until(lambda: processes_of(tasks), lambda found: not found)
    script.leaves_nothing()


def test_ctrl_c_ends_the_wait_for_an_account_that_does_not_answer(run: Run, account: Account) -> None:
    script = run(
        "with BatchExecutor() as ex:\n"
        "    future = ex.submit(abs, -1)\n"
        "    open(os.path.join(started, 'submitted'), 'w').close()\n"
        "    future.result()\n",
        **as_azure(account),
        BATCHEXEC_CONNECT_TIMEOUT="600",
    )
    os.kill(account.ready["pid"], signal.SIGSTOP)
    try:
        script.wait_for("submitted")
        script.send(signal.SIGINT)
        code, _, err = script.end()
    finally:
        os.kill(account.ready["pid"], signal.SIGCONT)
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    script.leaves_nothing()


def test_a_second_ctrl_c_leaves_at_once(run: Run, account: Account) -> None:
    patient = "from batchexec._engine import engine\nengine._CLOSE_SECONDS = 600.0\n"
    script = run(patient + ON_AN_ACCOUNT, **as_azure(account), BATCHEXEC_CONNECT_TIMEOUT="600")
    script.wait_for(*AT_HOME)
    os.kill(account.ready["pid"], signal.SIGSTOP)  # it does not answer, so ending the job takes long
    try:
        script.send(signal.SIGINT)
        script.wait_to_say("interrupted: ending job")
        script.send(signal.SIGINT)
        code, _, err = script.end()
    finally:
        os.kill(account.ready["pid"], signal.SIGCONT)
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def test_a_killed_client_of_an_account_does_not_end_its_work(run: Run, account: Account) -> None:
    script = run(
        """
with BatchExecutor(max_workers=2) as ex:
    list(ex.map(partial(work.touch_and_wait_for, started), ["a", "b", "c", "d"]))
""",
        **as_azure(account),
    )
    script.wait_for("a", "b")
    script.send(signal.SIGKILL)
    assert script.end()[0] == -signal.SIGKILL
    (script.started / "go").touch()
    until(lambda: set(os.listdir(script.started)), lambda names: names >= {"c", "d"})
    assert set(account.jobs().values()) == {"active"}


# forked children


@pytest.mark.parametrize("leaving", ["sys.exit(3)", slow("os._exit(3)"), slow("raise KeyboardInterrupt")])
def test_a_forked_child_that_ends_takes_nothing_with_it(run: Run, leaving: str) -> None:
    script = run(f"""
with BatchExecutor(max_workers=1) as ex:
    future = ex.submit(work.touch_and_wait_for, started, "a")
    while not os.path.exists(os.path.join(started, "a")):
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        {leaving}
    assert os.waitpid(child, 0)[1] != 0
    assert not future.done()
    open(os.path.join(started, "go"), "w").close()
    print(future.result(60), ex.submit(work.double, 4).result(60))
""")
    code, out, err = script.end()
    assert (code, out) == (0, "None 8\n"), err
    script.leaves_nothing()


# sudden ends


@pytest.mark.parametrize("number", [slow(signal.SIGTERM), signal.SIGKILL, slow(signal.SIGHUP)])
def test_a_killed_client_takes_all_with_it(run: Run, number: signal.Signals) -> None:
    script = run(SLEEPING)
    script.wait_for(*FAMILY)
    script.send(number)
    assert script.end()[0] == -number
    script.leaves_nothing()


def test_a_client_killed_while_the_service_starts_takes_all_with_it(run: Run) -> None:
    script = run("ex = BatchExecutor()\nf = ex.submit(time.sleep, 600)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert script.end()[0] == -signal.SIGKILL
    script.leaves_nothing()


def test_workers_started_without_the_fork_server_end_as_well(run: Run, tmp_path: Path) -> None:
    plain = tmp_path / "python"
    plain.write_text(f'#!/bin/sh\ncase "$2" in *forkserver*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    plain.chmod(0o755)
    script = run(SLEEPING, BATCHEXEC_PYTHON=str(plain))
    script.wait_for(*FAMILY)
    script.send(signal.SIGKILL)
    script.end()
    script.leaves_nothing()


SLOW_TO_LOAD = """
import os, time

if "AZ_BATCH_NODE_ID" in os.environ:
    open({path!r}, "w").close()
    time.sleep(600)


def function(x):
    return x
"""


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGKILL])
def test_a_fork_server_in_the_middle_of_its_preloading_ends_as_well(
    run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    worker = Interpreter(tmp_path / "venv")
    here = tmp_path / "site-packages"  # so it counts as installed, and is not shipped
    here.mkdir()
    for folder in (here, worker.site_packages):
        (folder / "slow_to_load.py").write_text(SLOW_TO_LOAD.format(path=str(tmp_path / "started" / "loading")))
    script = run(
        f"sys.path.append({str(here)!r})\nimport slow_to_load\n"
        "with BatchExecutor() as ex: list(ex.map(slow_to_load.function, range(4)))",
        BATCHEXEC_PYTHON=worker.python,
    )
    script.wait_for("loading")
    script.send(number)
    assert script.end()[0] == -number
    script.leaves_nothing()


def test_a_service_that_is_killed_fails_what_is_pending(run: Run) -> None:
    script = run("""
with BatchExecutor(max_workers=2) as ex:
    futures = [ex.submit(work.sleep_with_family, started, n) for n in range(4)]
    for future in futures:
        print(type(future.exception()).__name__)
""")
    script.wait_for(*FAMILY)
    os.kill(script.service_pid(), signal.SIGKILL)
    code, out, err = script.end()
    assert out == 4 * "ServiceUnreachableError\n", err
    assert code == 0
    script.leaves_no_process()

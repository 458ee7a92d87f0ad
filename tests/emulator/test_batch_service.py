"""Tasks, their files, lists, authentication and errors, as the real SDK sees them."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient, models
from azure.batch.aio import BatchClient as AsyncBatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from batch_service import Service, refused, service
from helpers_http import serving
from helpers_processes import process_is_there
from manual_service import Here, scenario, until
from raw_wire import Reply, Wire

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool()


# Tasks and what they leave


def test_a_task_runs_in_its_directory_and_its_output_can_be_read(service: Service, pool: str) -> None:
    job = service.job(pool)
    task = service.run(job, "/bin/sh -c 'pwd; echo oops >&2; echo data > \"a b.txt\"'")
    assert (task.execution_info.exit_code, task.execution_info.result) == (0, "success")
    assert task.execution_info.start_time <= task.execution_info.end_time
    assert service.output(job).strip().endswith(f"workitems/{job}/job-1/t/wd")
    assert service.output(job, name="stderr.txt") == "oops\n"
    assert service.output(job, name="wd/a b.txt") == "data\n"
    names = {file.name for file in service.client.list_task_files(job, "t", recursive=True)}
    assert names == {"stdout.txt", "stderr.txt", "wd", "wd/a b.txt"}


def test_a_range_of_a_file_and_its_properties(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.run(job, "printf 0123456789")
    part = b"".join(service.client.download_task_file(job, "t", "stdout.txt", ocp_range="bytes=2-4"))
    assert part == b"234"
    assert service.client.get_task_file_properties(job, "t", "stdout.txt").content_length == 10


def test_files_outside_the_task_directory_cannot_be_read(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.run(job, "ln -s /etc/hostname leak")
    for path in ("../../../../../../etc/hostname", "wd/leak", "nothing", "wd"):
        with pytest.raises(ResourceNotFoundError):
            service.output(job, name=path)


def test_output_can_be_read_while_the_task_runs(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "/bin/sh -c 'echo early; exec sleep 100'")
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "running")
    service.until(lambda: _try_output(service, job), lambda text: text == "early\n")
    service.client.terminate_task(job, "t")
    service.completed(job)


def test_the_environment_is_the_nodes_not_the_clients(
    service: Service, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = service.job(
        pool,
        common_environment_settings=[
            models.EnvironmentSetting(name="A", value="job"),
            models.EnvironmentSetting(name="B", value="job"),
        ],
    )
    setting = models.EnvironmentSetting(name="B", value="task")
    service.run(job, "env", environment_settings=[setting])
    env = dict(line.split("=", 1) for line in service.output(job).splitlines())
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env["PATH"] == f"{service.root}/bin:{system}", "python and python3 are the service's own"
    assert (env["A"], env["B"]) == ("job", "task")
    assert env["HOME"] == env["AZ_BATCH_TASK_WORKING_DIR"] == env["AZ_BATCH_TASK_DIR"] + "/wd"
    assert (env["AZ_BATCH_POOL_ID"], env["AZ_BATCH_JOB_ID"], env["AZ_BATCH_TASK_ID"]) == (pool, job, "t")
    assert env["TMPDIR"].startswith(env["AZ_BATCH_NODE_ROOT_DIR"])
    assert "VIRTUAL_ENV" not in env
    assert "PYTEST_CURRENT_TEST" not in env


def test_a_command_line_is_split_but_not_given_to_a_shell(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.run(job, "echo '$AZ_BATCH_JOB_ID  x' $HOME > y")
    assert service.output(job) == "$AZ_BATCH_JOB_ID  x $HOME > y\n"


@pytest.mark.parametrize(
    ("command", "exit_code", "code"),
    [
        ("/bin/sh -c 'exit 7'", 7, "FailureExitCode"),
        ("/bin/sh -c 'kill -9 $$'", 137, "FailureExitCode"),
        ("no-such-program", None, "CommandProgramNotFound"),
        ("/etc/hostname", None, "CommandLaunchFailed"),
        ("echo 'unbalanced", None, "CommandLaunchFailed"),
    ],
)
def test_a_failure_says_what_failed(
    service: Service, pool: str, command: str, exit_code: int | None, code: str
) -> None:
    execution = service.run(service.job(pool), command).execution_info
    assert (execution.exit_code, execution.result) == (exit_code, "failure")
    assert (execution.failure_info.category, execution.failure_info.code) == ("usererror", code)


def test_a_failing_command_is_retried_as_often_as_allowed(service: Service, pool: str) -> None:
    job = service.job(pool)
    command = "/bin/sh -c 'echo >> tries; [ $(wc -l < tries) -ge 3 ]'"
    limit = models.BatchTaskConstraints(max_task_retry_count=5)
    execution = service.run(job, command, "heals", constraints=limit).execution_info
    assert (execution.result, execution.retry_count) == ("success", 2)
    assert execution.last_retry_time == execution.start_time
    limit = models.BatchTaskConstraints(max_task_retry_count=1)
    execution = service.run(job, command, "stays", constraints=limit).execution_info
    assert (execution.result, execution.exit_code, execution.retry_count) == ("failure", 1, 1)


@scenario
async def test_the_time_limit_ends_the_task_with_its_children(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1)
    limit = {"maxWallClockTime": "PT1H", "maxTaskRetryCount": 3}
    await here.task(commandLine="/bin/sh -c 'sleep 100 & echo $!; wait'", constraints=limit)
    stdout = await here.directory() / "stdout.txt"
    child = await until(lambda: stdout.read_text() if stdout.exists() else "", lambda text: text.endswith("\n"))
    here.clock.advance(3599)
    assert (await here.client.get_task("j", "t")).state == "running"
    here.clock.advance(1)
    execution = (await here.task_in("completed")).execution_info
    assert (execution.failure_info.code, execution.retry_count) == ("TaskEnded", 0)
    await until(lambda: process_is_there(child), lambda there: not there)


def test_what_a_task_leaves_in_the_background_ends_with_it(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.run(job, "/bin/sh -c 'sleep 100 & echo $!'")
    child = service.output(job)
    service.until(lambda: process_is_there(child), lambda there: not there)


def test_terminate_kills_a_running_task_and_completes_a_waiting_one(service: Service, pool: str) -> None:
    job = service.job(pool, max_parallel_tasks=1)
    service.task(job, "sleep 100", "running")
    service.until(lambda: service.client.get_task(job, "running"), lambda task: task.state == "running")
    service.task(job, "true", "waiting")
    for id in ("waiting", "running"):
        service.client.terminate_task(job, id)
        assert service.completed(job, id).execution_info.failure_info.code == "TaskEnded"
    with refused("TaskCompleted", 409):
        service.client.terminate_task(job, "running")


def test_reactivate_gives_a_failed_task_another_run(service: Service, pool: str) -> None:
    job = service.job(pool)
    assert service.run(job, "/bin/sh -c '[ -e again ] || { touch again; exit 1; }'").execution_info.exit_code == 1
    service.client.reactivate_task(job, "t")
    assert service.completed(job).execution_info.result == "success"
    with refused("TaskSucceeded", 409):
        service.client.reactivate_task(job, "t")


def test_deleting_a_running_task_kills_it_and_removes_its_directory(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "/bin/sh -c 'pwd; echo $$; exec sleep 100'")
    text = service.until(lambda: _try_output(service, job), lambda text: text.count("\n") == 2)
    directory, pid = text.split()
    service.client.delete_task(job, "t")
    with refused("TaskNotFound", 404):
        service.client.get_task(job, "t")
    service.until(lambda: process_is_there(pid) or Path(directory).exists(), lambda there: not there)


@scenario
async def test_a_task_with_the_id_of_a_deleted_one_finds_nothing_of_it(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1, taskSlotsPerNode=2)
    await here.task(commandLine="/bin/sh -c 'touch left; exec sleep 100'")
    directory = await here.directory()
    await until(lambda: (directory / "wd" / "left").exists())
    here.emulator.pools.nodes.disconnect(here.nodes[0])  # the end of the first is heard of when the second may start
    await here.client.delete_task("j", "t")
    await here.task(commandLine="/bin/sh -c 'ls; echo new'")
    here.emulator.pools.nodes.reconnect(here.nodes[0])
    assert (await here.task_in("completed")).execution_info.exit_code == 0
    assert (directory / "stdout.txt").read_text() == "new\n"


def _try_output(service: Service, job: str) -> str:
    try:
        return service.output(job)
    except HttpResponseError:
        return ""


def test_resource_files_are_there_before_the_task_starts(service: Service, pool: str, tmp_path: Path) -> None:
    job = service.job(pool)
    served = {"/one": (200, b"hello"), "/gone": (404, b""), "/closed": (403, b""), "/odd": (500, b"")}
    with files_over_http(served) as url:
        file = models.ResourceFile(http_url=url + "/one?sig=s", file_path="in/x.txt", file_mode="0640")
        assert service.run(job, "stat -c %a in/x.txt", resource_files=[file]).execution_info.exit_code == 0
        assert service.output(job) == "640\n"
        assert service.output(job, name="wd/in/x.txt") == "hello"
        for path, code in (
            ("/gone", "BlobNotFound"),
            ("/closed", "BlobAccessDenied"),
            ("/odd", "BlobDownloadMiscError"),
        ):
            file = models.ResourceFile(http_url=url + path, file_path="x")
            execution = service.run(job, "true", code, resource_files=[file]).execution_info
            assert (execution.failure_info.code, execution.exit_code) == (code, None)
        file = models.ResourceFile(http_url=url + "/one", file_path="../../escape")
        execution = service.run(job, "true", "escapes", resource_files=[file]).execution_info
        assert execution.failure_info.code == "ResourceFileCreateFailed"


def files_over_http(files: dict[str, tuple[int, bytes]]) -> AbstractContextManager[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = files[self.path.partition("?")[0]]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return serving(Handler)


# Collections, lists, filters, pages


def test_a_collection_reports_each_task_by_itself(service: Service, pool: str) -> None:
    job = service.job(pool)
    items = [{"id": id, "commandLine": "true"} for id in ("a", "b", "A", "bad id")]
    results = service.client.create_task_collection(job, {"value": items})["value"]
    found = {item["taskId"]: (item["status"], "error" in item and item["error"]["code"]) for item in results}
    assert found == {
        "a": ("success", False),
        "b": ("success", False),
        "A": ("clienterror", "TaskExists"),
        "bad id": ("clienterror", "InvalidPropertyValue"),
    }


def test_a_collection_has_at_most_100_tasks_and_1_mb(service: Service, pool: str) -> None:
    job = service.job(pool)
    items = [{"id": f"t{i}", "commandLine": "true"} for i in range(101)]
    with refused("InvalidPropertyValue", 400):
        service.client.create_task_collection(job, {"value": items})
    huge = [{"id": "huge", "commandLine": "true " + "x" * (1 << 20)}]
    with refused("RequestBodyTooLarge", 413):
        service.client.create_task_collection(job, {"value": huge})
    with refused("TaskNotFound", 404):
        service.client.get_task(job, "t0")


def test_lists_are_filtered_selected_and_paged(service: Service) -> None:
    job = service.job("pool-that-comes-later")
    for i in range(7):
        service.task(job, "true", f"{'even' if i % 2 == 0 else 'odd'}{i}")
    listed = service.client.list_tasks(job, max_results=2)
    assert [len(list(page)) for page in listed.by_page()] == [2, 2, 2, 1]
    pages = service.client.list_tasks(job, max_results=2, filter="startswith(id,'EVEN') and state eq 'active'")
    assert [task.id for task in pages] == ["even0", "even2", "even4", "even6"]
    one = next(iter(service.client.list_tasks(job, select=["id", "state"])))
    assert (one.id, one.state, one.command_line, one.execution_info) == ("even0", "active", None, None)
    with refused("InvalidQueryParameterValue", 400):
        list(service.client.list_tasks(job, filter="commandLine eq 'x'"))
    with refused("OutOfRangeQueryParameterValue", 400):
        list(service.client.list_tasks(job, max_results=1001))


def test_a_query_for_recent_changes_sees_just_those(service: Service, pool: str) -> None:
    job = service.job(pool, max_parallel_tasks=1)
    first = service.run(job, "true", "first")
    second = service.run(job, "true", "second")
    moment = second.state_transition_time.isoformat()
    text = f"state ne 'active' and stateTransitionTime ge DateTime'{moment}'"
    assert [task.id for task in service.client.list_tasks(job, filter=text)] == ["second"]
    moment = first.state_transition_time.isoformat()
    text = f"state ne 'active' and stateTransitionTime ge DateTime'{moment}'"
    assert [task.id for task in service.client.list_tasks(job, filter=text)] == ["first", "second"]


def test_the_asynchronous_client_is_served_too(service: Service, pool: str) -> None:
    job = service.job(pool)

    async def run() -> list[str]:
        credential = AzureNamedKeyCredential(service.info["account"], service.info["batch_key"])
        async with AsyncBatchClient(service.info["batch_endpoint"], credential) as client:
            items: Any = {"value": [{"id": f"t{i}", "commandLine": "true"} for i in range(20)]}
            await client.create_task_collection(job, items)
            while True:
                done = [task.id async for task in client.list_tasks(job, filter="state eq 'completed'")]
                if len(done) == 20:
                    return done

    assert len(asyncio.run(run())) == 20


# Authentication and errors


def test_another_key_and_no_key_are_refused(service: Service) -> None:
    credential = AzureNamedKeyCredential(service.info["account"], "AAAA")
    with (
        BatchClient(service.info["batch_endpoint"], credential) as stranger,
        refused("AuthenticationFailed", 403),
    ):
        list(stranger.list_pools())
    assert unsigned(service, "127.0.0.1").status == 403


def test_a_host_that_is_not_this_machine_is_refused(service: Service) -> None:
    reply = unsigned(service, "evil.example:80")
    assert (reply.status, json.loads(reply.body)["code"]) == (400, "InvalidHeaderValue")


def unsigned(service: Service, host: str) -> Reply:
    wire = Wire(service.info["batch_endpoint"])
    reply = wire.exchange(f"GET /jobs?api-version=2025-06-01 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    wire.close()
    assert reply is not None
    return reply


def test_what_the_emulator_does_not_do_it_says(service: Service, pool: str) -> None:
    schedule: Any = {"id": "s", "schedule": {}, "jobSpecification": {"poolInfo": {"poolId": pool}}}
    with refused("UnsupportedHttpVerb", 405):
        service.client.create_job_schedule(schedule)
    with refused("ResourceNotFound", 404):
        service.client.create_node_user(pool, "node", models.BatchNodeUserCreateOptions(name="u"))
    task = models.BatchTaskCreateOptions(
        id="t",
        command_line="true",
        multi_instance_settings=models.MultiInstanceSettings(coordination_command_line="true"),
    )
    with refused("InvalidPropertyValue", 400):
        service.client.create_task(service.job(pool), task)


def test_conditions_on_etags_are_checked(service: Service, pool: str) -> None:
    from azure.core import MatchConditions

    job = service.job(pool)
    etag = service.client.get_job(job).etag
    update = models.BatchJobUpdateOptions(priority=5)
    service.client.update_job(job, update, etag=etag, match_condition=MatchConditions.IfNotModified)
    with refused("ConditionNotMet", 412):
        service.client.update_job(job, update, etag=etag, match_condition=MatchConditions.IfNotModified)

"""A session of azure-batch 14.2, the previous generation of the SDK, over TLS. Runs in an environment of its own.

The environment names the account as `batchexec emulator env` does; REQUESTS_CA_BUNDLE holds its authority.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
from azure.storage.blob import BlobServiceClient, generate_container_sas

SHELL = "/bin/sh -c '{}'"
TASKS = 250  # more than one request of the collection holds


def main() -> None:
    endpoint = os.environ["AZURE_BATCH_ENDPOINT"]
    assert endpoint.startswith("https:"), endpoint
    key = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    batch = BatchServiceClient(key, batch_url=endpoint)
    blobs = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
    container = blobs.create_container("legacy")
    container.upload_blob("in/greeting.txt", b"good morning")
    expiry = datetime.now(timezone.utc) + timedelta(hours=1)
    sas = generate_container_sas(
        blobs.account_name,
        "legacy",
        account_key=blobs.credential.account_key,
        permission="racwl",
        expiry=expiry,
    )
    url = f"{container.url}?{sas}"

    image = models.ImageReference(
        publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest"
    )
    machine = models.VirtualMachineConfiguration(
        image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04"
    )
    batch.pool.add(
        models.PoolAddParameter(
            id="legacy",
            vm_size="Standard_D4s_v5",
            virtual_machine_configuration=machine,
            target_dedicated_nodes=1,
            task_slots_per_node=4,
            start_task=models.StartTask(command_line=SHELL.format("echo started"), wait_for_success=True),
            target_node_communication_mode=models.NodeCommunicationMode.simplified,
        )
    )
    batch.job.add(
        models.JobAddParameter(
            id="legacy",
            pool_info=models.PoolInformation(pool_id="legacy"),
            on_all_tasks_complete=models.OnAllTasksComplete.no_action,
            constraints=models.JobConstraints(max_wall_clock_time=timedelta(hours=1)),
        )
    )
    tasks = [models.TaskAddParameter(id=f"t{n:03}", command_line="true") for n in range(TASKS)]
    tasks[7].command_line = SHELL.format("cat given/*.txt; echo; cp given/*.txt made.txt; echo trouble >&2")
    tasks[7].resource_files = [
        models.ResourceFile(http_url=f"{container.url}/in/greeting.txt?{sas}", file_path="given/one.txt")
    ]
    tasks[8].command_line = SHELL.format("cat in/greeting.txt; exit 4")
    tasks[8].resource_files = [models.ResourceFile(storage_container_url=url, blob_prefix="in/")]
    for task in (tasks[7], tasks[8]):
        task.output_files = [_output("*.txt", url, f"out/{task.id}", "task_success")]
        task.output_files.append(_output("../std*.txt", url, f"log/{task.id}", "task_completion"))
    result = batch.task.add_collection("legacy", tasks, threads=2)
    assert sorted(item.task_id for item in result.value) == [task.id for task in tasks]
    assert {str(item.status) for item in result.value} == {"TaskAddStatus.success"}, result.value[0].status

    end = time.monotonic() + 60
    while batch.job.get_task_counts("legacy").task_counts.completed < TASKS:
        assert time.monotonic() < end, batch.job.get_task_counts("legacy").task_counts
        time.sleep(0.1)
    failed = list(
        batch.task.list("legacy", models.TaskListOptions(filter="executionInfo/result eq 'failure'"))
    )
    assert [(task.id, task.execution_info.exit_code) for task in failed] == [("t008", 4)], failed
    assert failed[0].execution_info.failure_info.code == "FailureExitCode"
    shown = batch.task.get("legacy", "t007")
    assert shown.state == models.TaskState.completed
    assert shown.execution_info.result == models.TaskExecutionResult.success
    assert _file(batch, "t007", "stdout.txt") == "good morning\n"
    assert _file(batch, "t007", "stderr.txt") == "trouble\n"
    assert _file(batch, "t008", "stdout.txt") == "good morning"
    names = {file.name for file in batch.file.list_from_task("legacy", "t007", recursive=True)}
    assert {"stdout.txt", "wd", "wd/made.txt", "wd/given/one.txt", "fileuploadout.txt"} <= names, names
    written = {blob.name for blob in container.list_blobs()} - {"in/greeting.txt"}
    logs = {f"log/t{n:03}/std{stream}.txt" for n in (7, 8) for stream in ("out", "err")}
    assert written == {"out/t007/made.txt", *logs}, written
    assert container.download_blob("out/t007/made.txt").readall() == b"good morning"

    assert _refusal(lambda: batch.task.add("legacy", tasks[0])) == "TaskExists"
    assert _refusal(lambda: batch.job.get("none")) == "JobNotFound"
    (node,) = batch.compute_node.list("legacy")
    assert node.total_tasks_run == TASKS, node.total_tasks_run
    batch.job.delete("legacy")
    batch.pool.delete("legacy")
    container.delete_container()
    end = time.monotonic() + 30
    while list(batch.pool.list()) or list(batch.job.list()):
        assert time.monotonic() < end
        time.sleep(0.1)
    print("legacy session: all as expected")


def _output(pattern: str, url: str, path: str, condition: str) -> models.OutputFile:
    destination = models.OutputFileBlobContainerDestination(container_url=url, path=path)
    return models.OutputFile(
        file_pattern=pattern,
        destination=models.OutputFileDestination(container=destination),
        upload_options=models.OutputFileUploadOptions(
            upload_condition=getattr(models.OutputFileUploadCondition, condition)
        ),
    )


def _refusal(call: Callable[[], object]) -> str:
    """The code of the service's error."""
    try:
        call()
    except models.BatchErrorException as error:
        return str(error.error.code)
    return "none"


def _file(batch: BatchServiceClient, task: str, name: str) -> str:
    return b"".join(batch.file.get_from_task("legacy", task, name)).decode()


if __name__ == "__main__":
    main()

"""Outputs that are large, disks that are small, and tasks in containers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import helpers_outputs as outputs
import pytest
from helpers_containers import IMAGE, OPTIONS, PYTHON, need_containers
from helpers_disks import small_disk
from helpers_service import found_below, scrubbed, service, until

from batchexec import BatchConfig, BatchExecutor
from batchexec._engine import earlier_jobs
from batchexec.errors import OutputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MEGABYTE = 1 << 20

LARGE = """
import resource, sys
import helpers_outputs as outputs
from batchexec import BatchExecutor

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

if __name__ == "__main__":
    with BatchExecutor(max_workers=1, outputs="*.bin", output_dir=sys.argv[1], progress=False) as executor:
        executor.submit(outputs.leave_megabytes, "small.bin", 1).result()
        before = peak()
        future = executor.submit(outputs.leave_megabytes_within, "large.bin", 200, 48 << 20)
        future.result()
        print(peak() - before, future.outputs[0])
"""


def test_neither_side_holds_a_large_file_in_memory(tmp_path: Path) -> None:
    """The worker may have 48 MB more than before the call, else it raises MemoryError; so much for the client."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path)],
        env=scrubbed(PYTHONPATH=str(Path(__file__).parent)),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    grown, path = done.stdout.split()
    assert int(grown) < 48 * MEGABYTE
    digest = hashlib.sha256()
    for number in range(200):
        digest.update(number.to_bytes(4, "big") * (1 << 18))
    with open(path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()  # type: ignore[attr-defined, unused-ignore]


def test_outputs_make_room_for_those_that_follow(tmp_path: Path) -> None:
    """40 items leave 4 MB each, on a node whose disk holds 48 MB."""
    with small_disk(tmp_path / "nodes", "48m", 2000), service(root=tmp_path) as account:
        account.fixed_pool(slots=2)
        where = str(tmp_path / "here" / "{item}")
        with BatchExecutor(
            **account.settings, pool_id="fixed", outputs="*.bin", output_dir=where, retries=0
        ) as executor:
            list(executor.map(outputs.leave_megabytes, ["a.bin"] * 40, [4] * 40, chunksize=2))
    found = sorted((tmp_path / "here").rglob("*.bin"))
    assert [path.stat().st_size for path in found] == [4 * MEGABYTE] * 40


def test_a_full_disk_here_leaves_the_files_in_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as account, small_disk(tmp_path / "small", "6m"):
        account.fixed_pool(slots=1)
        where = str(tmp_path / "small" / "{item}")
        with BatchExecutor(**account.settings, pool_id="fixed", outputs="*.bin", output_dir=where) as executor:
            # One after the other: the large one fills the disk until it is given up.
            errors = [executor.submit(outputs.leave_megabytes, "a.bin", size).exception() for size in (2, 9, 2)]
            job = str(executor.stats().job_id)
        assert [errors[0], errors[2]] == [None, None]
        assert isinstance(errors[1], OutputError)
        assert f"'{tmp_path}/small/1/a.bin', which item 1 left, cannot be written here: No space left" in str(errors[1])
        assert sorted(path.name for path in (tmp_path / "small").rglob("*") if path.is_file()) == ["a.bin", "a.bin"]
        for name, value in account.environment().items():
            monkeypatch.setenv(name, value)
        items = earlier_jobs.fetch(BatchConfig.load(), job, str(tmp_path / "fetched")).items
        assert [path.stat().st_size for item in items for path in item.outputs] == [
            size * MEGABYTE for size in (2, 9, 2)
        ]


@pytest.mark.skipif(sys.version_info[:2] != PYTHON, reason=f"pickled functions go to the Python of {IMAGE} only")
def test_files_come_out_of_a_container(tmp_path: Path) -> None:
    need_containers()
    root = tmp_path / "service"
    root.mkdir()
    with service(*OPTIONS, root=root) as account:
        settings = {**account.settings, "python": "python3", "image": IMAGE, "slots": 2, "max_nodes": 1}
        with BatchExecutor(
            **settings, outputs=["*.out", "sub/**/*.out"], output_dir=str(tmp_path / "{item}"), retries=0
        ) as executor:
            futures = [executor.submit(outputs.leave_all, number) for number in (0, 2)]
            for future in futures:
                future.result()
            (task,) = found_below(root, str(futures[0].task_id))
            until(lambda: os.listdir(task / "wd"), lambda found: not found)
    for item, number in enumerate((0, 2)):
        found = {str(path.relative_to(tmp_path / str(item))): path for path in futures[item].outputs}
        assert {name: path.read_bytes() for name, path in found.items()} == {
            name: outputs.content(number, name) for name in outputs.NAMES
        }

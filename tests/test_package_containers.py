"""Packages that an image lacks come from the index, once per node: real containers, real packages (slow)."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_containers import IMAGE, OPTIONS, PYTHON, WORKER_IMAGE, left_in, need_containers
from helpers_packages import use_published
from helpers_service import Account, service

from batchexec import BatchExecutor
from batchexec.errors import MissingModuleError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        sys.version_info[:2] != PYTHON, reason=f"pickled functions go to the Python of {IMAGE} only, {PYTHON}"
    ),
]

NOBODY = "http://127.0.0.1:9"  # a proxy that is not there: who needs an index, fails


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    need_containers()
    root = tmp_path_factory.mktemp("service")
    with service(*OPTIONS, root=root) as running:
        yield running
    assert not left_in(root)


def authorities() -> dict[str, str]:
    """What this machine's pip is told to trust, by its environment or its files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.search(r"\.cert='(.+)'$", listed.stdout, re.MULTILINE)
    return {"ca_bundle": found[1]} if found else {}


@pytest.mark.parametrize("image", [IMAGE, WORKER_IMAGE], ids=["only Python", "generic"])
def test_packages_come_with_the_first_task_and_stay_for_the_next_job(
    account: Account, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    need_containers(image)
    settings: dict[str, Any] = {**account.settings, "python": "python3", "image": image, "slots": 2, "max_nodes": 1}
    with BatchExecutor(
        **settings, requirements=None
    ) as executor:  # a node and its image are there: the rest is packages
        with pytest.raises(MissingModuleError, match="frozenlist"):
            executor.submit(use_published, 0).result()
    seconds = []
    found = []
    for more in (authorities(), {**authorities(), "proxy": NOBODY}):
        began = time.monotonic()
        with BatchExecutor(**settings, **more) as executor:
            found.append(list(executor.map(use_published, range(6), chunksize=2)))
        seconds.append(time.monotonic() - began)
    assert found[0] == found[1]
    assert [total for total, *_ in found[0]] == [4 + number for number in range(6)]
    assert all("/shared/batchexec/environments/" in place for _, _, places in found[0] for place in places)
    with capsys.disabled():
        print(f"\n{image}: first job {seconds[0]:.1f} s with its packages, second {seconds[1]:.1f} s")
    assert seconds[1] < seconds[0]
    assert Path(found[0][0][1]).name == "python"

"""Packages that an image lacks come from the index, once per node: real containers, real packages (slow)."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import Any

import pytest
from helpers_containers import IMAGE, WORKER_IMAGE, container_service, for_tests, need_containers, on
from helpers_fixtures import account_in_root
from helpers_packages import look_into_environment, use_published
from helpers_service import Account

from batchexec import BatchExecutor

pytestmark = [*for_tests, pytest.mark.timeout(600)]

NOBODY = "http://127.0.0.1:9"  # a proxy that is not there: who needs an index, fails


account = account_in_root(container_service)


def authorities() -> dict[str, str]:
    """What this machine's pip is told to trust, by its environment or its files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.search(r"\.cert='(.+)'$", listed.stdout, re.MULTILINE)
    return {"ca_bundle": found[1]} if found else {}


def settings_for(account: Account, image: str) -> dict[str, Any]:
    need_containers(image)
    return account.settings | on(image, progress=False, echo=True) | authorities()


@pytest.mark.parametrize(("image", "installer"), [(IMAGE, "pip"), (WORKER_IMAGE, "uv")], ids=["only Python", "generic"])
def test_packages_come_with_the_first_task_and_stay_for_the_next_job(
    account: Account, image: str, installer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(account, image)
    with BatchExecutor(**{**settings, "requirements": None}) as executor:  # node and image are there, what follows
        with pytest.raises(ModuleNotFoundError, match="frozenlist"):  # takes its time for packages
            executor.submit(use_published, 0).result()
    del settings["requirements"]  # by default, they are what the callable reaches
    seconds, found, said = [], [], []
    for more in ({}, {"proxy": NOBODY}):
        began = time.monotonic()
        with BatchExecutor(**settings, **more) as executor:
            found.append(list(executor.map(use_published, range(4), chunksize=1)))
        seconds.append(time.monotonic() - began)
        said.append(capfd.readouterr().err)
    assert found[0] == found[1]
    assert [total for total, *_ in found[0]] == [4 + number for number in range(4)]
    assert {by.strip() for _, by, _ in found[0] if by} == {installer}
    assert all("/shared/batchexec/environments/" in place for *_, places in found[0] for place in places)
    assert said[0].count("installed in") == 1
    assert "install" not in said[1]
    with capfd.disabled():
        print(f"\n{image}: first job {seconds[0]:.1f} s with its packages, by {installer}; second {seconds[1]:.1f} s")


def test_only_what_the_image_lacks_is_installed(account: Account) -> None:
    settings = settings_for(account, WORKER_IMAGE)
    settings["requirements"] = ["scikit-learn", "pandas>=2", "sortedcontainers"]
    with BatchExecutor(**settings) as executor:
        own, others = executor.submit(look_into_environment, "sortedcontainers", "sklearn", "numpy", "pandas").result()
    assert own == ["sortedcontainers"]
    assert others == ["sklearn", "numpy", "pandas"]

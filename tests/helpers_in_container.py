"""What the tests of container nodes have run there: an image has no test tools, so these functions need none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def look_around(marker: str, number: int) -> dict[str, Any]:
    print("seen", number)
    return {
        "marker": Path(marker).read_text(),
        "python": sys.executable,
        "batch": sorted(name for name in os.environ if name.startswith("AZ_BATCH_")),
        "values": list(os.environ.values()),
        "number": number,
    }


def invert(number: int) -> float:
    return 1 / number


def hold(seconds: str) -> None:
    """Wait in a child; the odd number is what it is recognised by."""
    subprocess.run(["sleep", seconds])

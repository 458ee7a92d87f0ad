"""What the command line or a test may choose about an emulator."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from .quotas import Quotas


@dataclass(frozen=True)
class Options:
    """`root` is the directory of the nodes and blobs, None a temporary one that goes at the end.

    `python` is what `python` and `python3` mean on the nodes; by default the interpreter that runs this.
    """

    root: Path | None = None
    python: str = sys.executable
    quotas: Quotas = field(default_factory=Quotas)

"""What the command line or a test may choose about an emulator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.scheduling.quotas import Quotas

if TYPE_CHECKING:
    from batchexec.emulator.faults.latency import Latency
    from batchexec.emulator.persistence.datadir import DataDirectory


@dataclass(frozen=True)
class Containers:
    """`kind` is podman or docker, `command` how its client is called here, `options` go to every container."""

    kind: str
    command: Sequence[str]
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Options:
    """`root` is the directory of the nodes and blobs, None a temporary one that goes at the end. `data`: where all is
    kept from one run to the next; its path is the root then.

    `python` is what `python` and `python3` mean on the nodes; by default the interpreter that runs this.
    `inline`: tasks that follow the fork-server contract run in processes that stay (docs/fork-server.md).
    """

    root: Path | None = None
    python: str = sys.executable
    quotas: Quotas = field(default_factory=Quotas)
    host: str = "127.0.0.1"  # the address that the sockets listen on
    inline: bool = False
    data: DataDirectory | None = None
    containers: Containers | None = None  # what runs them; None: they are processes of the node
    faults: Sequence[object] = ()  # to arm from the start, each what one file of faults holds
    nodes: int = 0  # of the pool `local` that is there from the start; 0: there is no pool
    slots: int = 1  # of each of those nodes
    latency: Latency | None = None  # what the service takes its time for; None: it takes none

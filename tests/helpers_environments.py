"""A process that makes an environment of a node, and then stays as a task that uses it; what there is on nodes."""

from __future__ import annotations

import functools
import glob
import os
import subprocess
import sys
import time
from pathlib import Path

from batchexec._worker.packages.node_environments import NodeEnvironments

MADE = "made"  # a file in an environment that names the process which made it


def build_quickly(directory: str, scratch: str) -> None:
    Path(directory, MADE).write_text(str(os.getpid()))


def environments(root: Path) -> list[Path]:
    """What there is on all nodes, but for locks, links and notes: environments, whole or half made."""
    return [path for path in entries(root, "*.*") if path.is_dir()]


def entries(root: Path, pattern: str) -> list[Path]:
    """Of the environments' directories of all nodes, also while some of these are removed (as `Path.glob` cannot)."""
    return [Path(path) for path in glob.glob(f"{root}/nodes/*/shared/batchexec/environments/{pattern}")]


class Other:
    """Makes environments of `root`, and does not end one before the file `go` is there, where it is given."""

    def __init__(self, root: Path, *keys: str, go: Path | None = None) -> None:
        words = [sys.executable, __file__, str(root), str(go or ""), *(keys or ("key",))]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def id(self) -> str:
        return str(self.process.pid)

    def line(self) -> str:
        """The next thing that it says: what it waits for, then for each environment who has made it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def end(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


def main(root: str, go: str, *keys: str) -> None:
    for key in keys:
        environments = NodeEnvironments(root, "job", functools.partial(print, flush=True))

        def build(directory: str, scratch: str, environments: NodeEnvironments = environments, key: str = key) -> None:
            build_quickly(directory, scratch)
            environments.progress(key, "pip: half way")
            while go and not os.path.exists(go):
                time.sleep(0.01)

        made = environments.make(key, build)
        print(Path(str(made.directory), MADE).read_text(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

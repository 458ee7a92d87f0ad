"""The tasks' command line: a bootstrap that checks the staged worker's hash before it is run."""

from __future__ import annotations

import shlex
from typing import Any

from batchexec._wire import names

# One line, any Python 3: the hash stands in the job, never in storage.
_BOOT = (
    "import hashlib,os,sys;"
    "p=os.path.join(os.environ['AZ_BATCH_JOB_PREP_WORKING_DIR'],'worker.pyz');"
    "hashlib.sha256(open(p,'rb').read()).hexdigest()==sys.argv[1] "
    f"or sys.exit(print('batchexec: worker.pyz was changed',file=sys.stderr) or {names.EXIT_TAMPERED});"
    "sys.path.insert(0,p);"
    "from batchexec._worker.main import main;"
    "sys.exit(main())"
)


def worker_command(python: str, worker_sha256: str) -> str:
    """The command line of a task on the node itself; isolated from the node user's own packages and settings."""
    return shlex.join([python, "-I", "-c", _BOOT, worker_sha256])


def container_command(python: str, image: str, worker_sha256: str) -> dict[str, Any]:
    """`commandLine` and `containerSettings` of a task in a container: whatever the image's entry point, the
    interpreter is run."""
    return {
        "commandLine": shlex.join(["-I", "-c", _BOOT, worker_sha256]),
        "containerSettings": {"imageName": image, "containerRunOptions": f"--entrypoint {python}"},
    }


def fork_server_setting(worker_sha256: str) -> str:
    return f"{names.WORKER_FILE}:{names.FORK_MODULE}:{worker_sha256}"

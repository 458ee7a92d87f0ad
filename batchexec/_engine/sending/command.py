"""The tasks' command line: a bootstrap that checks the staged worker's hash before it is run."""

from __future__ import annotations

import shlex
from typing import Any

from batchexec._wire import names

WORKER_FILE = "worker.pyz"  # staged by the job's preparation task
_FORK_MODULE = "batchexec._worker.forked"

# One line, any Python 3: the hash stands in the job, never in storage.
_BOOT = (
    "import hashlib,os,sys;"
    f"p=os.path.join(os.environ['AZ_BATCH_JOB_PREP_WORKING_DIR'],{WORKER_FILE!r});"
    "hashlib.sha256(open(p,'rb').read()).hexdigest()==sys.argv[1] "
    f"or sys.exit(print('batchexec: worker.pyz was changed',file=sys.stderr) or {names.EXIT_TAMPERED});"
    "sys.path.insert(0,p);"
    "from batchexec._worker.main import main;"
    "sys.exit(main())"
)


def worker_command(python: str, worker_sha256: str) -> str:
    """The command line of a task on the node itself; isolated from the node user's own packages and settings."""
    return shlex.join([python, "-I", "-c", _BOOT, worker_sha256])


# The service starts containers on GPU nodes with NVIDIA's runtime, which gives the GPUs to those that ask by these
# variables, as CUDA's own images do; it refuses a --gpus in the run options (epi2me-labs/wf-basecalling#6).
GPU_SETTINGS = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}


def container_command(
    python: str, image: str, worker_sha256: str, registry: dict[str, Any] | None = None
) -> dict[str, Any]:
    """`commandLine` and `containerSettings` of a task in a container: whatever the image's entry point, the
    interpreter is run. `registry`: how the node logs in to where the image is."""
    settings: dict[str, Any] = {"imageName": image, "containerRunOptions": f"--entrypoint {python}"}
    if registry:
        settings["registry"] = registry
    return {"commandLine": shlex.join(["-I", "-c", _BOOT, worker_sha256]), "containerSettings": settings}


def fork_server_setting(worker_sha256: str) -> str:
    return f"{WORKER_FILE}:{_FORK_MODULE}:{worker_sha256}"

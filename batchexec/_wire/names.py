"""Names both sides use: environment settings, blobs, tasks, limits."""

from __future__ import annotations

import platform
import sys

# Environment settings of the job (secret: KEY, PIP) and of each task (secret: CHUNK, it carries SAS).
ENV_JOB = "BX_JOB"
ENV_KEY = "BX_KEY"
ENV_STORE = "BX_STORE"
ENV_PYTHON = "BX_PYTHON"
ENV_CHUNK = "BX_CHUNK"
ENV_PIP = "BX_PIP"  # how packages are installed: options, proxy (both may hold credentials), hash of the CA bundle
ENV_SECRET = (ENV_KEY, ENV_CHUNK, ENV_PIP)
ENV_GPUS = "BX_GPUS"  # of a task on a GPU node: GPUs of the node, its slots, slots of the task, as "2:4:1"
ENV_FORK_SERVER = "BATCHEXEC_FORK_SERVER"
ENV_PRELOAD_FD = "BATCHEXEC_FORK_PRELOAD_FD"
ENV_FIRST_RUN = "BATCHEXEC_FORK_FIRST_RUN"
# Set by the worker for the user's code: here, BatchExecutor() would be work that starts work.
ENV_INSIDE = "BX_INSIDE"

APP_PLACE = "\0app\0"  # in the words of a program: the directory of its app, which only the node knows
TAIL_BYTES = 64 * 1024  # of stdout and stderr kept with a result
SHELF_CHUNKS = 100  # results under one prefix

# Exit codes of a worker that could not store a result; chosen outside the shells' and Batch's own.
EXIT_NO_RESULT = 91
EXIT_TAMPERED = 92


def worker_blob(sha256: str) -> str:
    return f"worker/{sha256}.pyz"


def code_blob(sha256: str) -> str:
    return f"code/{sha256}"


def source_blob(sha256: str) -> str:
    return f"source/{sha256}.zip"


def data_blob(sha256: str) -> str:
    return f"data/{sha256}"


def listing_blob(sha256: str) -> str:
    return f"files/listing/{sha256}"


def bundle_blob(number: str) -> str:
    """Small files one after the other."""
    return f"files/bundle/{number}"


def file_blob(sha256: str) -> str:
    return f"files/content/{sha256}"


def manifest_blob(call: int) -> str:
    return f"manifest/{call:06d}"


def pack_blob(pack: int) -> str:
    return f"in/{pack:08d}"


def shelf_prefix(chunk: int) -> str:
    return f"out/{chunk // SHELF_CHUNKS:06d}/"


def chunk_name(chunk: int, generation: int) -> str:
    """The chunk's name in blobs, and its task's id."""
    return f"{chunk:08d}.{generation}"


def task_id(chunk: int, generation: int) -> str:
    return f"c{chunk:08d}-g{generation}"


def chunk_of(task: str) -> int:
    """The number of the chunk that a task with this id has; -1 for a task of someone else."""
    number = task[1:].partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() else -1


def result_blob(chunk: int, generation: int) -> str:
    return shelf_prefix(chunk) + chunk_name(chunk, generation)


def log_blob(chunk: int, generation: int) -> str:
    return f"log/{chunk_name(chunk, generation)}"


def running_python() -> str:
    """This interpreter's implementation and minor: pickled code travels between equal ones only."""
    return f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"

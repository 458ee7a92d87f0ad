"""Every exception that batchexec raises.

BatchExecError
├── ConfigError (ValueError)             a setting is missing, misspelt or contradictory
├── NestedExecutorError (RuntimeError)   BatchExecutor() inside a worker
├── ServiceError                         Azure answered no, or not at all
│   ├── AuthenticationError              key or token refused
│   ├── ServiceUnreachableError          no answer, or not from Azure Batch or Blob storage
│   └── QuotaError                       an account limit was reached
├── BrokenBatchExecutor (BrokenExecutor) nothing submitted here can run any more
│   ├── InitializerError                 the initializer raised in a worker
│   ├── PoolError                        the pool cannot run the work
│   │   ├── PoolMismatchError            an existing pool that cannot serve this executor
│   │   └── NodeError                    its nodes cannot start or cannot run tasks
│   └── PythonMismatchError              client and worker are different Python minors
├── TaskError                            one chunk has no result
│   ├── WorkerCrashedError               its process died: signal, os._exit, stack overflow
│   ├── TaskTerminatedError              ended by someone, by a time limit, or with its job
│   ├── MissingModuleError               the worker lacks a module that the callable needs
│   ├── ResultStoreError                 the worker could not store its result
│   ├── OutputError                      files that an item wrote cannot be brought here
│   ├── CommandFailed                    a program ended with a non-zero exit code
│   └── TamperedError                    a blob does not carry our signature
├── PayloadError                         something cannot travel
│   ├── PicklingError (pickle.PicklingError)   callable or argument cannot be pickled
│   ├── ResultPicklingError              result cannot be pickled (worker) or unpickled (client)
│   ├── SourceError                      the user's own modules cannot be shipped
│   ├── FilesError                       a file cannot be staged
│   └── RequirementsError                the packages of a callable cannot be had on the nodes
└── RemoteError                          a remote exception that could not travel as itself
    └── RemoteExit                       the function called sys.exit() or raised KeyboardInterrupt

RemoteTraceback is the `__cause__` of an exception that came from a worker.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor

__all__ = [
    "AuthenticationError",
    "BatchExecError",
    "BrokenBatchExecutor",
    "CommandFailed",
    "ConfigError",
    "FilesError",
    "InitializerError",
    "MissingModuleError",
    "NestedExecutorError",
    "NodeError",
    "OutputError",
    "PayloadError",
    "PicklingError",
    "PoolError",
    "PoolMismatchError",
    "PythonMismatchError",
    "QuotaError",
    "RemoteError",
    "RemoteExit",
    "RemoteTraceback",
    "RequirementsError",
    "ResultPicklingError",
    "ResultStoreError",
    "ServiceError",
    "ServiceUnreachableError",
    "SourceError",
    "TamperedError",
    "TaskError",
    "TaskTerminatedError",
    "WorkerCrashedError",
]


class BatchExecError(Exception):
    """Root of all errors raised by batchexec itself. Exceptions of the user's own code arrive as themselves."""


class ConfigError(BatchExecError, ValueError):
    """The configuration is incomplete, contradictory or misspelt. `problems` lists every mistake found."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(
            self.problems[0]
            if len(self.problems) == 1
            else f"{len(self.problems)} mistakes:" + "".join(f"\n  - {p}" for p in self.problems)
        )

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class NestedExecutorError(BatchExecError, RuntimeError):
    """A BatchExecutor was created inside a batchexec worker: work that starts work costs money without end."""


class ServiceError(BatchExecError):
    """Azure Batch or Blob storage refused a request.

    `code` is the service's own error code (such as "PoolQuotaReached") or None, `status` the HTTP status or None.
    `transient` tells that the same request may succeed later, `retry_after` (seconds) when the service said so.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.transient = transient
        self.retry_after = retry_after


class AuthenticationError(ServiceError):
    """The account refused the key or the token."""


class ServiceUnreachableError(ServiceError):
    """Nothing answers at the endpoint, or what answers is not the service."""


class QuotaError(ServiceError):
    """A limit of the account was reached (pools, cores, active jobs)."""


class BrokenBatchExecutor(BatchExecError, BrokenExecutor):
    """The executor can run nothing any more; set on every pending future, raised by later submits."""


class InitializerError(BrokenBatchExecutor):
    """The `initializer` raised in a worker process; its exception is the `__cause__`."""


class PoolError(BrokenBatchExecutor):
    """The pool cannot run the work; the text carries the service's own words."""


class PoolMismatchError(PoolError):
    """The pool exists already and differs in a way that no work of this executor could survive."""


class NodeError(PoolError):
    """The pool's nodes cannot start or cannot take tasks (start task, preparation task, image pull, unusable)."""


class PythonMismatchError(BrokenBatchExecutor):
    """The worker's Python minor differs from the client's; pickled functions do not travel between minors."""


class TaskError(BatchExecError):
    """A chunk's task ended without a result.

    `job_id`, `task_id`, `node_id` name it at the service; `exit_code` is the process's (128 + signal when killed by
    one) or None when it never ran; `stdout` and `stderr` hold the last 64 kB, as far as they could be read.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        task_id: str | None = None,
        node_id: str | None = None,
        exit_code: int | None = None,
        stdout: str = "",
        stderr: str = "",
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.task_id = task_id
        self.node_id = node_id
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class WorkerCrashedError(TaskError):
    """The worker process died before it had a result: killed, out of memory, os._exit, stack overflow."""


class TaskTerminatedError(TaskError):
    """The task was ended from outside: by a person, a time limit, or because its job was ended."""


class MissingModuleError(TaskError):
    """The worker lacks a module that the callable needs; `module` names it."""

    def __init__(self, message: str, *, module: str = "", **where: object) -> None:
        super().__init__(message, **where)  # type: ignore[arg-type]
        self.module = module


class ResultStoreError(TaskError):
    """The worker had a result and could not store it (storage refused it, or it exceeds 5,000 MiB)."""


class TamperedError(TaskError):
    """A blob read by client or worker does not carry this job's signature; it was not used."""


class OutputError(TaskError):
    """Files that an item wrote cannot be brought here: too large, outside the directory, or changed in storage."""


class CommandFailed(TaskError):
    """A `Command` ended with a non-zero exit code, or could not be started (127: not found, 126: not executable).

    `exit_code`, `stdout` and `stderr` are the program's, `result` its CommandResult, with what was collected.
    """

    result: object = None


class PayloadError(BatchExecError):
    """Something cannot travel between client and worker."""


class PicklingError(PayloadError, pickle.PicklingError):
    """The callable or one of its arguments cannot be pickled."""


class ResultPicklingError(PayloadError):
    """A result cannot be pickled by the worker or unpickled by the client; the text says which and why."""


class SourceError(PayloadError):
    """The user's own modules cannot be shipped: too large (the text names the largest files) or unreadable."""


class FilesError(PayloadError):
    """A file, directory or program that the work needs cannot be staged; the text names it and says why."""


class RequirementsError(PayloadError):
    """The packages that a callable needs cannot be had on the nodes; the text carries the resolver's own words.

    `kind`: "resolution", "network", "disk", "build" or "timeout" when it failed on a node, else "" (found here).
    """

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class RemoteError(BatchExecError):
    """An exception of the user's code that could not be pickled or unpickled.

    `type_name` is its class, `text` its message, `traceback_text` the remote traceback, `reason` why it could not
    travel.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str, reason: str) -> None:
        super().__init__(type_name, text, traceback_text, reason)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text} (arrived as text only: {self.reason})"


class RemoteExit(RemoteError):
    """The function left by an exception that is not an Exception: SystemExit, KeyboardInterrupt, GeneratorExit."""


class RemoteTraceback(Exception):
    """The traceback of a remote exception as text, shown as its cause (as the standard library's pools do)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'

"""What a worker says of a run, as a CommandResult or as the error that it is."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from batchexec.errors import BatchExecError, CommandFailed, OutputError
from batchexec.futures import Outcome

from .binding import Bound, Run
from .templates import APP
from .values import CommandResult

_TAIL_LINES = 20
_TAIL_CHARS = 4000
_APP = "@app@"  # for which no quotes are needed
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
# Of Linux, whatever this machine is.
_SIGNALS = {
    **{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE"},
    **{9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM"},
    **{24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS"},
}


def outcome(
    bound: Bound, run: Run, said: dict[str, Any], outputs: Sequence[Any], item: str = "", **where: Any
) -> Outcome:
    """`said` is what `program` returned, `outputs` where its files are now, in their order. `item`
    names the run in messages; `where`: the fields of a TaskError."""
    names = [name for name, *_ in run.spec["outputs"] if name is not None]
    found = result(said, names, outputs, where.get("node_id") or "", run.parameters, bound.command.shell)
    command = bound.command
    hint = lambda: _hint(bound, run, found.stderr)  # noqa: E731
    shown = _as_written(run.spec) if command.app is not None else found.command
    wrong = error(said, found, item, command.check, command.timeout, hint, shown, **where)
    return Outcome(None, wrong) if wrong is not None else Outcome(found, None)


def result(
    said: dict[str, Any],
    names: Iterable[str],
    outputs: Sequence[Any],
    node: str,
    parameters: dict[str, Any],
    shell: bool,
) -> CommandResult:
    """What `program` said of a run. `names`: of its outputs; `shell`: its last word is a text that was given to one."""
    named: dict[str, list[Any]] = {name: [] for name in names}
    for (_, its_names), path in zip(said["outputs"], outputs, strict=True):
        for name in its_names:
            named[name].append(path)
    return CommandResult(
        exit_code=said["exit_code"],
        stdout=said["stdout"].decode("utf-8", "replace"),
        stderr=said["stderr"].decode("utf-8", "replace"),
        outputs=list(outputs),
        named=named,
        seconds=said["seconds"],
        staging_seconds=said["staging"],
        node_id=node,
        parameters=parameters,
        command=said["argv"][-1] if shell else shlex.join(said["argv"]),
        cut=said["cut"],
        timed_out=said["timed_out"],
    )


def error(
    said: dict[str, Any],
    result: CommandResult,
    item: str,
    check: bool,
    timeout: float | None,
    hint: Callable[[], str] = lambda: "",
    shown: str = "",
    **where: Any,
) -> BatchExecError | None:
    """What is wrong with a run, if its command has that checked. `hint`: what may be done about an exit code; `shown`:
    the command line, where another one is shown than that of the result."""
    what = f"{_short(shown or result.command)}" + (f" ({item})" if item else "")
    about = {**where, "exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}
    if said["cannot_start"]:
        failed = CommandFailed(f"{what} could not be started: {said['cannot_start']}", **about)
        failed.result = result
        return failed
    if not check:
        return None
    if result.exit_code != 0:
        advice = hint() if not said["timed_out"] else ""
        failed = CommandFailed(f"{what} {_ended(said, timeout)}{advice}{_tail(result.stderr)}", **about)
        failed.result = result
        return failed
    if said["refused"]:
        return OutputError(f"{what}: files cannot be taken: {'; '.join(said['refused'])}", **about)
    if said["missing"]:
        patterns = ", ".join(repr(pattern) for pattern in said["missing"])
        return OutputError(
            f"{what} ended with exit code 0 and left no {patterns}, which outputs= names (a pattern with wildcards may "
            f"match nothing).{_tail(result.stderr)}",
            **about,
        )
    return None


def _ended(said: dict[str, Any], timeout: float | None) -> str:
    if said["timed_out"]:
        return f"was ended, as it ran longer than timeout={timeout:g} s"
    if said["signal"]:
        name = _SIGNALS.get(said["signal"], f"signal {said['signal']}")
        why = ": if nobody did that, the node ran out of memory" if said["signal"] == 9 else ""
        return f"was killed by {name} (exit code {said['exit_code']}){why}"
    return f"ended with exit code {said['exit_code']}"


def _hint(bound: Bound, run: Run, stderr: str) -> str:
    modules = _NO_MODULE.findall(stderr)
    if modules:
        from batchexec._engine.results import lacking

        top = modules[-1].partition(".")[0]
        if os.path.isdir(top) or os.path.isfile(f"{top}.py"):
            name = top if os.path.isdir(top) else f"{top}.py"
            return f". {name!r} is here and was not sent: inputs=[{name!r}] does"
        package = lacking.package_of(modules[-1])
        return f". Packages of a program are listed: BatchExecutor(requirements=[...]) with {package!r}"
    for name, value in bound.texts_of_files(run):
        return f". {value!r} is a file here and was given as a text, which is not sent: {name}=Path({value!r}) is"
    missing = bound.unsent()
    if not missing:
        patterns = bound.patterns()
        if patterns:
            return (
                f". {patterns[0]!r} is handed on as it is: for the files that match, name them, "
                f"inputs={{'files': {patterns[0]!r}}}, and write {{files}}"
            )
        return ""
    names = ", ".join(repr(name) for name in missing)
    return f". Files of that name are here and were not sent: {names}; inputs=[{names}] does"


def _as_written(spec: dict[str, Any]) -> str:
    """The command line with {app} for the app's directory, whose path on a node is long and nobody's concern."""
    if spec["shell"] is not None:
        return str(spec["shell"].replace(APP, "{app}"))
    return shlex.join(word.replace(APP, _APP) for word in spec["argv"]).replace(_APP, "{app}")


def _tail(stderr: str) -> str:
    lines = stderr.rstrip()[-_TAIL_CHARS:].splitlines()[-_TAIL_LINES:]
    if not any(line.strip() for line in lines):
        return ""
    return "\nIts standard error ends:\n" + "\n".join(f"  {line}" for line in lines)


def _short(command: str) -> str:
    return command if len(command) <= 200 else command[:197] + "..."


def describe(index: int, run: Run) -> str:
    """Which run it is, for messages."""
    shown = ", ".join(f"{name}={value!r}" for name, value in run.parameters.items())
    return f"item {index}: {_short(shown)}" if shown else f"item {index}"

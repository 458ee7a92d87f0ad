"""Command: an unmodified program in the place of a function."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._command.values import BlobPath, CommandResult

__all__ = ["BlobPath", "Command", "CommandResult"]

_WHEN = ("success", "failure", "always")


class Command:
    """A program to run in the place of a function: `ex.submit(cmd, ...)`, `ex.map(cmd, rows)`, or `cmd(...)` here.

        hydro = Command("./hydro -i {input} -o {out}", outputs={"out": "*.csv"})
        with BatchExecutor() as ex:
            for result in ex.map(hydro, Path("cases").glob("*.inp")):
                print(result.exit_code, result.outputs)

    command: one text, split into words as a shell would and run without one; a list of words; or the path of a program.
        `{name}` in it stands for a parameter, an input, an output or, as `{app}`, the directory of the app. A value
        stays one word, whatever is in it. `{{` and `}}` are braces.
    inputs: files, directories, globs and BlobPaths to have in the run's directory; with names, `{name: path}`, to use
        in the command. Those without placeholders are the same for all runs, and read once per node.
    outputs: a pattern of files to bring here, several, or `{name: pattern}`. `{name}` in the command is the file's
        name; where the pattern has wildcards, a directory in which they are looked for.
    env: environment variables of the program, as values (placeholders allowed) or names to pass on from here (a value
        None does so too).
    app: a directory or an archive (zip, tar) that holds the program; its root and `bin` come first on PATH.
    when: collect outputs after "success" (exit code 0), "failure" or "always".
    check: raise CommandFailed for an exit code other than 0.
    shell: give the text to `/bin/sh -c`; every value in it is quoted.
    cores, memory, timeout: cores and GiB of one run, and the seconds after which it is ended.

    Parameters of a run are keywords, or one mapping; any other single argument is the parameter `input`, a file. Values
    that are a Path or a BlobPath are files too: they are sent, and their placeholder is their name there.

    Raises TypeError or ValueError for a command that cannot be meant.
    """

    def __init__(
        self,
        command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        inputs: Any = None,
        outputs: str | Sequence[str] | Mapping[str, str] | None = None,
        env: Mapping[str, Any] | Sequence[str] | None = None,
        app: str | os.PathLike[str] | None = None,
        when: str = "success",
        check: bool = True,
        shell: bool = False,
        cores: int | None = None,
        memory: float | None = None,
        timeout: float | None = None,
    ) -> None:
        from ._command.checks import checked_amount, checked_command, checked_env, checked_paths, checked_patterns
        from ._command.templates import Templates

        self.command = checked_command(command, shell)
        self.inputs = checked_paths(inputs)
        self.outputs = checked_patterns(outputs)
        self.env = checked_env(env)
        given = env if isinstance(env, Mapping) else dict.fromkeys(self.env)
        self._passed_on = frozenset(name for name, value in given.items() if value is None)  # by their names alone
        self.app = None if app is None else Path(app)
        if when not in _WHEN:
            raise ValueError(f"when={when!r}: expected 'success', 'failure' or 'always'")
        self.when = when
        self.check = check
        self.shell = shell
        self.cores = checked_amount("cores", cores, whole=True)
        self.memory = checked_amount("memory", memory)
        self.timeout = checked_amount("timeout", timeout)
        self._templates = Templates(self)

    def __call__(self, *args: Any, **kwargs: Any) -> CommandResult:
        """Run it here, in a directory of its own below the temporary one; outputs stay there.

        Raises CommandFailed, FilesError and OutputError as on a node. Within a task it is a RuntimeError.
        """
        try:
            from ._command.here import run_here
        except ModuleNotFoundError as error:
            if error.name != "batchexec._command.here":
                raise
            raise RuntimeError(
                f"{self!r} was called within a task: give it to submit or map itself, or use subprocess.run there"
            ) from None
        return run_here(self, args, kwargs)

    def __repr__(self) -> str:
        return f"Command({self.text!r})"

    @property
    def text(self) -> str:
        """The command line with its placeholders."""
        return self.command if isinstance(self.command, str) else " ".join(str(word) for word in self.command)

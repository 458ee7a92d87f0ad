"""Runs of installers: what they are told, their output heard and masked, and what their failures are."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import threading
from typing import IO, Callable, Iterator, NamedTuple

from .install_failures import InstallError, failure_in, last_words
from .pip_settings import PipSettings

TIME_LIMIT = 3600.0  # seconds that one run of an installer may take
_KEPT_OUTPUT = 1 << 18  # characters of it that are looked at after a failure
_LINE = 1 << 14  # characters of one line of it
# Indexes have their words in it, which end in logs and terminals: sequences for these, and other control characters.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Say = Callable[[str], None]


class Work(NamedTuple):
    """What one environment is made of."""

    requirements: list[str]
    constraints: list[str]
    wheels: dict[str, str]  # by file name: path
    pip: Callable[[], str] | None  # fetches a wheel of pip, for where there is none
    settings: PipSettings
    cache: str  # what was downloaded is kept there
    scratch: str  # an empty directory, for this alone


class Runs:
    """Runs of installers for one environment."""

    def __init__(self, env: dict[str, str], work: Work, say: Say) -> None:
        self.env = env
        self.work = work
        self.say = say
        self.constraints = ["-c", self.file("constraints.txt", work.constraints)] if work.constraints else []

    def file(self, name: str, lines: list[str]) -> str:
        path = os.path.join(self.work.scratch, name)
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        return path

    def __call__(self, installer: str, command: list[str]) -> None:
        """Run it to its end. Raises InstallError when it fails."""
        masked = self.work.settings.masked
        said: collections.deque[str] = collections.deque()
        length = 0
        with subprocess.Popen(
            command,
            cwd=self.work.scratch,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        ) as process:
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(TIME_LIMIT, end)
            timer.daemon = True
            timer.start()
            try:
                assert process.stdout is not None
                for line in map(masked, _lines(process.stdout)):
                    said.append(line)
                    length += len(line)
                    while length > _KEPT_OUTPUT and len(said) > 1:
                        length -= len(said.popleft())
                    if line.strip():
                        self.say(line.strip())
                status = process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
        if status == 0:
            return
        text = "".join(said)
        if late.is_set():
            text += f"\n{installer} had not finished after {TIME_LIMIT / 60:.0f} minutes"
            raise InstallError("timeout", last_words(text), installer)
        if status < 0:
            text += f"\n{installer} was ended by signal {-status}"
        failure = failure_in(text)
        if installer == "uv" and failure.reason in ("dns", "connection") and self._proxied():
            failure = failure._replace(reason="proxy")  # of which uv says no more than of an index
        raise InstallError(
            failure.kind, last_words(text) or f"{installer} ended with {status}", installer, failure.reason
        )

    def _proxied(self) -> bool:
        """Whether all indexes are asked by a proxy."""
        return bool(self.env.get("HTTPS_PROXY") or self.env.get("https_proxy")) and not (
            self.env.get("NO_PROXY") or self.env.get("no_proxy")
        )


def plain(text: str) -> str:
    """Without what a terminal would obey. To be done before a text is masked, as it could be within a login."""
    return _CONTROL.sub("", text)


def _lines(output: IO[str]) -> Iterator[str]:
    """The lines, plain. Of a long one its beginning, in whole words: half a login would not be masked."""
    begins = True
    while line := output.readline(_LINE):
        is_cut = len(line) == _LINE and not line.endswith("\n")
        if begins:
            yield plain(f"{line.rpartition(' ')[0]} [...]\n" if is_cut else line)
        begins = not is_cut


def _die_with_parent() -> None:
    """In the installer: be killed when the worker is, however it ends."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

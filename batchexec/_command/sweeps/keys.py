"""What a run is asked for, as tables and records know it: its parameters, and a key that is equal for the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from batchexec._command.binding import Run
from batchexec._command.results import describe

if TYPE_CHECKING:
    from batchexec.command import Command

_PLAIN = (str, int, float, bool, type(None))


class Keys:
    """Gives keys to the runs of one map, or of one `submit`, in their order."""

    def __init__(self, command: Command) -> None:
        self._command = command
        # What is passed on from here by its name may be secret, and another one tomorrow.
        env = sorted((name, "" if name in command._passed_on else value) for name, value in command.env.items())
        self._texts = _digest(
            [
                *(str(command.command), str(command.inputs), str(command.outputs), env),
                *(str(command.app), command.when, command.shell),
            ]
        )
        self._seen: dict[str, int] = {}

    def given(self, run: Run, index: int) -> Run:
        """The run number `index`, with its key: of its parameters, then of the command and the content of the run's own
        files. One that was asked for before has a number behind it.

        What was asked travels in the `spec` as well, so that a job can tell it without its client: `key`, `parameters`,
        `what` it is in messages, and `check`, `timeout` and `shell` of the command.
        """
        texts = sorted((name, str(value)) for name, value in run.parameters.items())
        key = f"{_digest(texts)}-{_digest([self._texts, run.own.id]) if run.own else self._texts}"
        count = self._seen[key] = self._seen.get(key, -1) + 1
        key = f"{key}-{count}" if count else key
        asked = {
            "key": key,
            # Values that any Python can read, without the user's modules.
            "parameters": {
                name: value if type(value) in _PLAIN else str(value) for name, value in run.parameters.items()
            },
            "what": describe(index, run),
            "check": self._command.check,
            "timeout": self._command.timeout,
            "shell": self._command.shell,
        }
        return run._replace(spec={**run.spec, "asked": asked}, key=key)


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

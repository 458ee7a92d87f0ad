"""The server whose processes stay: each runs one task after another, for measuring what is not the task. Linux only."""

from __future__ import annotations

import gc
import json
import os
import sys

from ._forkserver import PRELOAD_FD, Child, Server
from ._forkserver_child import leave, receive, replace_environ, show_error, take_place
from ._forkserver_family import adopt_orphans, kill_descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class InlineServer(Server):
    """As many processes as there were requests at a time; another is forked where one has died with its task."""

    ahead = 0

    # -- in the server

    def listen(self, child: Child) -> None:
        """Hear the exit code of a request. Its process is then free for the next."""
        if child.line < 0:
            return
        try:
            data = os.read(child.line, 64)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        child.heard += data
        if not data or child.killed:
            self.hang_up(child)  # it has died or is dying: that is reported once it is reaped
        elif child.heard.endswith(b"\n") and self.children.pop(child.pid, None) is not None:
            line, child.line = child.line, -1
            self.selector.unregister(line)
            os.set_blocking(line, True)
            self.spares[child.pid] = line
            self.ended(child, int(child.heard))

    # -- in a process that stays

    def take_requests(self, line: int) -> int:
        adopt_orphans()
        gc.enable()
        own = os.getpid()
        wishes = os.memfd_create("preload")
        while request := receive(line):
            code = self.run_here(json.loads(request), wishes) & 0xFF
            if os.getpid() != own:  # the task forked, and its child came back here
                leave(code)
            kill_descendants()
            os.write(line, b"%d\n" % code)
        return 0

    def run_here(self, request: dict[str, Any], wishes: int) -> int:
        code = 1
        try:
            if "postmortem" in request:
                take_place(request, fresh=False)
                replace_environ(request["env"])
                self.module.postmortem(request["argv"], request["env"], request["cwd"], request["postmortem"])
            else:
                found = self.run_task(request, wishes)
                while found is None and (names := wished(wishes)):
                    self.load(names)
                    found = self.run_task(request, wishes)
                code = 1 if found is None else found
        except BaseException:  # noqa: BLE001 - it ends the task, not this process
            show_error()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):  # closed by the task: this process can serve no other
            os._exit(code & 0xFF)
        return code

    def run_task(self, request: dict[str, Any], wishes: int) -> int | None:
        take_place(request, fresh=True)
        env = dict(request["env"])  # the zipapp may take from it; the postmortem has all of it again
        os.truncate(wishes, 0)
        os.lseek(wishes, 0, os.SEEK_SET)
        channel = os.dup(wishes)
        env[PRELOAD_FD] = str(channel)
        replace_environ(env)
        try:
            result: int | None = self.module.run(request["argv"], env, request["cwd"])
        finally:
            close_if_same(channel, wishes)
        return result


def wished(wishes: int) -> list[str]:
    """The modules that the task has asked for."""
    line = os.pread(wishes, os.fstat(wishes).st_size, 0).partition(b"\n")[0]
    try:
        return [str(name) for name in json.loads(line or b"[]")]
    except ValueError:
        return []


def close_if_same(descriptor: int, other: int) -> None:
    """Close what the task should have closed, unless it did and the number is something else's now."""
    try:
        if os.path.samestat(os.fstat(descriptor), os.fstat(other)):
            os.close(descriptor)
    except OSError:
        pass  # closed

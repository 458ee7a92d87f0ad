"""The server in its node's service: programs are started by exec, tasks of a warm zipapp by fork."""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys

from ._forkserver_child import become_program, enter, leave, receive, replace_environ, show_error, take_place
from ._forkserver_family import adopt_orphans, kill_descendants, kill_group

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to load than all the rest
    from typing import Any, NoReturn

# What a child dies of when `run` returned None. A signal, because nothing else can tell it from an exit code.
AGAIN = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
PRELOAD_FD = "BATCHEXEC_FORK_PRELOAD_FD"
PRELOAD_LIMIT = 1 << 20


class Child:
    """One request being run: by its process, or by the one that looks at its end."""

    def __init__(self, command: dict[str, Any], request: bytes) -> None:
        self.id: int = command["id"]
        self.request = request
        self.killed = False
        self.asked = False
        self.status: int | None = None
        self.pid = 0
        self.line = -1
        self.heard = b""


class Server:
    ahead = 2  # processes forked before there is a task for them

    def __init__(self, channel: socket.socket, zipapp: str, module: str) -> None:
        self.channel = channel
        self.children: dict[int, Child] = {}
        self.spares: dict[int, int] = {}  # processes that wait for a request, and our ends of the lines to them
        self.selector = selectors.DefaultSelector()
        self.wake_r, self.wake_w = socket.socketpair()
        self.wake_r.setblocking(False)
        self.wake_w.setblocking(False)
        self.private = [end.fileno() for end in (channel, self.wake_r, self.wake_w)]
        if isinstance(self.selector, selectors.EpollSelector):
            self.private.append(self.selector.fileno())
        self.reports: list[dict[str, Any]] = []
        self.module: Any = None
        if zipapp:
            # What a collection touches, a child would have to copy; children collect for themselves.
            gc.disable()
            sys.path.insert(0, zipapp)
            self.module = importlib.import_module(module)
            self.preload([])

    def load(self, names: list[str]) -> None:
        try:
            self.module.preload(names)
        except Exception:  # noqa: BLE001 - a module that fails on import must not end the server; the log tells
            show_error()
        sys.stdout.flush()
        sys.stderr.flush()

    def preload(self, names: list[str]) -> None:
        self.load(names)
        gc.freeze()
        for line in self.spares.values():  # they know less now; at the end of their line they go
            os.close(line)
        self.spares.clear()

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_w.fileno(), warn_on_full_buffer=False)
        self.selector.register(self.channel, selectors.EVENT_READ)
        self.selector.register(self.wake_r, selectors.EVENT_READ)
        self.report(ready=os.getpid())
        buffer = b""
        while True:
            self.tell()
            lacking = self.module is not None and len(self.spares) < self.ahead
            events = self.selector.select(0 if lacking else None)
            if lacking and not events:
                pid, ours = self.fork()
                self.spares[pid] = ours
            for key, _ in events:
                if key.fileobj is self.channel:
                    data = self.channel.recv(1 << 16)
                    if not data:
                        return
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        self.obey(line)
                elif key.fileobj is self.wake_r:
                    self.wake_r.recv(4096)
                    self.reap()
                else:
                    self.listen(key.data)

    def report(self, **message: Any) -> None:
        self.reports.append(message)

    def tell(self) -> None:
        """Hand over what there is to report."""
        if self.reports:
            self.channel.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in self.reports))
            self.reports.clear()

    def obey(self, line: bytes) -> None:
        command = json.loads(line)
        if command["op"] == "kill":
            for child in self.children.values():
                if child.id == command["id"]:
                    child.killed = True
                    kill_group(child.pid)
        elif self.module is None:
            self.start_program(Child(command, b""), command)
        else:
            self.start(Child(command, line))

    def start(self, child: Child) -> None:
        """Hand the request to a process that waits for one; after a death of the task, for its postmortem."""
        request = child.request
        if child.status is not None:
            request = json.dumps({**json.loads(request), "postmortem": child.status}).encode()
        pid, line = self.spares.popitem() if self.spares else self.fork()
        if not send(line, request):  # killed while it waited
            os.close(line)
            pid, line = self.fork()
            send(line, request)
        os.set_blocking(line, False)
        child.line, child.heard, child.asked = line, b"", False
        self.selector.register(line, selectors.EVENT_READ, child)
        self.started(pid, child)

    def started(self, pid: int, child: Child) -> None:
        child.pid = pid
        self.children[pid] = child
        self.report(id=child.id, pid=pid)

    def start_program(self, child: Child, request: dict[str, Any]) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            become_program(request, write)
        os.close(write)
        failure = os.read(read, 16)
        os.close(read)
        if failure:
            os.waitpid(pid, 0)
            self.report(id=child.id, errno=int(failure))
        else:
            self.started(pid, child)

    def fork(self) -> tuple[int, int]:
        """A child that will take a request from the line of which this is our end."""
        ours, theirs = (end.detach() for end in socket.socketpair())
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            self.become_task(theirs)
        os.close(theirs)
        return pid, ours

    def become_task(self, line: int) -> NoReturn:
        code = 1
        try:
            enter()
            for private in (*self.private, *self.spares.values(), *(child.line for child in self.children.values())):
                if private >= 0:
                    os.close(private)
            code = self.take_requests(line)
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            show_error()
        finally:
            leave(code)

    def take_requests(self, line: int) -> int:
        """In a child: all that it will do. The exit code."""
        request = receive(line)
        return self.work(json.loads(request), line) if request else 1

    def work(self, request: dict[str, Any], line: int) -> int:
        argv, env, cwd = request["argv"], request["env"], request["cwd"]
        status = request.get("postmortem")
        take_place(request, fresh=status is None)
        gc.enable()
        if status is None:
            env[PRELOAD_FD] = str(line)
        else:
            os.close(line)
        replace_environ(env)
        if status is not None:
            self.module.postmortem(argv, env, cwd, status)
            return 0
        result = self.module.run(argv, env, cwd)
        if result is None:
            signal.signal(AGAIN, signal.SIG_DFL)
            os.kill(os.getpid(), AGAIN)
        return result or 0

    def listen(self, child: Child) -> None:
        """Hear which modules a child wants preloaded."""
        if child.line < 0:
            return
        while True:
            try:
                data = os.read(child.line, 1 << 16)
            except BlockingIOError:
                break
            except ConnectionError:  # it was killed before it had read its request
                data = b""
            child.heard += data
            if not data or len(child.heard) > PRELOAD_LIMIT:
                self.hang_up(child)
                break
        line, newline, _ = child.heard.partition(b"\n")
        if newline and not child.asked:
            child.asked = True
            try:
                names = [str(name) for name in json.loads(line)]
            except ValueError:
                return
            self.preload(names)

    def hang_up(self, child: Child) -> None:
        if child.line >= 0:
            self.selector.unregister(child.line)
            os.close(child.line)
            child.line = -1

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is not None:
                kill_group(pid, reaped=True)
                self.ended(child, os.waitstatus_to_exitcode(status))
            elif pid in self.spares:
                os.close(self.spares.pop(pid))

    def ended(self, child: Child, status: int) -> None:
        self.listen(child)
        self.hang_up(child)
        if self.module is None or child.killed:
            self.report(id=child.id, status=status if child.status is None else child.status)
        elif child.status is not None:
            self.report(id=child.id, status=child.status)
        elif status == -AGAIN:
            if child.asked:
                self.start(child)
            else:
                self.report(id=child.id, status=1)
        elif status != 0 and hasattr(self.module, "postmortem"):
            child.status = status
            self.start(child)
        else:
            self.report(id=child.id, status=status)

    def end(self) -> None:
        """Kill what was started here, also what has left its process group."""
        for pid in self.children:
            kill_group(pid)
        kill_descendants()


def send(line: int, request: bytes) -> bool:
    """Whether there is somebody who takes it."""
    rest = memoryview(request + b"\n")
    try:
        while rest:
            rest = rest[os.write(line, rest) :]
    except ConnectionError:
        return False
    return True


def main(arguments: list[str]) -> None:
    channel = socket.socket(fileno=int(arguments[0]))
    os.set_inheritable(channel.fileno(), False)
    adopt_orphans()
    signal.signal(signal.SIGTERM, stop)
    zipapp, module, *mode = arguments[1:] or ("", "")
    kind = Server
    if mode == ["inline"]:
        from ._forkserver_inline import InlineServer as kind
    server = kind(channel, zipapp, module)
    try:
        try:
            server.serve()
        except ConnectionError:
            pass  # the node went away in the middle of a line
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    finally:
        server.end()


def stop(*_: object) -> NoReturn:
    """The node ends: an import under way, which hears no end-of-file, is given up."""
    sys.exit(0)

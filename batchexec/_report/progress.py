"""The progress line, the echo of remote output, and warnings; on standard error and output, no library needed."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from batchexec._report.words import described

if TYPE_CHECKING:
    from batchexec._engine.sending.work import Chunk
    from batchexec.futures import Delivery

_log = logging.getLogger("batchexec")

_QUIET_SECONDS = 2.0
_REDRAW_SECONDS = 0.5
_LONGEST_TURN = 1.0  # seconds that what one thread prints waits for what another does
_INSTALLING = "nodes may be installing packages"
_TYPICAL = "typically 3 to 8 min"  # to allocate nodes from zero (the service publishes no figure; reports agree)


class Progress:
    """One executor's voice. Methods may be called from any thread; a redraw happens at calls, never by a thread."""

    def __init__(self, *, show: bool | None, echo: bool, remote: bool, quiet_seconds: float = _QUIET_SECONDS) -> None:
        """show: the progress line (None: when someone is looking). echo: what workers print. remote: nodes take
        minutes to start. quiet_seconds: nothing is drawn before these are over."""
        self._lock = threading.RLock()  # of what is counted
        self._voice = threading.RLock()  # of the streams, which may block
        self._show = _is_watched(sys.stderr) if show is None else show
        self._echo = echo
        self._remote = remote
        self._quiet_seconds = quiet_seconds
        self._began = time.monotonic()
        self._stage = ""
        self._stage_began = self._began
        self._total = 0
        self._done = 0
        self._drawn = 0.0
        self._width = 0
        self._closed = False

    def announce(self, text: str, *, always: bool) -> None:
        """One line about where the work goes: always when it costs money, else only to someone watching."""
        if always or self._show:
            with self._speaking():
                self._wipe()
                _write(sys.stderr, f"batchexec: {text}\n")

    def opening(self) -> None:
        with self._lock:
            self._began = self._stage_began = time.monotonic()
            self._stage = "opening the job"

    def items_added(self, count: int) -> None:
        with self._lock:
            self._total += count

    def sent(self) -> None:
        """The first tasks are in the service: now nodes have to be there."""
        with self._lock:
            if self._stage == "opening the job":
                self._stage, self._stage_began = "starting nodes", time.monotonic()

    def working(self, installing: bool = False) -> None:
        """Something runs, or is done: nothing is being waited for that needs an explanation, but the packages that
        the first task of a node may have to install."""
        with self._lock:
            self._stage = _INSTALLING if installing else ""

    def pool(self, pool: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
        """What the pool is doing while work waits."""
        with self._lock:
            ready = sum(node["state"].lower() in ("idle", "running") for node in nodes)
            target = int(pool.get("targetDedicatedNodes") or 0) + int(pool.get("targetLowPriorityNodes") or 0)
            if self._stage not in ("", _INSTALLING) and target:
                self._stage = f"starting {target - ready} nodes" if target > ready else "starting the first tasks"
            self._draw()

    def chunk_done(self, items: int) -> None:
        with self._lock:
            self._done += items
            self._stage = ""
            self._draw()

    def tick(self) -> None:
        with self._lock:
            self._draw()

    def warn(self, text: str) -> None:
        """By logging: a warning made into an exception by a filter would end the engine's thread."""
        with self._lock:
            self._wipe()
        try:
            _log.warning(text)
        except Exception as error:  # noqa: BLE001 - of a handler; what is warned of does not end the work, nor does that
            _write(sys.stderr, f"batchexec: {text}\nbatchexec: a handler of logging raised {described(error)}\n")

    def echo(self, chunk: Chunk, delivery: Delivery) -> None:
        """What the chunk printed, to this process's own streams; by item where it has several."""
        if self._echo and any(delivery.streams):
            with self._speaking():
                self._wipe()
                for stream, data, ends in zip(
                    (sys.stdout, sys.stderr), delivery.streams, zip(*delivery.marks, strict=True), strict=True
                ):
                    _write(stream, _by_item(chunk, data, ends))

    def echo_failure(self, chunk: Chunk, error: BaseException) -> None:
        if self._echo:
            with self._speaking():
                self._wipe()
                _write(sys.stdout, getattr(error, "stdout", ""))
                _write(sys.stderr, getattr(error, "stderr", ""))

    def close(self) -> None:
        with self._lock:
            self._wipe()
            self._closed = True

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Lines of several threads do not mix, unless a stream keeps one of them for long: that holds up no other, as
        what it waits for may be a future."""
        spoke = self._voice.acquire(timeout=_LONGEST_TURN)
        try:
            yield
        finally:
            if spoke:
                self._voice.release()

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._show or self._closed or now - self._began < self._quiet_seconds:
            return
        if self._done >= self._total:  # what the user prints now has the line for itself
            self._wipe()
            return
        if now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        line = f"batchexec: {self._done}/{self._total} items, {_clock(now - self._began)}"
        if self._stage:
            line += f", {self._stage}"
        if self._stage.endswith("nodes") and self._remote:
            line += f", {_clock(now - self._stage_began)} of {_TYPICAL}"
        self._whisper("\r" + line.ljust(self._width), len(line))

    def _wipe(self) -> None:
        if self._width:
            self._whisper("\r" + " " * self._width + "\r", 0)

    def _whisper(self, text: str, width: int) -> None:
        """Write it unless another thread is writing: the engine's loop must not wait for that. `width` is then that of
        the line."""
        if self._voice.acquire(blocking=False):
            try:
                _write(sys.stderr, text)
                self._width = width
            finally:
                self._voice.release()


def _by_item(chunk: Chunk, data: bytes, ends: tuple[int, ...]) -> str:
    """The stream's text; with each line's item before it when the chunk has several. `ends` are offsets in the whole
    stream, of which `data` is the tail."""
    if chunk.size == 1:
        return data.decode("utf-8", "replace")
    cut = ends[-1] - len(data)
    lines: list[str] = []
    items = [index for index in range(chunk.size) if index not in chunk.failed]
    for position, index in enumerate(items):
        piece = data[max(0, ends[position] - cut) : max(0, ends[position + 1] - cut)]
        text = piece.decode("utf-8", "replace")
        lines += [f"[{chunk.offset + index}] {line}" for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _is_watched(stream: TextIO | None) -> bool:
    """Whether someone is looking: a terminal, or a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    try:
        terminal = stream is not None and stream.isatty()
    except Exception:  # noqa: BLE001 - closed, or an object of the user's that can less than a stream
        terminal = False
    return terminal or type(shell).__name__ == "ZMQInteractiveShell"


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None or not text:
        return
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        with contextlib.suppress(Exception):
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except Exception:  # noqa: BLE001 - closed, broken, or an object of the user's: nobody reads it; the work goes on
        pass

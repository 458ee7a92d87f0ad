"""What a program writes while it runs: its end is kept, and the task's log has it as it comes, within bounds."""

from __future__ import annotations

import os
import select
import stat
import sys
import tempfile
import threading
import time
from typing import Callable, Optional, Union

TAIL_BYTES = 1024 * 1024  # of each stream, kept with the result, and written to the log at the end if it is not there
LOG_BYTES = 4 * 1024 * 1024  # of each of the task's logs, up to which programs are followed byte by byte
GLIMPSE_BYTES = 16 * 1024  # and beyond that, so much ...
GLIMPSE_SECONDS = 60.0  # ... every so often
_PIECE = 64 * 1024


class Stream:
    """One stream of one run. Not for several threads at once."""

    def __init__(self, log: Optional[int] = None, shown: Callable[[], None] = lambda: None) -> None:
        """`log`: the descriptor that it is written to as well; `shown` is called after each time."""
        self.size = 0  # bytes written so far
        self._end = bytearray()
        self._log = log
        self._shown = shown
        self._room = _room(log) if log is not None else 0
        self._unlogged = 0  # bytes at the end that are not in the log
        self._glimpsed = time.monotonic()

    @property
    def tail(self) -> bytes:
        """The last TAIL_BYTES."""
        return bytes(self._end[-TAIL_BYTES:])

    @property
    def cut(self) -> bool:
        """Whether there was more."""
        return self.size > TAIL_BYTES

    @property
    def behind(self) -> bool:
        """Whether something is not in the log yet."""
        return self._unlogged > 0

    def take(self, data: bytes) -> None:
        """What the program wrote next."""
        self.size += len(data)
        self._end += data
        if len(self._end) > 2 * TAIL_BYTES:
            del self._end[:-TAIL_BYTES]
        if self._log is None:
            return
        if not self._unlogged and len(data) <= self._room:
            self._room -= len(data)
            self._to_log(data)
        else:
            if not self._unlogged:
                self._glimpsed = time.monotonic()
            self._unlogged += len(data)

    def glimpse(self) -> None:
        """Now and then, the log gets the end of what it could not have whole."""
        if self._unlogged and time.monotonic() - self._glimpsed >= GLIMPSE_SECONDS:
            self._catch_up(GLIMPSE_BYTES)

    def finish(self) -> None:
        """Nothing more comes: have the log end as the stream does."""
        if self._unlogged:
            self._catch_up(TAIL_BYTES)

    def _catch_up(self, size: int) -> None:
        left_out = max(0, self._unlogged - size)
        end = bytes(self._end[max(0, len(self._end) - min(size, self._unlogged)) :])
        note = b"\n[batchexec: %s bytes are left out here]\n" % f"{left_out:,}".encode() if left_out else b""
        self._unlogged = 0
        self._to_log(note + end)
        self._glimpsed = time.monotonic()

    def _to_log(self, data: bytes) -> None:
        """A log that cannot be written (a full disk) holds up no program: it is tried again with the next glimpse."""
        assert self._log is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._log, left) :]
            self._shown()
        except OSError:
            self._unlogged += len(left)
            self._glimpsed = time.monotonic()


class Pipes:
    """The pipes of a program's two streams, read by a thread until the program is over.

    Nobody waits for their ends: processes that outlive the program may hold them open for ever.
    """

    def __init__(self, streams: tuple[Stream, Stream]) -> None:
        self._streams = streams
        self._error: Optional[BaseException] = None
        self._thread: Optional[threading.Thread] = None
        self._readers: dict[int, Stream] = {}
        self.writers: list[int] = []
        """What the program gets as its standard output and error."""
        for stream in streams:
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            self._readers[reader] = stream
            self.writers.append(writer)
        self._over, self._tell_over = os.pipe()

    def start(self) -> None:
        """The program has its ends of the pipes: read what comes."""
        self._close_writers()
        thread = threading.Thread(target=self._run, name="batchexec-streams", daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """The program is over, or did not start: take what is still in the pipes. Raises what the reading raised."""
        self._close_writers()
        os.close(self._tell_over)
        if self._thread is not None:
            self._thread.join()
        for descriptor in (*self._readers, self._over):
            os.close(descriptor)
        if self._error is not None:
            raise self._error

    def _close_writers(self) -> None:
        while self.writers:
            os.close(self.writers.pop())

    def _run(self) -> None:
        try:
            self._follow()
            for reader in list(self._readers):
                self._drain(reader)
            for stream in self._streams:
                stream.finish()
        except BaseException as error:  # noqa: BLE001 - for `close`
            self._error = error
            while self._readers:  # a program whose output nobody reads would wait for ever
                os.close(self._readers.popitem()[0])

    def _follow(self) -> None:
        poll = select.poll()
        for descriptor in (*self._readers, self._over):
            poll.register(descriptor, select.POLLIN)
        while True:
            behind = any(stream.behind for stream in self._streams)
            for descriptor, _ in poll.poll(GLIMPSE_SECONDS * 1000 if behind else None):
                if descriptor == self._over:
                    return
                if self._read(descriptor) == b"":  # all have closed it
                    poll.unregister(descriptor)
            for stream in self._streams:
                stream.glimpse()

    def _drain(self, reader: int) -> None:
        """What was written before the end; what outlived the program may go on writing."""
        left = _waiting(reader)
        while left and (data := self._read(reader, min(left, _PIECE))):
            left -= len(data)

    def _read(self, reader: int, size: int = _PIECE) -> Optional[bytes]:
        """What there is, None for nothing yet, empty at the end."""
        try:
            data = os.read(reader, size)
        except BlockingIOError:
            return None
        if data:
            self._readers[reader].take(data)
        return data


class Files:
    """In the place of `Pipes` where the system cannot wait for several of them (Windows): read at the end."""

    def __init__(self, streams: tuple[Stream, Stream]) -> None:
        self._streams = streams
        self._files = [tempfile.TemporaryFile() for _ in streams]  # noqa: SIM115 - closed by `close`
        self.writers = [file.fileno() for file in self._files]

    def start(self) -> None:
        pass

    def close(self) -> None:
        for stream, file in zip(self._streams, self._files):
            with file:
                file.seek(0)
                while data := file.read(_PIECE):
                    stream.take(data)
            stream.finish()


def followed(streams: tuple[Stream, Stream]) -> Union[Pipes, Files]:
    """What the program is to write to. `start` it once the program has it, and `close` it in any case."""
    return Pipes(streams) if hasattr(select, "poll") else Files(streams)


def _waiting(pipe: int) -> int:
    """How many bytes are in it."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _room(log: int) -> int:
    """How much of the log may still be written byte by byte; what earlier runs of the task wrote counts."""
    try:
        state = os.fstat(log)
    except OSError:  # user code closed it
        return 0
    return max(0, LOG_BYTES - state.st_size) if stat.S_ISREG(state.st_mode) else LOG_BYTES

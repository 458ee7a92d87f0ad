"""The environments of a node: made once under a lock, complete or not there, and none kept for ever.

KEY           a link to KEY.RANDOM, the environment; there once that is complete
KEY.RANDOM    a directory, maybe half made
KEY.lock      locked exclusively by who makes or removes it, shared by who uses it; its age is the last use
KEY.enough    the interpreter has everything, and needs no environment
KEY.failed    why it could not be made, for the tasks of the same job
KEY.progress  what its maker does now, for those who wait
cache         what the installers have downloaded; cache.lock is locked by those who use it
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from typing import Any, Callable

from batchexec._worker import locks

from .install_failures import InstallError
from .installer import NOT_NEEDED, Made, made_in
from .runs import Say

KEPT = 8  # environments that stay though nobody uses them
CACHE_LIMIT = 2 << 30  # bytes
_LEAST_FREE = 2 << 30  # bytes of the disk, or a tenth of it: with less, nothing stays that is not used
_PAUSE = 0.1  # seconds between two looks at a lock
_TOLD = 10.0  # seconds between two words about waiting
_SOON = 60.0  # seconds for which nobody tries again what may go well later

# For how long failures hold: None for all of their job. A full disk has room again when others have ended.
_REMEMBERED = {"resolution": None, "build": None, "network": _SOON, "other": _SOON, "timeout": _SOON}


class NodeEnvironments:
    """Below one directory. `job`: whose failures are remembered; `say` hears what is done or waited for."""

    def __init__(self, root: str, job: str, say: Say) -> None:
        self._root = root
        self._job = job
        self._say = say
        os.makedirs(root, exist_ok=True)
        self.cache = os.path.join(root, "cache")

    def ready(self, key: str) -> Made | None:
        """The environment if it is there; it is then in use as long as this process and its forks live."""
        if os.path.exists(self._path(key, "enough")):
            os.utime(self._path(key, "enough"))
            return NOT_NEEDED
        if not os.path.islink(self._path(key)):
            return None
        lock = locks.take_now(self._path(key, "lock"), shared=True)
        if lock is None:
            return None
        directory = self._complete(key)
        if directory is None:
            lock.release()
            return None
        lock.touch()
        _in_use.append(lock)
        return made_in(directory)

    def not_needed(self, key: str) -> Made:
        """Remember that the interpreter has everything."""
        try:
            open(self._path(key, "enough"), "wb").close()
        except OSError as full:
            self._say(f"nothing has to be installed, which could not be noted: {full}")
        return NOT_NEEDED

    def make(self, key: str, build: Callable[[str, str], None]) -> Made:
        """The environment, made by `build(directory, scratch)` unless somebody has made it meanwhile. Waits for who
        does. Raises InstallError: also when it failed for another task of the job."""
        while True:
            with self._exclusively(key):
                if self._complete(key) is None:
                    self._raise_remembered(key)
                    self._make(key, build)
            made = self.ready(key)
            if made is not None:  # else somebody short of disk space has removed it in between
                return made

    def _make(self, key: str, build: Callable[[str, str], None]) -> None:
        self._sweep(key, None)
        self._tidy(everything=False)
        try:
            try:
                self._build(key, build)
            except InstallError as error:
                if error.kind != "disk" or not self._tidy(everything=True):
                    raise
                self._say("the disk was full; what nobody uses is gone, once more")
                self._build(key, build)
        except InstallError as error:
            self._remember(key, error)
            raise
        finally:
            _remove(self._path(key, "progress"))
        _remove(self._path(key, "failed"))
        self._tidy(everything=False)

    def _build(self, key: str, build: Callable[[str, str], None]) -> None:
        """One try. What it leaves in the end is whole, or nothing."""
        directory = scratch = ""
        try:
            with locks.take(os.path.join(self._root, "cache.lock"), shared=True):
                directory = tempfile.mkdtemp(prefix=f"{key}.", dir=self._root)
                scratch = tempfile.mkdtemp(prefix=f"{key}.", dir=self._root)
                build(directory, scratch)
                os.chmod(directory, 0o755)
                link = os.path.join(scratch, "link")
                os.symlink(os.path.basename(directory), link)
                os.rename(link, self._path(key))
        except OSError as error:
            _remove(directory)
            raise InstallError.of(error) from error
        except BaseException:
            _remove(directory)
            raise
        finally:
            _remove(scratch)

    def make_room(self) -> None:
        """Remove what no task uses."""
        self._tidy(everything=True)

    def progress(self, key: str, line: str) -> None:
        """Tell those who wait for the environment."""
        try:
            with open(self._path(key, "progress"), "w", encoding="utf-8") as file:
                file.write(line)
        except OSError:  # a full disk: the installer will say so itself
            pass

    def _exclusively(self, key: str) -> locks.Lock:
        """The lock of one environment, however long its maker takes."""
        told = time.monotonic()
        path, progress = self._path(key, "lock"), self._path(key, "progress")
        heard = ""
        while True:
            lock = locks.take_now(path)
            if lock is not None:
                return lock
            if self._complete(key) is not None:
                lock = locks.take_now(path, shared=True)
                if lock is not None and self._complete(key) is not None:
                    return lock
                if lock is not None:
                    lock.release()
            if not heard or time.monotonic() > told + _TOLD:
                now = _text(progress)
                if now != heard:
                    self._say(f"another task installs the packages: {now}")
                    heard, told = now, time.monotonic()
            time.sleep(_PAUSE)

    def _complete(self, key: str) -> str | None:
        """The environment's directory, where there is a whole one."""
        try:
            directory = os.path.join(self._root, os.readlink(self._path(key)))
        except OSError:
            return None
        return directory if os.path.isdir(directory) else None

    def _remember(self, key: str, error: InstallError) -> None:
        if error.kind in _REMEMBERED:
            fields = {"job": self._job, "at": time.time(), "kind": error.kind, "text": str(error)}
            scratch = self._path(key, "failed.new")
            try:
                with open(scratch, "w", encoding="utf-8") as file:
                    json.dump({**fields, "installer": error.installer, "reason": error.reason}, file)
                os.rename(scratch, self._path(key, "failed"))
            except OSError as full:
                self._say(f"the failure could not be noted: {full}")

    def _raise_remembered(self, key: str) -> None:
        try:
            with open(self._path(key, "failed"), encoding="utf-8") as file:
                known: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            return
        lasts = _REMEMBERED.get(known["kind"])
        if known["job"] == self._job and (lasts is None or abs(time.time() - known["at"]) < lasts):
            raise InstallError(known["kind"], known["text"], known["installer"], known["reason"])

    def _tidy(self, everything: bool) -> bool:
        """Remove what was left half made, and complete environments that nobody uses: the longest unused beyond so
        many; all of them, and what was downloaded, where the disk is nearly full. Whether anything went."""
        everything = everything or _is_short(self._root)
        went = False
        unused = []
        with os.scandir(self._root) as entries:
            for entry in entries:
                key, _, kind = entry.name.partition(".")
                if kind == "lock" and key != "cache":
                    unused.append((_age(entry.path), key))
                elif kind in ("enough", "failed", "failed.new", "progress") and _age(entry.path) > 30 * 86400:
                    _remove(entry.path)
        for place, (_, key) in enumerate(sorted(unused)):
            went = self._tidy_one(key, everything or place >= KEPT) or went
        if everything or _size(self.cache) > CACHE_LIMIT:
            lock = locks.take_now(os.path.join(self._root, "cache.lock"))
            if lock is not None:  # else others are at it, and the last of them will see
                with lock:
                    went = os.path.exists(self.cache) or went
                    _remove(self.cache)
        return went

    def _tidy_one(self, key: str, environment_too: bool) -> bool:
        """Remove what is left of unfinished environments of this key; and what is finished, if so asked."""
        try:
            lock = locks.take_now(self._path(key, "lock"))
        except OSError:  # no lock of ours: no reason to make no environments any more
            return False
        if lock is None:
            return False
        with lock:
            complete = self._complete(key)
            if environment_too or complete is None:
                _remove(self._path(key))
                complete = None
            went = self._sweep(key, complete)
            if complete is None:
                lock.remove()
            return went

    def _sweep(self, key: str, complete: str | None) -> bool:
        """Under its lock: remove the directories of a key but for this one. Whether there were any."""
        paths = [os.path.join(self._root, name) for name in os.listdir(self._root) if name.startswith(f"{key}.")]
        left = [path for path in paths if path != complete and os.path.isdir(path)]
        for path in left:
            _remove(path)
        return bool(left)

    def _path(self, key: str, kind: str = "") -> str:
        return os.path.join(self._root, f"{key}.{kind}" if kind else key)


# Held to the end of the process: what a task uses must not be removed.
_in_use: list[locks.Lock] = []


def _remove(path: str) -> None:
    """A file, link or directory, if it is there. What of a directory cannot go now is left to the next who tidies up:
    the remains of a killed installer may still write to it."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read() or "it has just begun"
    except OSError:
        return "it has just begun"


def _age(path: str) -> float:
    """Seconds since a file was touched; nothing for one that has gone."""
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0


def _is_short(directory: str) -> bool:
    disk = os.statvfs(directory)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return free < min(_LEAST_FREE, total // 10)


def _size(directory: str) -> int:
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                pass  # it has just gone
    return total

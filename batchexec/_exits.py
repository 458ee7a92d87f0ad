"""How long this process waits for its engines: on shutdown, at the interpreter's exit, after a Ctrl-C."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._engine.engine import Engine


def wait_for(engine: Engine) -> None:
    """Until the engine is over. Ctrl-C ends its job instead; a second one leaves at once."""
    try:
        _wait(engine)
    except KeyboardInterrupt:
        if engine.board.ending == "abandon":
            engine.leave()
        else:
            interrupt(engine)
        raise


def interrupt(engine: Engine) -> None:
    """After a Ctrl-C: end the engine's job now, and tell how to get at the results that are there. Another Ctrl-C, as
    soon as that was told, leaves at once."""
    try:
        if engine.place.where == "azure" and engine.session is not None and not engine.done:
            job = engine.session.job_id
            engine.board.progress.announce(
                f"interrupted: ending job {job}. Results that are there stay in storage: `batchexec fetch {job}` "
                f"writes them to a file, `batchexec clean {job}` deletes them.",
                always=True,
            )
        engine.end("abandon")
        _wait(engine)
    except KeyboardInterrupt:
        engine.end("abandon")
        engine.leave()
        raise


def _wait(engine: Engine) -> None:
    while not engine.join(0.2):  # bounded: on Windows nothing interrupts a join
        engine.board.progress.tick()


# Engines that the interpreter waits for when it exits: those that are not over yet.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_exiting = False


def exiting() -> bool:
    """Whether the interpreter is on its way out and takes no more work."""
    return _exiting


def register(engine: Engine) -> None:
    """Have the interpreter wait for the engine before it exits."""
    _engines.add(engine)


def _wait_at_exit() -> None:
    """As the standard library's pools: work that was submitted is done before the interpreter goes; but not when it
    goes because of a Ctrl-C."""
    global _exiting
    _exiting = True
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    engines = [engine for engine in _engines if not engine.foreign and not engine.done]
    for engine in engines:
        engine.end("abandon" if interrupted else "drain")
        if engine.board.pending and not interrupted:
            engine.board.progress.announce("waiting for the work that was submitted; Ctrl-C ends it", always=False)
    for engine in engines:
        wait_for(engine)


def _register_at_exit() -> None:
    # Before concurrent.futures' own hook, which forbids new threads, and long before atexit's functions. Hooks run in
    # reverse order, so that one has to be there when ours is registered.
    import concurrent.futures.thread  # noqa: F401

    register = getattr(threading, "_register_atexit", None)
    if register is None:
        import atexit

        register = atexit.register
    register(_wait_at_exit)


_register_at_exit()

"""CPython's own executor suites, bound to BatchExecutor and run: `python bound.py SUITE REPORT.json`.

Nothing of the suites is copied: the classes come from the interpreter's own `test` package and run as they are, but for
what is written down here. Needs an interpreter with that package, and batchexec installed in it.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
import unittest
from concurrent import futures

from test import support

from batchexec import BatchExecutor

PACKAGE = "test.test_concurrent_futures"
_whole = importlib.import_module(PACKAGE)


def _module(name):
    """A module of the suite; up to Python 3.11 all of it is one."""
    return importlib.import_module(f"{PACKAGE}.{name}") if hasattr(_whole, "__path__") else _whole


util, executor, shutdown = _module("util"), _module("executor"), _module("test_shutdown")
process_pool, init = _module("test_process_pool"), _module("test_init")
waiting, as_completed = _module("test_wait"), _module("test_as_completed")
setUpModule = getattr(util, "setup_module", None) or util.setUpModule


class BatchMixin(util.ExecutorMixin):
    executor_type = BatchExecutor


class SeenRunning:
    """An executor that is told to cancel only once one of its tasks was seen running.

    A thread pool has run one by the time it is told; here a task has to reach a node first.
    """

    def __init__(self, executor):
        self._executor = executor
        self._futures = []

    def submit(self, *args):
        self._futures.append(self._executor.submit(*args))
        return self._futures[-1]

    def shutdown(self, **how):
        end = time.monotonic() + support.SHORT_TIMEOUT
        while not any(future.running() or future.done() for future in self._futures):
            assert time.monotonic() < end, "no task was seen running"
            time.sleep(0.005)
        self._executor.shutdown(**how)


class CancelOnceRunning:
    def test_cancel_futures(self):
        original = self.executor
        self.executor = SeenRunning(original)
        try:
            super().test_cancel_futures()
        finally:
            self.executor = original


THREADS = "reads the thread pool's _threads"
PROCESSES = "reads the process pool's _processes"
SHARED = "shares a list, an event or a lock of this process with the calls: threads only"
RACE = "expects that a task runs at once; CPython gave that up itself (gh-116682)"
INTERNAL = "about the insides of the process pool"

# Bound whole: every test of these must pass.
ABSTRACT = {
    "executor": [executor.ExecutorTest],
    "wait": [waiting.WaitTests],
    "as_completed": [as_completed.AsCompletedTests],
    "shutdown": [shutdown.ExecutorShutdownTest],
    "init": [init.InitializerMixin, init.FailingInitializerMixin],
}

# What only one of the standard pools has on top of that: the tests that hold for any executor run too, the others are
# skipped by name.
ONE_POOL_ONLY = {
    "executor": [
        (
            process_pool.ProcessPoolExecutorTest,
            {
                "test_killed_child": PROCESSES,
                "test_saturation": PROCESSES,
                "test_idle_process_reuse_one": PROCESSES,
                "test_idle_process_reuse_multiple": PROCESSES,
                "test_max_tasks_per_child": PROCESSES,
                "test_max_tasks_per_child_defaults_to_spawn_context": INTERNAL,
                "test_max_tasks_early_shutdown": INTERNAL,
                "test_python_finalization_error": INTERNAL,
                "test_force_shutdown_workers": PROCESSES,
                "test_force_shutdown_workers_invalid_op": PROCESSES,
                "test_force_shutdown_workers_stops_pool": PROCESSES,
                "test_terminate_workers": PROCESSES,
                "test_kill_workers": PROCESSES,
                "test_process_pool_executor_terminate_workers": PROCESSES,
                "test_process_pool_executor_kill_workers": PROCESSES,
                "test_max_workers_too_large": "about the process pool on Windows",
                "test_traceback": "compares with the process pool's own _RemoteTraceback class",
                "test_ressources_gced_in_workers": "needs a multiprocessing manager reachable from the worker",
            },
        ),
    ],
    "wait": [(waiting.ThreadPoolWaitTests, {"test_pending_calls_race": SHARED})],
    "as_completed": [],
    "shutdown": [
        (
            shutdown.ThreadPoolShutdownTest,
            {
                "test_threads_terminate": THREADS,
                "test_context_manager_shutdown": THREADS,
                "test_del_shutdown": THREADS,
                "test_shutdown_no_wait": THREADS,
                "test_thread_names_assigned": THREADS,
                "test_thread_names_default": THREADS,
                **({} if sys.version_info >= (3, 12) else {"test_cancel_futures_wait_false": RACE}),
            },
        ),
        (
            shutdown.ProcessPoolShutdownTest,
            {
                "test_processes_terminate": PROCESSES,
                "test_context_manager_shutdown": PROCESSES,
                "test_del_shutdown": PROCESSES,
                "test_shutdown_no_wait": PROCESSES,
            },
        ),
    ],
    "init": [],
}


def _adapt_scripts():
    """The import line of the scripts that the suite runs in interpreters of their own."""
    run = shutdown.assert_python_ok

    def assert_python_ok(*args, **env):
        ours = r"from batchexec import BatchExecutor as \1"
        source = re.sub(r"from concurrent\.futures import (\w+)", ours, args[-1])
        return run(*args[:-1], source, **env)

    shutdown.assert_python_ok = assert_python_ok


def bind(tests, names=None, skipped=()):
    """A test case of `tests` for BatchExecutor; of its own tests only `names`, when given."""
    body = {"__module__": __name__}
    for name in dir(tests):
        if name.startswith("test") and names is not None and name not in names:
            body[name] = None  # unittest looks for callables only
    for name in skipped:
        body[name] = unittest.skip(skipped[name])(lambda self: None)
    cancel = (CancelOnceRunning,) if "test_cancel_futures" in dir(tests) and names is None else ()
    base = () if issubclass(tests, unittest.TestCase) else (util.BaseTestCase,)
    return type(f"Batch{tests.__name__}", (*cancel, BatchMixin, tests, *base), body)


def load(suite):
    loader = unittest.defaultTestLoader
    cases = [bind(tests) for tests in ABSTRACT[suite]]
    for tests, table in ONE_POOL_ONLY[suite]:
        own = [name for name in vars(tests) if name.startswith("test")]
        cases.append(bind(tests, own, {name: table[name] for name in own if name in table}))
    return unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in cases)


class Report(unittest.TextTestResult):
    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.passed = []
        self.took = {}

    def startTest(self, test):
        self._began = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        self.took[_name(test)] = round(time.monotonic() - self._began, 2)
        super().stopTest(test)

    def addSuccess(self, test):
        self.passed.append(_name(test))
        super().addSuccess(test)


def _name(test):
    return test.id().removeprefix(f"{__name__}.")


def main(suite, report_path):
    support.use_resources = ["walltime", "cpu"]
    _adapt_scripts()
    assert issubclass(BatchExecutor, futures.Executor)
    result = unittest.TextTestRunner(verbosity=2, resultclass=Report).run(load(suite))
    report = {
        "passed": result.passed,
        "skipped": {_name(test): reason for test, reason in result.skipped},
        "failed": {_name(test): text for test, text in [*result.failures, *result.errors]},
        "left_behind": bool(support.environment_altered),  # threads or processes that outlive a test
        "seconds": result.took,
    }
    with open(report_path, "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

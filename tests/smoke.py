"""A first look at batchexec in the Python that runs this file: standard library only, no pytest, no source tree."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import batchexec
from batchexec import BatchExecutor, errors


def square(number: int) -> int:
    return number * number


def divide(number: int) -> float:
    return 1 / number


def use_own_module(number: int) -> int:
    import smoke_own_module

    return smoke_own_module.double(number)


def start_an_executor(_: int) -> None:
    BatchExecutor()


def check(what: str, holds: bool) -> None:
    if not holds:
        raise SystemExit(f"{what}: FAILED")
    print(f"  {what}")


def main() -> None:
    print(f"batchexec {batchexec.__version__} in {Path(batchexec.__file__).parent}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "smoke_own_module.py").write_text("def double(number):\n    return 2 * number\n")
        sys.path.insert(0, directory)
        with BatchExecutor(max_workers=2) as ex:
            check("map gives all results in order", list(ex.map(square, range(20))) == [n * n for n in range(20)])
            check("submit gives one", ex.submit(pow, 2, 10).result() == 1024)
            error = ex.submit(divide, 0).exception()
            check("an exception keeps its type", type(error) is ZeroDivisionError)
            check("and tells where it was raised", "in divide" in str(error.__cause__ if error else ""))
            nested = ex.submit(start_an_executor, 0).exception()
            check("an executor inside a worker is refused", type(nested) is errors.NestedExecutorError)
            check("the user's own module travels", ex.submit(use_own_module, 21).result() == 42)


if __name__ == "__main__":
    main()

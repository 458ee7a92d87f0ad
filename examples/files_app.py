"""An unmodified program with requirements of its own, once for each of 60 CSV files; nothing is installed here."""

# %% Data: a folder of files, and the program that cleans one
import tempfile
import time
from pathlib import Path

import example_data

program = Path(__file__).parent / "programs" / "transform"
folder = tempfile.TemporaryDirectory()
days = Path(folder.name, "days")
example_data.measurements(days)

# %% With BatchExecutor: on this machine; with an account configured, on Azure Batch
from batchexec import BatchExecutor, Command


def clean_all(slots):
    transform = Command(["python", program / "transform.py", "{input}", "{out}"], outputs={"out": "clean.csv"})
    target = f"{folder.name}/{slots}/{{item}}"
    with BatchExecutor(slots, requirements=program / "requirements.txt", output_dir=target) as ex:
        ex.submit(transform, min(days.iterdir())).result()  # brings the packages to the node, which is not timed
        start = time.perf_counter()
        results = list(ex.map(transform, sorted(days.iterdir())))
        return [result.outputs[0].read_text() for result in results], time.perf_counter() - start


texts, seconds = clean_all(slots=8)
print(f"{len(texts)} files in {seconds:.1f} s")

# %% Serial twin: one file after the other, in a single slot
before, serial_seconds = clean_all(slots=1)
print(f"{serial_seconds / seconds:.1f} times as fast as one slot")
print("same as the serial loop:", texts == before)

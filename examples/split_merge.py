"""A JSON job split into 200 configurations, one 20 MB reference for all, 5 % transient failures, merged again."""

# %% Data: the job and its reference, and the module that there was before
import json
import os
import tempfile
from pathlib import Path

import example_data
from stations import merge, run, split

folder = tempfile.TemporaryDirectory()
job, reference = Path(folder.name, "job.json"), Path(folder.name, "reference.zip")
example_data.job(job)
example_data.reference(reference)

# %% With BatchExecutor: on this machine; with an account configured, on Azure Batch
from itertools import repeat

from batchexec import BatchExecutor

whole = json.loads(job.read_text())
parts = split(whole)
results = dict.fromkeys(range(len(parts)), OSError("not tried"))
with BatchExecutor(files={"reference.zip": reference}) as ex:
    for attempt in range(1 + 3):  # once, and three times more
        left = [number for number, result in results.items() if isinstance(result, OSError)]
        found = ex.map(run, [parts[number] for number in left], repeat(attempt), return_exceptions=True)
        results.update(zip(left, found, strict=True))
        print(f"attempt {attempt}: {len(left)} configurations")
merged = merge(whole, results.values())

# %% Serial twin: one configuration after the other, each until there is an answer
os.chdir(folder.name)


def patiently(part):
    for attempt in range(1 + 3):
        try:
            return run(part, attempt)
        except OSError:
            pass


print("same as the serial loop:", merged == merge(whole, [patiently(part) for part in parts]))

"""A compiled program over 240 sets of parameters, which it takes from its environment; its 64 MB input is there once.

`--scale` sends all 23,634 sets, of a program that does nothing: how long they take to send, and to see through. Each
is a task of its own: here, that takes minutes.
"""

# %% Data: the program, compiled here; its input; parameters
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import example_data

scale = "--scale" in sys.argv
folder = tempfile.TemporaryDirectory()
decay, samples, runs = (Path(folder.name, name) for name in ("decay", "samples.bin", "runs"))
source = Path(__file__).parent / "programs" / "decay.c"
subprocess.run(["cc", "-O2", "-o", decay, source, "-lm"], check=True)
example_data.samples(samples)
rates, offsets, steps = (39, 101, 6) if scale else (10, 4, 6)
program, wanted = (["true"], []) if scale else ([decay], ["result.csv", "curve.csv"])

# %% With BatchExecutor: on this machine; with an account configured, on Azure Batch
from batchexec import BatchExecutor, Command

names = ["rate", "offset", "steps", "noise", "start"]
values = itertools.product([n / 100 for n in range(rates)], range(offsets), [1000 * n for n in range(1, steps + 1)])
sets = [dict(zip(names, [*value, 0.1, 1.0], strict=True)) for value in values]
env = {f"DECAY_{name.upper()}": f"{{{name}}}" for name in names}
sweep = Command(program, env=env, inputs=[samples], outputs=wanted)
with BatchExecutor(output_dir=f"{runs}/{{item}}") as ex:
    start = time.perf_counter()
    results = ex.map(sweep, sets)
    print(f"{len(sets)} runs sent in {time.perf_counter() - start:.1f} s")
    kept = [sorted(path.name for path in result.outputs) for result in results]
print(f"done in {time.perf_counter() - start:.1f} s")

# %% Serial twin: one run after the other, each in a directory of its own
if scale:
    sys.exit()
same = True
for number, parameters in enumerate(sets):
    there, here = runs / f"{number}", Path(folder.name, "here", f"{number}")
    here.mkdir(parents=True)
    (here / "samples.bin").symlink_to(samples)
    own = {f"DECAY_{name.upper()}": str(value) for name, value in parameters.items()}
    subprocess.run([decay], cwd=here, env=os.environ | own, check=True)
    same &= all((here / name).read_text() == (there / name).read_text() for name in wanted)
    same &= kept[number] == sorted(wanted)
print("same as the serial loop:", same)

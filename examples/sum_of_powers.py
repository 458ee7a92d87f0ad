"""Four seeds, ten uniform numbers of each, their cubes, their sum: small, and the same wherever it runs."""

# %% Model: what one seed comes to
import numpy as np

seeds = [1, 12, 123, 1234]


def cubes(seed):
    np.random.seed(seed)
    return sum(x**3 for x in np.random.uniform(size=10))


# %% With BatchExecutor: on this machine's cores; with an account configured, on Azure Batch
from batchexec import BatchExecutor

with BatchExecutor() as ex:
    total = sum(ex.map(cubes, seeds))
print(total)

# %% Serial twin
print("same as the serial loop:", total == sum(map(cubes, seeds)))

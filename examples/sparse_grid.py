"""A grid of 10 folds x 5 penalties, by a library that already takes an executor: ours is one assignment."""

# %% Model: the library's data and grid
import numpy as np
from sparse_fit import cross_validate, make_data

X, y = make_data()
penalties = np.logspace(-3, 0, 5)

# %% With BatchExecutor: on this machine's cores; with an account configured, on Azure Batch
from batchexec import BatchExecutor

executor = BatchExecutor()
with executor:
    errors = cross_validate(X, y, penalties, folds=10, executor=executor)
print("best penalty:", penalties[errors.mean(axis=0).argmin()])

# %% Serial twin: the same call with an executor of the standard library
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(1) as executor:
    before = cross_validate(X, y, penalties, folds=10, executor=executor)
print("same as the serial loop:", bool((errors == before).all()))

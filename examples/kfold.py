"""K-fold cross-validation: 20 splits of 10,000 rows x 20 columns, which every fit reads and which travel once."""

# %% Model: data, splits, and one turn of the loop
from sklearn.datasets import make_classification
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeClassifier

X, y = make_classification(n_samples=10_000, n_features=20, random_state=0)
splits = list(KFold(n_splits=20, shuffle=True, random_state=0).split(X))


def fit(data, split):
    (X, y), (train, test) = data, split
    model = DecisionTreeClassifier(max_depth=4, random_state=0).fit(X[train], y[train])
    return model.score(X[test], y[test])


# %% With BatchExecutor: on this machine's cores; with an account configured, on Azure Batch
from itertools import repeat

from batchexec import BatchExecutor

with BatchExecutor() as ex:
    data = ex.share((X, y))
    scores = list(ex.map(fit, repeat(data), splits))
print(f"accuracy over {len(scores)} folds: {sum(scores) / len(scores):.4f}")

# %% Serial twin: one split after the other
before = [fit((X, y), split) for split in splits]
print("same as the serial loop:", scores == before)

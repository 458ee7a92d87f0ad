"""K-fold cross-validation: the loop as it was, then the same loop with BatchExecutor."""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold

from batchexec import BatchExecutor

X, y = load_breast_cancer(return_X_y=True)
folds = list(StratifiedKFold(n_splits=8, shuffle=True, random_state=0).split(X, y))


def fit(fold):
    train, test = fold
    model = RandomForestClassifier(n_estimators=50, random_state=0).fit(X[train], y[train])
    return model.score(X[test], y[test])


# Before: one fold after the other.
before = []
for fold in folds:
    before.append(fit(fold))

# After: on this machine's cores; with an account configured, on Azure Batch.
with BatchExecutor() as ex:
    after = list(ex.map(fit, folds))

for number, score in enumerate(after, 1):
    print(f"fold {number}: {score:.4f}")
print("same scores as the plain loop:", after == before)

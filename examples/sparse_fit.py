"""A library that knows nothing of batchexec: cross-validated lasso, which takes any executor of concurrent.futures."""

import concurrent.futures

import numpy as np


def make_data(rows=300, columns=60, relevant=8, seed=0):
    """X (rows x columns), y (rows): y depends on `relevant` of the columns."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((rows, columns))
    weights = np.zeros(columns)
    weights[:relevant] = random.uniform(1, 3, relevant)
    return X, X @ weights + random.standard_normal(rows)


def lasso(X, y, penalty, steps=500):
    """The weights that minimise |y - X w|^2 / 2n + penalty * |w|, by proximal gradient steps."""
    rows = len(y)
    gram, target = X.T @ X / rows, X.T @ y / rows
    rate = 1 / np.linalg.norm(gram, 2)
    weights = np.zeros(X.shape[1])
    for _ in range(steps):
        weights = weights - rate * (gram @ weights - target)
        weights = np.sign(weights) * np.maximum(np.abs(weights) - rate * penalty, 0)
    return weights


def error(X, y, penalty, fold, folds):
    """Mean squared error on one fold of the weights fitted to the others."""
    test = np.arange(len(y)) % folds == fold
    return float(np.mean((y[test] - X[test] @ lasso(X[~test], y[~test], penalty)) ** 2))


def cross_validate(X, y, penalties, folds, executor):
    """Mean squared errors (folds x penalties)."""
    errors = np.empty((folds, len(penalties)))
    futures = {
        executor.submit(error, X, y, penalty, fold, folds): (fold, column)
        for column, penalty in enumerate(penalties)
        for fold in range(folds)
    }
    for future in concurrent.futures.as_completed(futures):
        errors[futures[future]] = future.result()
    return errors

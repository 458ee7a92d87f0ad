"""The demo's loop: one cross-validated fit of an SVM to scikit-learn's bundled handwritten digits."""

from __future__ import annotations

from typing import NamedTuple

import numpy
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

FOLDS = 5
IMAGES, DIGITS = load_digits(return_X_y=True)  # 1,797 images of 8 x 8 pixels
SPLITS = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(IMAGES, DIGITS))


class Fit(NamedTuple):
    """One turn of the loop."""

    c: float
    gamma: float
    fold: int


def fits(small: bool) -> list[Fit]:
    """All turns of the loop: C x gamma x folds."""
    cs = numpy.logspace(0, 1, 2) if small else numpy.logspace(-1, 3, 5)
    gammas = numpy.logspace(-3, -2, 2) if small else numpy.logspace(-4, -1, 5)
    return [Fit(float(c), float(gamma), fold) for c in cs for gamma in gammas for fold in range(FOLDS)]


def score(fit: tuple[float, float, int]) -> float:
    """Share of the fold's digits that an SVM recognises which was trained on the others."""
    c, gamma, fold = fit
    train, test = SPLITS[fold]
    model = SVC(C=c, gamma=gamma).fit(IMAGES[train], DIGITS[train])
    return float(model.score(IMAGES[test], DIGITS[test]))


def best(turns: list[Fit], scores: list[float]) -> tuple[float, float, float]:
    """C and gamma with the best mean score over the folds, and that score."""
    means: dict[tuple[float, float], float] = {}
    for turn, value in zip(turns, scores, strict=True):
        means[turn.c, turn.gamma] = means.get((turn.c, turn.gamma), 0.0) + value / FOLDS
    c, gamma = max(means, key=means.__getitem__)
    return c, gamma, means[c, gamma]

"""How much a simple linear model can read out of numbers, beside what it reads out by chance.

A probe is fitted on some people and tested on others. Its penalty is chosen among the people it is fitted
on, by inner cross-validation over people. The chance level comes from the same probe fitted again, with
the same penalty grid, after the answers of the people it is fitted on have been shuffled: what is left
then is what a probe reaches that knows nothing.
"""

from __future__ import annotations

import numpy as np

_PENALTIES = np.logspace(-1, 6, 15)
_STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse penalties of the logistic probe."""
_INNER_FOLDS = 3


def ridge_probe(
    x: np.ndarray, y: np.ndarray, unseen: np.ndarray, shuffles: int, rng: np.random.Generator
) -> np.ndarray:
    """Predictions of a ridge regression for unseen people.

    Parameters
    ----------
    x, y : inputs (people, inputs) and answers (people, answers) that the probe is fitted on. Each answer
        has a penalty of its own, by leave-one-out error.
    unseen : inputs (others, inputs).
    shuffles : how often to fit again with shuffled people.

    Returns
    -------
    Shape (1 + shuffles, others, answers): the probe's predictions, then those of the shuffled ones.
    """
    from sklearn.linear_model import RidgeCV

    x, unseen = _standardised(x, unseen)
    order = [np.arange(len(y)), *(rng.permutation(len(y)) for _ in range(shuffles))]
    # All shuffles are answers of one regression: its decomposition is needed only once.
    answers = np.concatenate([y[people] for people in order], axis=1)
    center = answers.mean(axis=0)
    fitted = RidgeCV(alphas=_PENALTIES, alpha_per_target=True).fit(x, answers - center)
    said: np.ndarray = np.asarray(fitted.predict(unseen)).reshape(len(unseen), -1) + center
    return said.reshape(len(unseen), len(order), -1).transpose(1, 0, 2)


def logistic_probe(
    x: np.ndarray,
    label: np.ndarray,
    person: np.ndarray,
    unseen: np.ndarray,
    shuffles: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a logistic regression for unseen people, every class weighing the same.

    Parameters
    ----------
    x, label, person : inputs (scans, inputs), classes (scans,) and whose scans they are (scans,), that
        the probe is fitted on.
    unseen : inputs (others, inputs).
    shuffles : how often to fit again with shuffled labels.

    Returns
    -------
    classes : (classes,), sorted.
    probability : (1 + shuffles, others, classes): the probe's, then those of the shuffled ones.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    x, unseen = _standardised(x, unseen)

    def model(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=500, tol=1e-3)

    folds = GroupKFold(_INNER_FOLDS, shuffle=True, random_state=0)
    scores = []
    for strength in _STRENGTHS:
        inner = cross_val_predict(model(strength), x, label, groups=person, cv=folds)
        scores.append(balanced_accuracy_score(label, inner))
    best = _STRENGTHS[int(np.argmax(scores))]
    orders = [np.arange(len(label)), *(rng.permutation(len(label)) for _ in range(shuffles))]
    said = [model(best).fit(x, label[order]).predict_proba(unseen) for order in orders]
    return np.unique(label), np.stack(said)


def _standardised(x: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by mean and SD of the first; a column that does not vary there becomes 0 in both."""
    mean, sd = x.mean(axis=0), x.std(axis=0)
    varies = sd > 1e-8
    scale = np.where(varies, sd, 1.0)
    return np.where(varies, (x - mean) / scale, 0.0), np.where(varies, (unseen - mean) / scale, 0.0)

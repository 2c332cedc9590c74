"""The protocol of the OpenBHB challenge: what a linear reader finds in frozen codes.

An encoder is trained on the training split and then left as it is. A ridge regression reads the age from
its codes and a logistic regression reads the site, both fitted on the training split. The codes are the
better, the smaller the error of age at *unseen* sites, and the less they tell of the site (Dufumier et al.
2022, NeuroImage 263:119637). Grids, folds, solver and scores are those of the challenge's starting kit
(ramp-kits/brain_age_with_site_removal).
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.codes import encode_scans
from hpc_brainage.evaluation.progress import Progress
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.prediction import pieces

SPLITS = ("train", "internal_test", "external_test")
MOST_FEATURES = 10_000
_STRENGTHS = 10.0 ** np.arange(-2, 3)
_INNER_FOLDS = 5
_ITERATIONS = 150
_EXPONENT = 0.3
_PUBLISHED_COLUMNS = (
    "method",
    "kernel",
    "sigma",
    "ramp/int_mae",
    "ramp/ext_mae",
    "ramp/bacc",
    "ramp/score",
)


@dataclass(frozen=True)
class ChallengeResult:
    """A row of the challenge's table.

    Attributes
    ----------
    name : of the codes.
    internal_mae, external_mae : years, on test people of training sites and of unseen sites.
    site_accuracy : balanced accuracy of the site on the internal test, 0 to 1.
    score : external_mae · site_accuracy^0.3; lower is better.
    source : "measured here", or where it was published.
    """

    name: str
    internal_mae: float
    external_mae: float
    site_accuracy: float
    score: float
    source: str = "measured here"


def challenge_score(external_mae: float, site_accuracy: float) -> float:
    """The challenge's score: MAE at unseen sites (years) · balanced accuracy of the site (0 to 1) ^ 0.3."""
    return float(external_mae * site_accuracy**_EXPONENT)


def challenge(
    name: str, codes_ND: np.ndarray, age: np.ndarray, site: np.ndarray, split: np.ndarray
) -> ChallengeResult:
    """Read age and site from frozen codes, as the challenge does.

    Parameters
    ----------
    codes_ND : one row for each scan, at most 10,000 columns, finite. The encoder must have seen none of the
        test people.
    age : years.
    site : acquisition site of each scan as text, "" where unknown; not looked at in the external test.
    split : "train", "internal_test" or "external_test"; scans of another split take no part.

    Raises
    ------
    UsageError : a split is empty, there are too many columns, or codes or ages are missing.
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GridSearchCV

    train, internal, external = (split == part for part in SPLITS)
    check_challenge(split)
    _check(name, codes_ND, age, train | internal | external)
    ridge = GridSearchCV(Ridge(), {"alpha": _STRENGTHS}, cv=_INNER_FOLDS, scoring="r2")
    ridge.fit(codes_ND[train], age[train])
    labelled, asked = train & (site != ""), internal & (site != "")
    if len(np.unique(site[labelled])) < 2 or not asked.any():
        raise UsageError(
            "there is no site to tell from another",
            where=name,
            expected="two sites among the training people, and internal test people of known sites",
        )
    reader = GridSearchCV(
        LogisticRegression(solver="saga", max_iter=_ITERATIONS, random_state=0),
        {"C": _STRENGTHS},
        cv=_INNER_FOLDS,
        scoring="balanced_accuracy",
    )
    with warnings.catch_warnings():
        # The kit stops after 150 iterations, converged or not, and so it is measured here. Sites with
        # fewer people than inner folds are in its data too.
        warnings.simplefilter("ignore")
        reader.fit(codes_ND[labelled], site[labelled])
        accuracy = float(balanced_accuracy_score(site[asked], reader.predict(codes_ND[asked])))
    internal_mae, external_mae = (
        float(np.abs(ridge.predict(codes_ND[rows]) - age[rows]).mean()) for rows in (internal, external)
    )
    return ChallengeResult(
        name, internal_mae, external_mae, accuracy, challenge_score(external_mae, accuracy)
    )


def constant_challenge(age: np.ndarray, site: np.ndarray, split: np.ndarray) -> ChallengeResult:
    """What codes that say nothing reach: the mean age of the training people, and a site by chance."""
    train, internal, external = (split == part for part in SPLITS)
    mean = float(age[train].mean())
    chance = 1 / max(len(set(site[internal]) - {""}), 1)
    errors = [float(np.abs(mean - age[rows]).mean()) for rows in (internal, external)]
    return ChallengeResult(
        "codes that say nothing (mean age)",
        errors[0],
        errors[1],
        chance,
        challenge_score(errors[1], chance),
    )


def member_codes(member: Member, data: TrainingData) -> tuple[np.ndarray, np.ndarray | None]:
    """A member's codes of all scans, (scans, codes), and as many of its front ends' first components.

    The components have passed no network: what they reach is what the network must better. Of a modality
    that a scan lacks both are zero. There are no components of volumes: None.
    """
    rows = np.arange(len(data.scans))
    codes = np.nan_to_num(encode_scans(member, data, rows).parts()["all"])
    width = codes.shape[1] // len(member.roles)
    parts: list[np.ndarray] = []
    for piece in pieces(member, data, rows):
        inputs, here, _ = member.prepare(piece.x, piece.present)
        if any(x.dim() != 2 for x in inputs.values()):
            return codes, None
        first = [
            np.where(here[role].cpu().numpy()[:, None], x[:, :width].cpu().numpy(), 0.0)
            for role, x in inputs.items()
        ]
        parts.append(np.concatenate(first, axis=1))
    return codes, np.concatenate(parts).astype(np.float64)


def challenge_members(
    members: Sequence[Member], data: TrainingData, progress: Progress = lambda done, total, name: None
) -> list[ChallengeResult]:
    """The protocol for each member's codes and for its components, beside codes that say nothing.

    Parameters
    ----------
    data : holds the three splits; no member may have been trained on test people.

    Raises
    ------
    UsageError : a split is empty.
    """
    age = data.age.astype(float)
    site, split = (data.scans[column].to_numpy().astype(str) for column in ("site", "split"))
    check_challenge(split)
    found = [constant_challenge(age, site, split)]
    for index, member in enumerate(members):
        progress(index, len(members), f"codes of member {index}")
        codes, components = member_codes(member, data)
        if components is not None and not index:
            name = f"first {components.shape[1]} principal components"
            found.append(challenge(name, components, age, site, split))
        found.append(challenge(f"codes of member {index}", codes, age, site, split))
    progress(len(members), len(members), "")
    return found


def published_runs(path: Path) -> list[ChallengeResult]:
    """Published runs of the challenge, from the table that EIDOSLAB/contrastive-brain-age-prediction holds.

    Its balanced accuracies are in percent.

    Raises
    ------
    UsageError : not this table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        missing = [name for name in _PUBLISHED_COLUMNS if not rows or name not in rows[0]]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
        return [
            ChallengeResult(
                f"ResNet-18, {row['method']}, {row['kernel']} {row['sigma']}".strip(),
                float(row["ramp/int_mae"]),
                float(row["ramp/ext_mae"]),
                float(row["ramp/bacc"]) / 100,
                float(row["ramp/score"]),
                source=path.name,
            )
            for row in rows
        ]
    except (OSError, ValueError, csv.Error) as problem:
        raise UsageError(
            f"this is not a table of published runs ({problem})",
            where=path,
            expected=f"a CSV with the columns {', '.join(_PUBLISHED_COLUMNS)}",
        ) from None


def check_challenge(split: np.ndarray) -> None:
    """Refuse scans that are not of all three splits.

    Raises
    ------
    UsageError : a split is empty.
    """
    counts = {part: int((split == part).sum()) for part in SPLITS}
    if not all(counts.values()):
        raise UsageError(
            "the challenge needs three splits",
            where=", ".join(f"{part}: {n} scans" for part, n in counts.items()),
            expected="people of train, internal_test and external_test in the store",
        )


def _check(name: str, codes_ND: np.ndarray, age: np.ndarray, used: np.ndarray) -> None:
    if codes_ND.shape[1] > MOST_FEATURES:
        raise UsageError(
            f"codes of {codes_ND.shape[1]} numbers", where=name, expected=f"at most {MOST_FEATURES}"
        )
    if not np.isfinite(codes_ND[used]).all() or not np.isfinite(age[used]).all():
        raise UsageError("codes or ages are missing", where=name, expected="a finite number for every scan")

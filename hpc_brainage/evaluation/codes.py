"""What the codes of a model know: disentanglement in numbers.

A member's codes are coordinates of its own, so nothing is ever fitted over the codes of two members. For
each member a probe is fitted on the codes of the people it was trained on, and tested on the codes of the
people it never saw; then the held-out people of all members are put together. The other way, fitting
probes within the held-out people of one member, would leave some ten people for each number that is fitted.
The price: of its training people a member knows the age better than of others, so a probe for age is
fitted on codes that are a little too good, and what it reaches on unseen people is a lower bound. Site
takes no part in what the encoders learn, and sex only if `model.sex` says so.

All rows of a table speak of the same people, those who have all modalities of the model; otherwise a code
could look better because of whose it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations as ordered_pairs

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from hpc_brainage.evaluation.probes import logistic_probe, ridge_probe
from hpc_brainage.evaluation.splits import check_folds
from hpc_brainage.evaluation.tables import markdown_table
from hpc_brainage.model.member import Member
from hpc_brainage.model.sa_avae import drawn_parts
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.prediction import pieces

ACTIVE_VARIANCE = 0.01
"""A code's dimension is active if its mean varies by more than this between people (Burda et al. 2016)."""
SMALLEST_SITE = 10
"""Sites (or sexes) with fewer people among a member's training people are not asked for, and nothing is
asked of a member with fewer people who have all modalities."""


_PROBE_COLUMNS = ("code", "target", "score", "value", "member_sd", "chance", "chance_best", "n")
_SPREAD_COLUMNS = ("code", "active", "units", "variance", "sigma")


@dataclass(frozen=True)
class CodeTable:
    """A member's codes of some scans.

    Attributes
    ----------
    mean, sigma : by role, mean and standard deviation of the Gaussian code, (scans, shared + distinct);
        NaN where the scan lacks the role.
    components : by role, what these are the codes of: the front end's components, or a volume's means over
        coarse blocks, (scans, components).
    shared_width : how many of the columns are the shared code; they come first.
    """

    mean: dict[str, np.ndarray]
    sigma: dict[str, np.ndarray]
    components: dict[str, np.ndarray]
    shared_width: int

    def shared(self, role: str) -> np.ndarray:
        """Means of the shared code (scans, shared)."""
        return self.mean[role][:, : self.shared_width]

    def distinct(self, role: str) -> np.ndarray:
        """Means of the distinct code (scans, distinct)."""
        return self.mean[role][:, self.shared_width :]

    @property
    def complete(self) -> np.ndarray:
        """Bool (scans,), who has a code of every role."""
        return np.all([np.isfinite(mean).all(axis=1) for mean in self.mean.values()], axis=0)

    def parts(self) -> dict[str, np.ndarray]:
        """Means by what a table calls them: "shared smri", "distinct smri", ..., and "all" side by side."""
        parts = {}
        for role in self.mean:
            parts[f"shared {role}"] = self.shared(role)
            parts[f"distinct {role}"] = self.distinct(role)
        return {**parts, "all": np.concatenate(list(parts.values()), axis=1)}


@dataclass(frozen=True)
class CodeReport:
    """What the codes know, as tables.

    Attributes
    ----------
    probes : how well a code predicts age, sex, site and the other modality's code: `code`, `target`,
        `score`, its `value` over all held-out people, `member_sd` (SD of the members' own values),
        `chance` and `chance_best` (mean and best of the probes fitted on shuffled people), `n` scans. "all"
        is every code side by side; "components" is what the encoders were given, every modality's side by
        side: what a code says less of than those was left out on the way.
    spread : of each code, `active` units of `units`, the mean `variance` of a unit between people, and the
        mean `sigma` with which training draws it (empty for a deterministic code); means over members.
    """

    probes: pd.DataFrame
    spread: pd.DataFrame

    def markdown(self) -> str:
        """Both tables."""
        return f"{markdown_table(self.probes)}\n\n{markdown_table(self.spread)}"


def encode_scans(member: Member, data: TrainingData, rows: np.ndarray) -> CodeTable:
    """A member's codes of some rows, in their order."""
    width = member.config.model.shared
    mean: dict[str, list[np.ndarray]] = {role: [] for role in member.roles}
    sigma: dict[str, list[np.ndarray]] = {role: [] for role in member.roles}
    components: dict[str, list[np.ndarray]] = {role: [] for role in member.roles}
    member.eval()
    for piece in pieces(member, data, rows):
        with torch.no_grad():
            inputs, here, _ = member.prepare(piece.x, piece.present)
            codes = member.network.encode(inputs, here)
        for role, code in codes.items():
            absent = ~here[role][:, None]
            for found, value in ((mean, code.mu), (sigma, torch.exp(0.5 * code.log_variance))):
                found[role].append(value.double().masked_fill(absent, torch.nan).cpu().numpy())
            spec, x = member.network.branches[role], inputs[role]
            coarse = x if spec.grid is None else F.adaptive_avg_pool3d(x[:, None], spec.coarse_grid)
            components[role].append(coarse.flatten(1).double().masked_fill(absent, torch.nan).cpu().numpy())
    return CodeTable(
        {role: np.concatenate(parts) for role, parts in mean.items()},
        {role: np.concatenate(parts) for role, parts in sigma.items()},
        {role: np.concatenate(parts) for role, parts in components.items()},
        width,
    )


def code_report(
    members: Sequence[Member],
    data: TrainingData,
    fold: np.ndarray,
    *,
    targets: Sequence[str] = ("age", "sex", "site", "other code"),
    shuffles: int = 20,
    seed: int = 0,
) -> CodeReport:
    """How well each code predicts what it may or may not know, and how much of it is in use.

    Parameters
    ----------
    fold : the member that held out each scan, shape (scans,); -1 for none.
    targets : what to probe for.
    shuffles : probes fitted on shuffled people, for the level of chance; a value above all of them is
        beyond chance with p <= 1 / (shuffles + 1).

    Raises
    ------
    UsageError : the folds do not fit the members and the data.
    """
    check_folds(members, data, fold)
    everyone = np.arange(len(fold))
    rng = np.random.default_rng(seed)
    answers: dict[tuple[str, str], list[_Answer]] = {}
    spread = []
    for index, member in enumerate(members):
        if not (fold == index).any():
            continue
        table = encode_scans(member, data, everyone)
        train, test = table.complete & (fold != index), table.complete & (fold == index)
        spread += _spread(table, fold == index, drawn_parts(member.config.model))
        if train.sum() < SMALLEST_SITE or not test.any():
            continue
        for code, target, answer in _member_answers(table, data, train, test, targets, shuffles, rng):
            answers.setdefault((code, target), []).append(answer)
    rows = [
        {"code": code, "target": target, **row}
        for (code, target), parts in answers.items()
        for row in _scores(target, parts)
    ]
    mean_spread = (
        pd.DataFrame(spread, columns=_SPREAD_COLUMNS).groupby("code", sort=False, as_index=False).mean()
    )
    return CodeReport(pd.DataFrame(rows, columns=_PROBE_COLUMNS), mean_spread)


@dataclass(frozen=True)
class _Answer:
    """What one member's probe, and the shuffled ones after it, said of its held-out people.

    Attributes
    ----------
    truth : (people,) labels, or (people, numbers).
    said : (1 + shuffles, people, numbers or classes).
    classes : the labels, for a logistic probe.
    """

    truth: np.ndarray
    said: np.ndarray
    classes: np.ndarray | None = None


def _member_answers(
    table: CodeTable,
    data: TrainingData,
    train: np.ndarray,
    test: np.ndarray,
    targets: Sequence[str],
    shuffles: int,
    rng: np.random.Generator,
) -> list[tuple[str, str, _Answer]]:
    """(code, target, answer) of one member; what cannot be asked (a sex or a site alone) is left out."""
    found = []
    age = data.age[:, None].astype(np.float64)
    person = data.scans["participant_id"].to_numpy()
    labels = {
        "sex": data.scans["sex"].to_numpy().astype(str),
        "site": data.scans["site"].to_numpy().astype(str),
    }
    known = {"sex": data.sex >= 0, "site": labels["site"] != ""}
    inputs = {"components": np.concatenate(list(table.components.values()), axis=1)}
    for code, x in (table.parts() | inputs).items():
        if "age" in targets:
            said = ridge_probe(x[train], age[train], x[test], shuffles, rng)
            found.append((code, "age", _Answer(age[test], said)))
        for target, label in labels.items():
            if target not in targets:
                continue
            people = (
                pd.Series(person[train & known[target]]).groupby(label[train & known[target]]).nunique()
            )
            asked = known[target] & np.isin(label, people.index[people >= SMALLEST_SITE])
            learned, judged = train & asked, test & asked
            if len(np.unique(label[learned])) < 2 or not judged.any():
                continue
            classes, said = logistic_probe(
                x[learned], label[learned], person[learned], x[judged], shuffles, rng
            )
            found.append((code, target, _Answer(label[judged], said, classes)))
    if "other code" in targets:
        for one, other in ordered_pairs(table.mean, 2):
            for kind in ("shared", "distinct"):
                x, y = (table.parts()[f"{kind} {role}"] for role in (one, other))
                said = ridge_probe(x[train], y[train], x[test], shuffles, rng)
                found.append((f"{kind} {one}", f"{kind} {other}", _Answer(y[test], said)))
    return found


def _scores(target: str, parts: list[_Answer]) -> list[dict[str, object]]:
    """A row for each score of a target, over all members' people."""
    measures = {"age": ("R2", "MAE"), "sex": ("balanced accuracy", "AUC"), "site": ("balanced accuracy",)}
    rows: list[dict[str, object]] = []
    for measure in measures.get(target, ("R2",)):
        together = [_score(measure, parts, draw) for draw in range(len(parts[0].said))]
        own = [_score(measure, [part], 0) for part in parts]
        best = min if measure == "MAE" else max
        rows.append(
            {
                "score": measure,
                "value": together[0],
                "member_sd": float(np.std(own, ddof=1)) if len(own) > 1 else np.nan,
                "chance": float(np.mean(together[1:])) if together[1:] else np.nan,
                "chance_best": best(together[1:], default=np.nan),
                "n": sum(len(part.truth) for part in parts),
            }
        )
    return rows


def _score(measure: str, parts: list[_Answer], draw: int) -> float:
    """One score of the probes (`draw` 0) or of the shuffled ones."""
    from sklearn.metrics import roc_auc_score

    if measure == "MAE":
        return float(np.concatenate([np.abs(p.said[draw] - p.truth) for p in parts]).mean())
    if measure == "R2":
        # Codes have axes of their own in each member, so each member's spread is about its own mean.
        error = sum(float(((p.said[draw] - p.truth) ** 2).sum()) for p in parts)
        total = sum(float(((p.truth - p.truth.mean(axis=0)) ** 2).sum()) for p in parts)
        return 1 - error / total if total > 0 else np.nan
    truth = np.concatenate([part.truth for part in parts])
    if measure == "AUC":
        # Of two classes, the probability of the second one in sorted order ("M").
        said = np.concatenate([part.said[draw][:, 1] for part in parts])
        return float(roc_auc_score(truth == parts[0].classes[1], said)) if len(set(truth)) == 2 else np.nan  # type: ignore[index]
    right = np.concatenate([p.classes[p.said[draw].argmax(axis=1)] == p.truth for p in parts])  # type: ignore[index]
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def _spread(table: CodeTable, held_out: np.ndarray, drawn: tuple[bool, bool]) -> list[dict[str, object]]:
    """Active units and mean sigma of each code of one member, over the held-out people who have it."""
    rows: list[dict[str, object]] = []
    width = table.shared_width
    for role in table.mean:
        here = held_out & np.isfinite(table.mean[role]).all(axis=1)
        if here.sum() < 2:
            continue
        parts = (("shared", slice(None, width)), ("distinct", slice(width, None)))
        for (kind, part), has_sigma in zip(parts, drawn, strict=True):
            variance = table.mean[role][here, part].var(axis=0)
            rows.append(
                {
                    "code": f"{kind} {role}",
                    "active": int((variance > ACTIVE_VARIANCE).sum()),
                    "units": len(variance),
                    "variance": float(variance.mean()),
                    "sigma": float(table.sigma[role][here, part].mean()) if has_sigma else np.nan,
                }
            )
    return rows

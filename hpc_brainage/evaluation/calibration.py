"""Calibrating a finished run: what its errors on held-out people say about the scans that it will score.

Held-out people are shown to the very function that will score new ones, as people whom the bundle knows: so
whatever is measured here is measured there in the same way, but for the number of members that are asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hpc_brainage.modality import ROLES
from hpc_brainage.model.bundle import Bundle, ModelInfo
from hpc_brainage.model.calibration import Calibration, Coverage, Group, RoleDepth
from hpc_brainage.model.fingerprint import take_fingerprints
from hpc_brainage.model.member import Member
from hpc_brainage.model.training_range import TrainingRange
from hpc_brainage.scans import select_scans
from hpc_brainage.scoring.age_support import count_ages
from hpc_brainage.scoring.answers import Answers
from hpc_brainage.scoring.members import ask_members
from hpc_brainage.scoring.normative import fit_norms, uniformity
from hpc_brainage.scoring.uncertainty import Predicted, covered_without_own_fold, fit_intervals
from hpc_brainage.training.data import FeatureInput, TrainingData
from hpc_brainage.training.prediction import pieces

USUAL = 0.99
OTHER_SITES = "everyone, by the other sites' people"
_FEWEST_FOR_A_PERCENTILE = 50
_FEWEST_COVERED = 10
_SCANS_AT_ONCE = {"features": 1024, "volume": 8}


def controls_of(data: TrainingData, info: ModelInfo) -> np.ndarray:
    """Whom the model is calibrated on, bool (scans,).

    Raises
    ------
    UsageError : the selection is not understood, or matches nobody.
    """
    return select_scans(data.scans, info.config.training.controls or None, "training.controls")


def training_range(
    info: ModelInfo, members: tuple[Member, ...], data: TrainingData, fold: np.ndarray
) -> TrainingRange:
    """What the training people looked like: to each fold's members, and to all together.

    Parameters
    ----------
    fold : the fold in which each scan of `data` was held out.
    """
    folds = range(info.config.training.folds)
    found = TrainingRange()
    for role, source in data.inputs.items():
        if not isinstance(source, FeatureInput):
            continue
        x, here = source.x_NF[:, _columns(info, role, source)], source.present
        lowest, highest = [], []
        for index in folds:
            others = x[here & (fold != index)]
            lowest.append(np.fmin.reduce(others, axis=0, initial=np.inf))
            highest.append(np.fmax.reduce(others, axis=0, initial=-np.inf))
        found.lowest[role] = torch.from_numpy(np.stack(lowest).astype(np.float32))
        found.highest[role] = torch.from_numpy(np.stack(highest).astype(np.float32))
        prints = take_fingerprints(x[here], info.features[role], fold[here], info.salt)
        if prints is not None:
            found.fingerprints[role] = prints
    clouds: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {role: [] for role in data.inputs}
    for index in folds:
        member = members[index * info.config.training.ensemble]
        for role, codes in _codes(member, data, np.flatnonzero(fold != index)).items():
            clouds[role].append(_cloud(codes))
    for role, parts in clouds.items():
        found.code_mean[role] = torch.stack([mean for mean, _ in parts])
        found.code_whitening[role] = torch.stack([whitening for _, whitening in parts])
    return found


def calibrate(bundle: Bundle, data: TrainingData, fold: np.ndarray) -> Calibration | None:
    """Intervals, norms and what is usual, from held-out people; None where too few controls were predicted.

    Parameters
    ----------
    bundle : with `training_range`.
    fold : the fold in which each scan of `data` was held out.
    """
    info = bundle.info
    said = _ask(bundle, data, fold)
    controls = controls_of(data, info)
    predicted = np.isfinite(said.brain_age)
    age, sex = data.scans["age"].to_numpy(dtype=float), data.scans["sex"].to_numpy(dtype=object)
    groups: dict[str, Group] = {}
    site = data.scans["site"].to_numpy(dtype=object)
    uniform, covered, elsewhere = {}, np.full(len(age), np.nan), np.full(len(age), np.nan)
    as_they_come = said.available
    for name in _combinations(bundle.roles):
        has = np.logical_and.reduce([said.has[role] for role in name.split("+")])
        alone = "" if name == "+".join(bundle.roles) else name
        brain_age = said.brain_age_alone[alone] if alone else said.brain_age
        sd = said.sd_alone[alone] if alone else said.sd_aleatoric
        away = said.distance[alone] if alone else said.mahalanobis
        rows = np.flatnonzero(controls & has & np.isfinite(brain_age))
        people = Predicted(brain_age[rows], age[rows], sd[rows], sex[rows], fold[rows])
        intervals = fit_intervals(people)
        if intervals is None:
            continue
        norms = fit_norms(people)
        groups[name] = Group(
            n=len(rows), intervals=intervals, norms=norms, far=_usual(away[has & predicted])
        )
        if norms is not None:
            uniform[name] = uniformity(norms)
        mine = as_they_come[rows] == name
        covered[rows[mine]] = covered_without_own_fold(people)[mine]
        if len(set(site[rows])) > 1:
            elsewhere[rows[mine]] = covered_without_own_fold(people, site[rows])[mine]
    if not groups:
        return None
    parts = {"everyone": np.ones(len(age), dtype=bool)}
    parts |= {f"with {name}": as_they_come == name for name in groups}
    parts |= {f"sex {one}": sex == one for one in sorted(set(sex))}
    parts |= {f"site {one}": site == one for one in sorted(set(site)) if one}
    checks = [(name, covered[part]) for name, part in parts.items()]
    checks.insert(1, (OTHER_SITES, elsewhere))
    coverage = {}
    for name, held in checks:
        known = held[np.isfinite(held)]
        if len(known) >= _FEWEST_COVERED:
            coverage[name] = Coverage(n=len(known), covered=float(known.mean()))
    return Calibration(
        controls=info.config.training.controls,
        n=int((controls & predicted).sum()),
        ages=count_ages(_each_person_once_a_year(data)),
        groups=groups,
        coverage=coverage,
        uniformity=uniform,
        depth={role: _depth(said, role, predicted) for role in bundle.roles},
    )


def _ask(bundle: Bundle, data: TrainingData, fold: np.ndarray) -> Answers:
    """What the members say of the training scans that they did not see."""
    device = next(bundle.members[0].parameters()).device
    parts: list[Answers] = []
    for rows in _blocks(data):
        x, present = {}, {}
        for role, source in data.inputs.items():
            if isinstance(source, FeatureInput):
                wide = source.x_NF[np.ix_(rows, _columns(bundle.info, role, source))]
                x[role] = torch.from_numpy(wide).to(device)
            else:
                x[role] = source.read(rows).to(device)
            present[role] = torch.from_numpy(source.present[rows]).to(device)
        sex = torch.from_numpy(data.sex[rows]).to(device)
        parts.append(ask_members(bundle, x, present, sex, fold[rows]))
    return Answers.joined(parts)


def _each_person_once_a_year(data: TrainingData) -> np.ndarray:
    """Ages at the scans, years, without further scans of a person in the same year of life."""
    age = data.scans["age"].astype(float)
    who = data.scans[["participant_id"]].assign(year=np.floor(age))
    once: np.ndarray = age[~who.duplicated()].to_numpy()
    return once


def _blocks(data: TrainingData) -> Iterator[np.ndarray]:
    has_volumes = any(not isinstance(source, FeatureInput) for source in data.inputs.values())
    at_once = _SCANS_AT_ONCE["volume" if has_volumes else "features"]
    for first in range(0, len(data.scans), at_once):
        yield np.arange(first, min(first + at_once, len(data.scans)))


def _columns(info: ModelInfo, role: str, source: FeatureInput) -> np.ndarray:
    place = {name: index for index, name in enumerate(source.names)}
    return np.array([place[name] for name in info.features[role]], dtype=np.int64)


def _codes(member: Member, data: TrainingData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """By role, means of the codes of those of the rows who have it, (people, C + U)."""
    found: dict[str, list[np.ndarray]] = {role: [] for role in member.roles}
    member.eval()
    with torch.no_grad():
        for piece in pieces(member, data, rows):
            inputs, here, _ = member.prepare(piece.x, piece.present)
            for role, code in member.network.encode(inputs, here).items():
                found[role].append(code.mu[here[role]].double().cpu().numpy())
    return {role: np.concatenate(parts) for role, parts in found.items()}


def _cloud(codes_NK: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and L with L Lᵀ the inverse of the covariance.

    Each dimension is standardised first, for the widths of a code differ by orders of magnitude; then the
    covariance is shrunk as Ledoit and Wolf (2004) do. A dimension that never changes counts for nothing.
    """
    from sklearn.covariance import ledoit_wolf

    mean, sd = codes_NK.mean(axis=0), codes_NK.std(axis=0)
    moves = sd > 1e-9 * max(1.0, float(np.abs(mean).max()))
    scale = np.where(moves, 1.0 / np.where(moves, sd, 1.0), 0.0)
    covariance, _ = ledoit_wolf((codes_NK - mean) * scale)
    covariance = covariance + 1e-6 * np.eye(len(sd))
    whitening = scale[:, None] * np.linalg.cholesky(np.linalg.inv(covariance))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(whitening.astype(np.float32))


def _combinations(roles: tuple[str, ...]) -> list[str]:
    """What an age can be predicted from: all modalities, and each alone."""
    whole = [role for role in ROLES if role in roles]
    return ["+".join(whole), *(whole if len(whole) > 1 else [])]


def _usual(numbers: np.ndarray) -> float | None:
    known = numbers[np.isfinite(numbers)]
    return float(np.quantile(known, USUAL)) if len(known) >= _FEWEST_FOR_A_PERCENTILE else None


def _depth(said: Answers, role: str, predicted: np.ndarray) -> RoleDepth:
    here = said.has[role] & predicted
    errors = said.log_error[role][here]
    beyond = _usual(said.out_of_range[role][here])
    if not np.isfinite(errors).any() or not np.nanstd(errors) > 0:
        return RoleDepth(beyond=beyond)
    mean, sd = float(np.nanmean(errors)), float(np.nanstd(errors))
    poor = _usual((errors - mean) / sd)
    return RoleDepth(log_error_mean=mean, log_error_sd=sd, poor=poor, beyond=beyond)

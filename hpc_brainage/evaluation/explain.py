"""What a finished run has learned, asked of people whom the answering members never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import TrainingError, UsageError
from hpc_brainage.evaluation.codes import SMALLEST_SITE, CodeReport, code_report
from hpc_brainage.evaluation.finished import held_out_table, open_finished
from hpc_brainage.evaluation.importance import Importance, importance
from hpc_brainage.evaluation.progress import Progress
from hpc_brainage.evaluation.rebuilding import rebuilding
from hpc_brainage.evaluation.sex_audit import SexAudit, sex_audit
from hpc_brainage.evaluation.splits import check_folds
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import FeatureInput, TrainingData

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Judged:
    """A run's members, and the people by whom each may be judged.

    Attributes
    ----------
    name : of the run.
    members : `ensemble` for each fold, side by side.
    ensemble : members of each fold.
    data : the scans of the training.
    fold : the fold in which each scan was held out, (scans,).
    heading : who is asked about whom, in one sentence.
    """

    name: str
    members: tuple[Member, ...]
    ensemble: int
    data: TrainingData
    fold: np.ndarray
    heading: str

    @property
    def tables(self) -> tuple[str, ...]:
        """The roles whose input is a table of features."""
        return tuple(r for r, source in self.data.inputs.items() if isinstance(source, FeatureInput))

    @property
    def affines(self) -> dict[str, tuple[tuple[float, ...], ...]]:
        """By role, of the volumes whose place is known, voxel to millimetre."""
        found = {}
        for role, source in self.data.inputs.items():
            if not isinstance(source, FeatureInput):
                affine = source.store.modalities[source.key].affine
                if affine is not None:
                    found[role] = affine
        return found


@dataclass(frozen=True)
class Explained:
    """What was found.

    Attributes
    ----------
    codes : what each code knows, of sex too; and how much of it is in use.
    rebuilt : see `rebuilding`; None for a model of one modality.
    sex : None if there is only one sex.
    importance : what drives the age.
    notes : what could not be asked, and why.
    """

    codes: CodeReport
    rebuilt: pd.DataFrame | None
    sex: SexAudit | None
    importance: Importance
    notes: tuple[str, ...]


def judged_members(folder: Path, store: str | None = None) -> Judged:
    """The members of a finished run, and the folds of its people.

    Parameters
    ----------
    store : where the run's store lies now; by default where it lay.

    Raises
    ------
    TrainingError : the run is not finished, its store has changed, or its parts do not belong together.
    ModelError : its bundle is damaged.
    """
    run, data, config = open_finished(folder, store)
    fold = held_out_table(run, data)["fold"].to_numpy()
    bundle = load_bundle(run.model, _device(config))
    ensemble = config.training.ensemble
    members = bundle.members
    if len(members) != config.training.members:
        raise TrainingError(
            f"the bundle has {len(members)} members", where=run.model,
            expected=f"{ensemble} for each of {config.training.folds} folds",
        )  # fmt: skip
    check_folds(members[::ensemble], data, fold)
    people = data.scans["participant_id"].nunique()
    by = (
        f"the {ensemble} members that never saw the person"
        if ensemble > 1
        else "the member that never saw the person"
    )
    codes = "; codes are those of the first of them" if ensemble > 1 else ""
    heading = f"{len(data.scans)} scans of {people} people of the training, each by {by}{codes}."
    return Judged(folder.resolve().name, members, ensemble, data, fold, heading)


def explain(judged: Judged, shuffles: int, progress: Progress) -> Explained:
    """Ask the members what their codes know, what they rebuild, what sex does and what drives the age.

    Ages, and what drives them, are those of the mean over the members of a fold, as the run's own are.
    Codes of two members have nothing in common; so the first member of each fold is asked for its codes,
    and for what it rebuilds from them.

    Parameters
    ----------
    shuffles : probes of the codes fitted on shuffled people, for the level of chance.
    progress : told how many questions of how many are answered, and the next one.
    """
    asked, notes = (judged.members, judged.data, judged.fold), []
    first = (judged.members[:: judged.ensemble], judged.data, judged.fold)

    def unless_refused(what: str, question: Callable[[], Answer]) -> Answer | None:
        """Some people cannot be asked everything, and that is no reason to ask them nothing."""
        try:
            return question()
        except UsageError as problem:
            notes.append(f"{what} could not be asked: {problem.what}")
            return None

    progress(0, 4, "codes")
    # The sex audit probes the codes for sex.
    codes = code_report(*first, targets=("age", "site", "other code"), shuffles=shuffles)
    progress(1, 4, "rebuilding")
    rebuilt = None
    if len(judged.data.inputs) == 2:
        rebuilt = unless_refused("rebuilding a modality from the other", lambda: rebuilding(*first))
    progress(2, 4, "sex")
    sex = unless_refused(
        "what sex does", lambda: sex_audit(*asked, ensemble=judged.ensemble, shuffles=shuffles)
    )
    if sex is not None:
        codes = replace(codes, probes=_by_code([codes.probes, sex.decodability]))
    if codes.probes.empty:
        notes.append("what the codes know could not be asked: too few people have all modalities")
    elif "site" not in set(codes.probes["target"]):
        notes.append(f"which site a code is of could not be asked: too few sites of {SMALLEST_SITE} people")
    progress(3, 4, "importance")
    drives = importance(*asked, ensemble=judged.ensemble)
    progress(4, 4, "")
    notes += [
        f"{role} is not drawn on a brain: the store does not know its place in space"
        for role in drives.maps
        if role not in judged.affines
    ]
    notes += _bare_labels(drives.regions)
    return Explained(codes, rebuilt, sex, drives, tuple(notes))


def _bare_labels(regions: pd.DataFrame) -> list[str]:
    """Roles whose regions are known by numbers only."""
    names = {str(role): list(own["region"].astype(str)) for role, own in regions.groupby("role")}
    return [
        f"the regions of {role} ({', '.join(some[:3])}, ...) are labels of the atlas that its features were"
        f" made with, and the store does not hold their names: --atlas {role}=IMAGE draws them on a brain"
        for role, some in names.items()
        if all(name.isdecimal() for name in some)
    ]


def _by_code(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of probes as one, all rows of a code together."""
    together = pd.concat(parts, ignore_index=True)
    order = {code: place for place, code in enumerate(together["code"].unique())}
    return together.sort_values("code", key=lambda code: code.map(order), kind="stable", ignore_index=True)


def _device(config: RunConfig) -> torch.device:
    wanted = config.training.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if wanted else "cpu")

"""Which parts of the model earn their place.

Each row of an ablation is the model with one thing changed. All rows are trained on the same splits and
with the same seeds, and predict the same people three times: from all that they have, from structural MRI
alone and from functional MRI alone. A row is told apart from the full model by the rule of `judgement`,
with other seeds in every draw; beside it stands the corrected test over the splits, its p after Holm for
all rows and views together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from hpc_brainage import numerals
from hpc_brainage.config import RunConfig, changed
from hpc_brainage.errors import BrainAgeError, TrainingError
from hpc_brainage.evaluation.intervals import (
    SIGNIFICANT,
    Interval,
    bootstrap_difference,
    corrected_test_over_splits,
)
from hpc_brainage.evaluation.judgement import Estimate, by_its_intervals, difference_said
from hpc_brainage.evaluation.pipelines import SAAVAEPipeline, View, alone, held_out_views
from hpc_brainage.evaluation.progress import Progress
from hpc_brainage.evaluation.splits import Split, tested_by
from hpc_brainage.evaluation.tables import interval_text, markdown_table, probability_text
from hpc_brainage.files import read_json, sha256_of, write_durably, write_json, write_text
from hpc_brainage.provenance import code_sha256, software
from hpc_brainage.scans import IDENTITY
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.loop import EpochReport

FULL = "full model"
AVERAGE = "average of the two alone"
"""Not trained: the mean of the rows that see one modality."""
WHOLE = "all they have"
"""The view of people with every modality that they have."""
_TRAINED_BY = ("model", "losses", "training")
"""The rooms whose code decides what a row predicts."""
NOTE = (
    "Errors of held-out predictions in years, of people who have every modality: mean and standard"
    " deviation over seeds, each with as many networks as the settings say (training.ensemble), and of the"
    " ensemble of all seeds. A difference is from the full model, with 95 % bootstrap intervals over people"
    " and over sites, and over seeds in both; it is told apart from chance if each of them excludes zero. p"
    " is of Nadeau and Bengio's corrected t test over the splits, of which each counts the same, corrected"
    " after Holm for all comparisons in this file. The intervals are not corrected for their number."
)


@dataclass(frozen=True)
class Row:
    """One variant: what it is called, what it asks, what is set otherwise, and which modalities it sees."""

    name: str
    about: str
    changes: Mapping[str, Any]
    roles: tuple[str, ...]


def grid(roles: tuple[str, ...]) -> list[Row]:
    """The rows that data with these modalities allow, the full model first."""
    terms = "terms of the loss"
    rows = [
        Row(FULL, "", {}, roles),
        Row("no adversarial prior", terms, {"loss.adversarial": 0.0}, roles),
        Row("no KL, codes without spread", terms, {"model.prior_distinct": "none"}, roles),
        Row("no reconstruction at all", terms, {
            "loss.reconstruction": 0.0, "loss.cross": 0.0, "loss.translation": 0.0,
        }, roles),
        Row("age loss alone", terms, {
            "loss.reconstruction": 0.0, "loss.cross": 0.0, "loss.translation": 0.0, "loss.ratio": 0.0,
            "loss.sex": 0.0, "model.prior_shared": "none", "model.prior_distinct": "none",
        }, roles),
    ]  # fmt: skip
    if len(roles) == 2:
        rows += [
            Row("no cross-reconstruction", terms, {"loss.cross": 0.0}, roles),
            Row("no distance ratio", terms, {"loss.ratio": 0.0}, roles),
            Row("neither of the two", terms, {"loss.cross": 0.0, "loss.ratio": 0.0}, roles),
        ]
    kinds = "kind of autoencoder"
    for name, shared, distinct in (
        ("plain autoencoder", "none", "none"),
        ("adversarial autoencoder", "adversarial", "adversarial"),
        ("variational autoencoder", "kl", "kl"),
        ("both priors on all codes", "both", "both"),
    ):
        rows.append(
            Row(name, kinds, {"model.prior_shared": shared, "model.prior_distinct": distinct}, roles)
        )
    for mode in ("none", "multitask", "adversarial", "film", "heads", "concat+decoder"):
        rows.append(Row(f"sex: {mode}", "sex", {"model.sex": mode}, roles))
    rows.append(Row("no linear path", "architecture", {"model.linear_path": False}, roles))
    if len(roles) == 2:
        learned = "missing modality"
        rows += [
            Row("age from all modalities only", learned, {"training.modality_training": "none"}, roles),
            Row("modalities dropped at random", learned, {"training.modality_training": "dropout"}, roles),
            Row("product of experts", learned, {"model.missing": "poe"}, roles),
        ]
        rows += [Row(f"{role} alone", "modalities", {}, (role,)) for role in roles]
        rows.append(Row(AVERAGE, "modalities", {}, roles))
    return rows


def changes_nothing(row: Row, config: RunConfig) -> bool:
    """Whether the settings are already what the row would make of them."""
    return bool(row.changes) and changed(config, row.changes) == config


@dataclass(frozen=True)
class Effect:
    """A row beside the full model, from one view of the people; years of MAE.

    Attributes
    ----------
    mae, sd : mean and standard deviation over seeds; no SD of one seed.
    ensemble : MAE of the mean prediction over seeds.
    difference : of `mae` from the full model's; None for the full model itself.
    interval, sites : 95 % of the difference, by a bootstrap over people, over sites; in both over seeds.
    splits : how many `p` is over.
    p : Holm's p of the corrected t test over splits.
    """

    row: str
    about: str
    view: str
    scans: int
    mae: float
    sd: float | None
    ensemble: float
    difference: float | None = None
    interval: Interval | None = None
    sites: Interval | None = None
    splits: int = 0
    p: float | None = None

    @property
    def estimate(self) -> Estimate:
        """The difference with its intervals."""
        return Estimate(self.difference, self.interval, self.sites)


def run_ablation(
    data: TrainingData,
    config: RunConfig,
    splits: Sequence[Split],
    seeds: Sequence[int],
    rows: Sequence[Row],
    folder: Path,
    progress: Progress,
) -> dict[str, dict[str, np.ndarray]]:
    """Held-out predictions of every row by view, years (seeds, scans).

    Each row is kept in the folder as soon as it is there; started again, the ablation goes on from there. A
    row of other settings, data or code of the model, its losses or its training is trained anew.

    Parameters
    ----------
    progress : told how many epochs of members of how many are done, and of which row.

    Raises
    ------
    TrainingError : nobody who is tested has every modality, so that rows could not be compared.
    """
    if not _compared_people(data, splits).any():
        raise TrainingError(
            f"nobody who is tested has {' and '.join(data.inputs)}",
            where=data.store.path,
            expected="some people with every modality: on them the rows are compared",
            hint="leave one out, as with --set fmri.use=false",
        )
    training = config.training
    epochs = len(splits) * len(seeds) * training.ensemble * training.epochs
    total = epochs * len(rows)
    found: dict[str, dict[str, np.ndarray]] = {}
    for number, row in enumerate(rows):
        progress(epochs * number, total, row.name)
        if row.name == AVERAGE:
            apart = [found[f"{role} alone"][WHOLE] for role in row.roles]
            found[row.name] = {WHOLE: np.mean(apart, axis=0)}
            continue
        settings = changed(config, row.changes)
        seen = data.only(row.roles)
        key = sha256_of(
            {
                "config": settings.model_dump(mode="json"),
                "roles": row.roles,
                "store": data.store.content_sha256,
                "scans": data.scans[list(IDENTITY)].to_numpy().tolist(),
                "splits": [[split.train.tolist(), split.test.tolist()] for split in splits],
                "seeds": list(seeds),
                "software": software("torch", "numpy"),
                "code": code_sha256(*_TRAINED_BY),
            }
        )
        kept = _Kept(folder / "rows" / key[:16])
        predicted = kept.load()
        if predicted is None:
            model = SAAVAEPipeline(settings, report=_counting(progress, epochs * number, total, row.name))
            views = _views(row.roles if len(data.inputs) > 1 else ())
            predicted = held_out_views(model, seen, splits, seeds, views)
            kept.save(predicted, row.name)
        found[row.name] = predicted
    progress(total, total, "")
    return found


def _counting(progress: Progress, done: int, total: int, name: str) -> EpochReport:
    """Moves the progress on by one with each epoch of a member."""
    count = itertools.count(done + 1)
    return lambda record: progress(next(count), total, name)


def effects(
    found: Mapping[str, Mapping[str, np.ndarray]],
    rows: Sequence[Row],
    data: TrainingData,
    splits: Sequence[Split],
) -> list[Effect]:
    """Every row's errors and its difference from the full model, by view, on the same people.

    Those count who were tested, have every modality and are predicted by both.
    """
    age, tested = data.age.astype(float), _compared_people(data, splits)
    made = []
    for row in rows:
        for view, own in found[row.name].items():
            full = found[FULL][view]
            known = tested & np.isfinite(own).all(axis=0) & np.isfinite(full).all(axis=0)
            by_seed = np.abs(own - age)[:, known].mean(axis=1)
            effect = Effect(
                row=row.name,
                about=row.about,
                view=view,
                scans=int(known.sum()),
                mae=float(by_seed.mean()),
                sd=float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
                ensemble=float(np.abs(own.mean(axis=0) - age)[known].mean()),
            )
            made.append(effect if row.name == FULL else _compared(effect, own, full, known, data, splits))
    return _holm(made)


def _compared_people(data: TrainingData, splits: Sequence[Split]) -> np.ndarray:
    """Scans that are tested and have every modality, bool (scans,)."""
    return tested_by(splits, len(data.scans)) & data.complete


def _compared(
    effect: Effect,
    own: np.ndarray,
    full: np.ndarray,
    known: np.ndarray,
    data: TrainingData,
    splits: Sequence[Split],
) -> Effect:
    age = data.age.astype(float)
    person, site = (data.scans[column].to_numpy()[known] for column in ("participant_id", "site"))
    gained = np.abs(own - age).mean(axis=0) - np.abs(full - age).mean(axis=0)
    test = corrected_test_over_splits(gained, known, splits)
    over_people, over_sites = (
        bootstrap_difference(own[:, known], full[:, known], age[known], who) for who in (person, site)
    )
    return replace(
        effect,
        difference=float(gained[known].mean()),
        interval=over_people,
        sites=over_sites,
        splits=len(splits),
        p=None if test is None else test.p,
    )


def _holm(effects: Sequence[Effect]) -> list[Effect]:
    """The same effects with p values corrected for their number (Holm 1979)."""
    tested = sorted((effect.p, place) for place, effect in enumerate(effects) if effect.p is not None)
    corrected, largest = list(effects), 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        corrected[place] = replace(effects[place], p=largest)
    return corrected


def verdicts(found: Sequence[Effect]) -> list[str]:
    """What may be said, and no more: the rows that are told apart, how many are not, and how many of so
    many would be told apart if nothing made a difference."""
    compared = [effect for effect in found if effect.difference is not None]
    apart = [effect for effect in compared if effect.estimate.is_told_apart]
    said = []
    for effect in _largest_first(apart):
        word = "worse" if effect.estimate.is_above_zero else "better"
        said.append(
            f"{effect.row} ({effect.view}): {word} {by_its_intervals(effect.estimate)} than the full model"
            f" ({difference_said(effect.estimate, effect.p, effect.splits, 'after Holm')})"
        )
    rest = [effect for effect in compared if effect not in apart]
    for effect in _largest_first([e for e in rest if e.p is not None and e.p < SIGNIFICANT]):
        about = difference_said(effect.estimate, effect.p, effect.splits, "after Holm")
        said.append(f"{effect.row} ({effect.view}): not told apart from the full model ({about})")
    said.append(f"{len(apart)} of {len(compared)} comparisons are told apart from the full model")
    if compared:
        chance = SIGNIFICANT * len(compared)
        said.append(
            f"had no row made any difference, up to {chance:.1f} of {len(compared)} would be told apart all"
            " the same"
        )
    return said


def _largest_first(effects: Sequence[Effect]) -> list[Effect]:
    return sorted(effects, key=lambda effect: -abs(effect.difference or 0.0))


def table_of(found: Sequence[Effect], view: str) -> pd.DataFrame:
    """One view as a table of texts, in the order of the rows."""
    return pd.DataFrame(
        [
            {
                "row": effect.row,
                "about": effect.about,
                "scans": str(effect.scans),
                "MAE": f"{effect.mae:.3f}" + (f" ± {effect.sd:.3f}" if effect.sd is not None else ""),
                "ensemble": f"{effect.ensemble:.3f}",
                "difference": ""
                if effect.difference is None
                else numerals.number(effect.difference, 3, sign=True),
                "95 % over people": interval_text(effect.interval),
                "over sites": interval_text(effect.sites),
                "p": probability_text(effect.p),
            }
            for effect in found
            if effect.view == view
        ]
    )


def write_ablation(folder: Path, found: Sequence[Effect], about: dict[str, Any], title: str) -> Path:
    """Write `ablation.json` and `ablation.md`; returns the path of the latter."""
    write_json(folder / "ablation.json", {"about": about, "effects": [asdict(one) for one in found]})
    parts = [f"# {title}", NOTE, "\n".join(f"- {line}" for line in verdicts(found))]
    for view in dict.fromkeys(effect.view for effect in found):
        parts += [f"## Predicted from {view}", markdown_table(table_of(found, view))]
    write_text(folder / "ablation.md", "\n\n".join(parts) + "\n")
    return folder / "ablation.md"


def _views(roles: Sequence[str]) -> dict[str, View]:
    """People with all that they have, and with each of these modalities alone."""
    views: dict[str, View] = {WHOLE: lambda people: people}
    return views | {f"{role} alone": alone(role) for role in roles}


@dataclass(frozen=True)
class _Kept:
    """One row's predictions on disk: an array for each view."""

    folder: Path

    def save(self, predicted: Mapping[str, np.ndarray], name: str) -> None:
        for number, view in enumerate(predicted):
            write_durably(self.folder / f"{number}.npy", partial(_save, predicted[view]))
        write_json(self.folder / "row.json", {"row": name, "views": list(predicted)})

    def load(self) -> dict[str, np.ndarray] | None:
        """The row as it was saved; None if it is not there, or damaged, so that it is made anew."""
        if not (self.folder / "row.json").is_file():
            return None
        try:
            views = read_json(self.folder / "row.json")["views"]
            return {
                view: np.load(self.folder / f"{number}.npy", allow_pickle=False)
                for number, view in enumerate(views)
            }
        except (BrainAgeError, OSError, ValueError, KeyError, TypeError):
            return None


def _save(values: np.ndarray, file: BinaryIO) -> None:
    np.save(file, values, allow_pickle=False)

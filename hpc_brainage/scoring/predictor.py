"""Scoring some scans of a store with a bundle: the work of one task, on one worker."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from hpc_brainage.errors import BrainAgeError
from hpc_brainage.modality import ROLES
from hpc_brainage.model.bundle import Bundle
from hpc_brainage.model.member import LEAST_KNOWN_SHARE, SEX_NUMBERS
from hpc_brainage.scans import FIELD_STRENGTH, SCAN_COLUMNS, field_strengths
from hpc_brainage.scoring import bias
from hpc_brainage.scoring.alignment import RoleMatch
from hpc_brainage.scoring.answers import Answers
from hpc_brainage.scoring.depth import IMPLAUSIBLE_YEARS, depth_flags
from hpc_brainage.scoring.flags import join_flags
from hpc_brainage.scoring.interpretation import interpret, of_a_rare_age, outside_norms
from hpc_brainage.scoring.lanes import in_lanes
from hpc_brainage.scoring.members import ask_members
from hpc_brainage.scoring.reading import read_ahead
from hpc_brainage.scoring.table import SCHEMA, cohort_names
from hpc_brainage.store.reader import Store

FEATURE_ROWS_AT_ONCE = 1024  # as much as a shard of a connectome; the next is read meanwhile
VOLUMES_AT_ONCE = 8  # on a GPU half a gigabyte each with OpenBHB's grey matter and the SFCN of the paper


@dataclass(frozen=True)
class Block:
    """Some scans as they are read, B of them.

    Attributes
    ----------
    x, present : by role, the members' inputs, and bool (B,) which scans have the role; on their device.
    fold : int (B,), in which a scan was held out whose features are the training's, -1 elsewhere.
    """

    x: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    fold: np.ndarray


@dataclass(frozen=True)
class _SoFar:
    """What is known of the rows that are scored; filled in as scans are read.

    Attributes
    ----------
    answers : of the members.
    fold : int, in which the person was held out; -1 of somebody unknown.
    in_training : bool, whether it is certain that it is a person of the training.
    status, reason : as in the score table.
    """

    answers: Answers
    fold: np.ndarray
    in_training: np.ndarray
    status: np.ndarray
    reason: np.ndarray

    def recognise(self, places: np.ndarray, fold: np.ndarray) -> None:
        """Scans at `places` are of the training wherever a fold is given; of some it is known already."""
        new = (fold >= 0) & ~self.in_training[places]
        self.fold[places[new]] = fold[new]
        self.in_training[places[new]] = True


@dataclass(frozen=True)
class Predictor:
    """A bundle matched with a store, ready to score any of its rows."""

    bundle: Bundle
    store: Store
    matches: dict[str, RoleMatch]
    software: str

    def score(self, rows: np.ndarray) -> pd.DataFrame:
        """Score table rows (see `SCHEMA`) for the store rows `rows`, in their order.

        A scan that cannot be read fails alone: its row says why, and the others are scored.
        """
        scans = self.store.scans.iloc[rows].reset_index(drop=True)
        found = self._nothing_yet(rows, scans)
        at_once = VOLUMES_AT_ONCE if self.bundle.info.volumes else FEATURE_ROWS_AT_ONCE
        blocks = iter(np.split(np.arange(len(rows)), np.arange(at_once, len(rows), at_once)))

        def fill_blocks() -> None:
            for places, block in read_ahead(blocks, lambda places: self._read(rows[places])):
                try:
                    self._fill(found, scans, places, block())
                except BrainAgeError:
                    for place in places:
                        self._fill_one(found, scans, rows, place)

        on_cpu = next(self.bundle.members[0].parameters()).device.type == "cpu"
        if on_cpu:
            in_lanes(fill_blocks, math.ceil(len(rows) / at_once))
        else:
            fill_blocks()
        return self._table(found, scans)

    def read(self, rows: np.ndarray) -> Block:
        """Some rows, with the fold in which each one's person was held out, known by identity or features.

        Raises
        ------
        StoreError : one of them cannot be read.
        """
        found = self._nothing_yet(rows, self.store.scans.iloc[rows].reset_index(drop=True))
        block = self._read(rows)
        found.recognise(np.arange(len(rows)), block.fold)
        return replace(block, fold=found.fold)

    def _fill_one(self, found: _SoFar, scans: pd.DataFrame, rows: np.ndarray, place: int) -> None:
        try:
            self._fill(found, scans, np.array([place]), self._read(rows[place : place + 1]))
        except BrainAgeError as problem:
            found.status[place], found.reason[place] = "failed", problem.what

    @cached_property
    def _checksums(self) -> list[np.ndarray]:
        """Of all scans of the store, for each of its modalities: read once, not for each task."""
        return [self.store.checksums(key) for key in self.store.modalities]

    def _nothing_yet(self, rows: np.ndarray, scans: pd.DataFrame) -> _SoFar:
        """Rows before anybody was asked, and who is known by identity or by the very same data."""
        checksums = zip(*(of_all[rows].tolist() for of_all in self._checksums), strict=True)
        known = self.bundle.known_people(scans, list(checksums))
        return _SoFar(
            Answers.none_yet(len(rows)),
            known.fold,
            known.certain,
            status=np.full(len(rows), "missing", dtype=object),
            reason=np.full(len(rows), "", dtype=object),
        )

    def _fill(self, found: _SoFar, scans: pd.DataFrame, places: np.ndarray, block: Block) -> None:
        """Ask the members about the scans at `places` and write down what they say."""
        device = next(self.bundle.members[0].parameters()).device
        sex = torch.tensor([SEX_NUMBERS[sex] for sex in scans["sex"].iloc[places]], device=device)
        found.recognise(places, block.fold)
        said = ask_members(self.bundle, block.x, block.present, sex, found.fold[places])
        found.answers.put(places, said)
        scored = np.isfinite(said.brain_age)
        found.status[places] = np.select([scored, said.usable], ["scored", "failed"], "missing")
        found.reason[places] = np.select(
            [scored, said.usable], ["", "the model gives no finite age"], self._why_missing()
        )

    def _read(self, rows: np.ndarray) -> Block:
        """What the members need of some rows, features in the bundle's order.

        Whose features are the training's is looked up here, while the networks are busy with other scans.
        """
        device = next(self.bundle.members[0].parameters()).device
        x, present, fold = {}, {}, np.full(len(rows), -1, dtype=np.int64)
        for role, match in self.matches.items():
            here = match.present[rows]
            if match.table is not None:
                features = match.features(rows)
                fold = np.where(fold < 0, self._known_by(role, features), fold)
                x[role] = torch.from_numpy(features).to(device)
            else:
                grid = self.bundle.info.volumes[role]
                volumes = np.zeros((len(rows), *grid), dtype=np.float32)
                if match.volume is not None and here.any():
                    volumes = self.store.empty(match.volume, len(rows))
                    self.store.read_into(match.volume, rows, volumes, absent=0.0)
                x[role] = torch.from_numpy(volumes).to(device)
            present[role] = torch.from_numpy(here).to(device)
        return Block(x, present, fold)

    def _known_by(self, role: str, features: np.ndarray) -> np.ndarray:
        """The fold in which a scan with these features was held out, whoever converted it; -1 for none."""
        known = self.bundle.training_range
        prints = None if known is None else known.fingerprints.get(role)
        if prints is None:
            return np.full(len(features), -1, dtype=np.int64)
        return prints.held_out_in(features[:, prints.columns], self.bundle.info.salt)

    def _why_missing(self) -> str:
        roles = " or ".join(self.matches)
        return f"no {roles} with at least {LEAST_KNOWN_SHARE:.0%} of the model's features"

    def _table(self, found: _SoFar, scans: pd.DataFrame) -> pd.DataFrame:
        """What was found beside who the scans are of: the gap, its meaning, and what to mind."""
        info, said = self.bundle.info, found.answers
        age, sex = scans["age"].to_numpy(dtype=float, na_value=np.nan), scans["sex"].to_numpy(dtype=object)
        columns = said.columns() | {
            "in_training": found.in_training, "status": found.status, "reason": found.reason
        }  # fmt: skip
        table = pd.concat(
            [scans[[name for name in SCHEMA if name in SCAN_COLUMNS]], pd.DataFrame(columns)], axis=1
        )
        in_range = scans["age"].between(info.training.age_min, info.training.age_max).astype("boolean")
        table = table.assign(
            bag=said.brain_age - age,
            **interpret(said, age, sex, info),
            qc_status="",
            qc_reasons="",
            age_in_training_range=in_range.mask(scans["age"].isna()),
            site_seen=scans["site"].isin(list(info.training.sites)) & (scans["site"] != ""),
            model=info.name,
            model_sha256=self.bundle.sha256,
            store_sha256=self.store.content_sha256,
            software=self.software,
        )
        table = bias.correct_table(table, info.bias)
        table["flags"] = self._flags(table, found, scans)
        extras = scans.drop(columns=list(SCAN_COLUMNS))
        extras = extras.rename(columns=cohort_names(list(extras.columns)))
        return pd.concat([table[list(SCHEMA)], extras], axis=1)

    def _flags(self, table: pd.DataFrame, found: _SoFar, scans: pd.DataFrame) -> np.ndarray:
        info, said = self.bundle.info, found.answers
        age = table["age"].to_numpy(dtype=float, na_value=np.nan)
        outside = (age < info.training.age_min) | (age > info.training.age_max)
        raised = {
            "age_unknown": np.isnan(age),
            "age_outside_training": outside,
            "few_training_people_of_this_age": of_a_rare_age(age, info) & ~outside,
            "age_outside_norms": outside_norms(said, age, info) & ~outside,
            "implausible_age": ~table["brain_age"].between(*IMPLAUSIBLE_YEARS),
            "site_unseen": ~table["site_seen"] & ~(found.in_training & (table["site"] == "")),
            "field_strength_unseen": self._other_field(scans),
            "sex_unknown": table["sex"] == "U",
            "sex_unseen": ~table["sex"].isin(["U", *info.training.sexes]),
            "id_in_training": (found.fold >= 0) & ~found.in_training,
        }
        for role in self.matches:
            raised[f"{role}_missing"] = ~said.has[role]
            raised[f"{role}_features_imputed"] = said.imputed[role] > 0
        raised |= depth_flags(said, {role: table[f"recon_z_{role}"].to_numpy() for role in ROLES}, info)
        weak = [group for group, line in info.bias.items() if line.slope < bias.WEAK_SLOPE]
        raised["model_barely_follows_age"] = bias.line_names(table, info.bias).isin(weak)
        doubtful = info.evidence is not None and info.evidence.doubt is not None
        raised["model_no_better_than_mean"] = np.full(len(table), doubtful)
        return join_flags(raised, (table["status"] == "scored").to_numpy())

    def _other_field(self, scans: pd.DataFrame) -> np.ndarray:
        """Whose scanner's field strength is known, and was nobody's in the training."""
        seen = self.bundle.info.training.field_strengths
        if not seen or FIELD_STRENGTH not in scans:
            return np.zeros(len(scans), dtype=bool)
        strengths = field_strengths(scans[FIELD_STRENGTH])
        return ((strengths != "") & ~strengths.isin(list(seen))).to_numpy()

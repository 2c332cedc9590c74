"""Scoring some scans of a store with a bundle: the work of one task, on one worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from hpc_brainage.errors import BrainAgeError
from hpc_brainage.model.bundle import Bundle
from hpc_brainage.model.member import LEAST_KNOWN_SHARE, SEX_NUMBERS, Member
from hpc_brainage.scans import SCAN_COLUMNS
from hpc_brainage.scoring import bias
from hpc_brainage.scoring.alignment import RoleMatch
from hpc_brainage.scoring.table import SCHEMA
from hpc_brainage.store.reader import Store

_ROLES = ("smri", "fmri")
_YEARS = ("brain_age", "brain_age_smri_only", "brain_age_fmri_only", "brain_age_other_sex")
IMPLAUSIBLE_YEARS = (0.0, 120.0)
_FEATURE_ROWS_AT_ONCE = 4096
_VOLUMES_AT_ONCE = 8  # half a gigabyte each with OpenBHB's grey matter and the SFCN of the paper


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
        table = self._empty(rows)
        at_once = _VOLUMES_AT_ONCE if self.bundle.info.volumes else _FEATURE_ROWS_AT_ONCE
        for first in range(0, len(rows), at_once):
            places = np.arange(first, min(first + at_once, len(rows)))
            try:
                self._fill(table, rows[places], places)
            except BrainAgeError:
                for place in places:
                    self._fill_one(table, rows, int(place))
        return self._finish(table)

    def _fill_one(self, table: pd.DataFrame, rows: np.ndarray, place: int) -> None:
        try:
            self._fill(table, rows[place : place + 1], np.array([place]))
        except BrainAgeError as problem:
            table.loc[place, "status"] = "failed"
            table.loc[place, "reason"] = problem.what

    def _empty(self, rows: np.ndarray) -> pd.DataFrame:
        scans = self.store.scans.iloc[rows].reset_index(drop=True)
        table = scans.reindex(columns=[c for c in SCHEMA if c in SCAN_COLUMNS])
        table["status"], table["reason"], table["flags"] = "missing", "", ""
        for column in (*_YEARS, "bag", "bag_corrected", "brain_age_sd_members"):
            table[column] = np.nan
        for role in _ROLES:
            table[f"has_{role}"], table[f"imputed_{role}"] = False, 0
        table["members_used"] = 0
        checksums = zip(
            *(self.store.checksums(key)[rows].tolist() for key in self.store.modalities), strict=True
        )
        known = self.bundle.known_people(scans, list(checksums))
        table["held_out"] = known.certain
        table["_fold"] = known.fold
        table["bias_method"], table["bias_fit"] = "none", ""
        people = self.bundle.info.training
        in_range = scans["age"].between(people.age_min, people.age_max).astype("boolean")
        table["age_in_training_range"] = in_range.mask(scans["age"].isna())
        table["site_seen"] = scans["site"].isin(list(people.sites)) & (scans["site"] != "")
        table["model"], table["model_sha256"] = self.bundle.info.name, self.bundle.sha256
        table["store_sha256"], table["software"] = self.store.content_sha256, self.software
        extras = scans.drop(columns=list(SCAN_COLUMNS))
        extras = extras.rename(columns={c: f"cohort_{c}" for c in extras.columns if c in SCHEMA})
        return pd.concat([table[[c for c in SCHEMA if c in table] + ["_fold"]], extras], axis=1)

    def _fill(self, table: pd.DataFrame, rows: np.ndarray, places: np.ndarray) -> None:
        """Predict `rows` and write the results into `places` of the table."""
        x, present = self._read(rows)
        device = next(self.bundle.members[0].parameters()).device
        sexes = self.store.scans["sex"].iloc[rows]
        sex = torch.tensor([SEX_NUMBERS[sex] for sex in sexes], device=device)
        held_out_in = table["_fold"].to_numpy()[places]
        members = self.bundle.members
        sums = {column: np.zeros(len(rows)) for column in _YEARS}
        squares, used = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
        enough = np.ones(len(rows), dtype=bool)  # for every member that was asked
        imputed = {role: np.zeros(len(rows)) for role in _ROLES}
        has = {role: np.zeros(len(rows), dtype=bool) for role in _ROLES}
        for member, fold in zip(members, self.bundle.folds, strict=True):
            mine = np.flatnonzero((held_out_in < 0) | (held_out_in == fold))
            if not len(mine):
                continue
            taken = torch.from_numpy(mine).to(device)
            inputs = {
                role: _for_member(self.bundle, member, role, value)[taken] for role, value in x.items()
            }
            here = {role: mask[taken] for role, mask in present.items()}
            predicted = member.predict(inputs, here, sex[taken])
            years = {"brain_age": predicted.age, "brain_age_other_sex": predicted.age_other_sex}
            years |= {f"brain_age_{role}_only": age for role, age in predicted.age_by_role.items()}
            for column, value in years.items():
                sums[column][mine] += value.cpu().numpy()
            for column in set(_YEARS) - set(years):
                sums[column][mine] = np.nan
            squares[mine] += predicted.age.cpu().numpy() ** 2
            used[mine] += 1
            enough[mine] &= torch.stack(list(predicted.used.values())).any(dim=0).cpu().numpy()
            for role in member.roles:
                count = predicted.imputed[role].cpu().numpy()
                imputed[role][mine] = np.maximum(imputed[role][mine], count)
                has[role][mine] |= predicted.used[role].cpu().numpy()
        with np.errstate(invalid="ignore"):
            for column in _YEARS:
                table.loc[places, column] = sums[column] / used
            mean = sums["brain_age"] / used
            variance = np.maximum(squares / used - mean**2, 0) * used / np.maximum(used - 1, 1)
        table.loc[places, "brain_age_sd_members"] = np.where(used > 1, np.sqrt(variance), np.nan)
        table.loc[places, "members_used"] = np.where(np.isfinite(mean), used, 0)
        for role in _ROLES:
            table.loc[places, f"has_{role}"] = has[role]
            table.loc[places, f"imputed_{role}"] = imputed[role].astype(np.int64)
        scored = np.isfinite(mean)
        table.loc[places, "status"] = np.select([scored, enough], ["scored", "failed"], "missing")
        table.loc[places, "reason"] = np.select(
            [scored, enough], ["", "the model gives no finite age"], self._why_missing()
        )

    def _available(self, table: pd.DataFrame) -> pd.Series:
        """Which modalities each scan was scored from, as "smri+fmri"."""
        roles = self.bundle.roles
        has = table[[f"has_{role}" for role in roles]].to_numpy(dtype=bool)
        return pd.Series(["+".join(np.array(roles)[row]) for row in has], index=table.index, dtype=object)

    def _read(self, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Inputs in the bundle's feature order, and presence, on the members' device."""
        device = next(self.bundle.members[0].parameters()).device
        x, present = {}, {}
        for role, match in self.matches.items():
            here = match.present[rows]
            if match.table is not None:
                wide = np.full((len(rows), len(match.columns)), np.nan, dtype=np.float32)
                found = match.columns >= 0
                if here.any():
                    wide[:, found] = match.table.read(rows)[:, match.columns[found]]
                x[role] = torch.from_numpy(wide).to(device)
            else:
                grid = self.bundle.info.volumes[role]
                volumes = np.zeros((len(rows), *grid), dtype=np.float32)
                if match.volume is not None and here.any():
                    volumes = self.store.empty(match.volume, len(rows))
                    self.store.read_into(match.volume, rows, volumes, absent=0.0)
                x[role] = torch.from_numpy(volumes).to(device)
            present[role] = torch.from_numpy(here).to(device)
        return x, present

    def _why_missing(self) -> str:
        roles = " or ".join(self.matches)
        return f"no {roles} with at least {LEAST_KNOWN_SHARE:.0%} of the model's features"

    def _finish(self, table: pd.DataFrame) -> pd.DataFrame:
        """The gap, its correction, and what to mind about each row."""
        table["bag"] = table["brain_age"] - table["age"]
        scored = table["status"] == "scored"
        lines = self.bundle.info.bias
        available = self._available(table)
        for group in sorted(set(available[scored])):
            fitted_on = group if group in lines else bias.EVERYONE
            rows = scored & (available == group)
            if fitted_on in lines:
                gap, age = table.loc[rows, "bag"].to_numpy(), table.loc[rows, "age"].to_numpy(dtype=float)
                table.loc[rows, "bag_corrected"] = bias.correct_gap(gap, age, lines[fitted_on])
                table.loc[rows, "bias_method"] = bias.METHOD
                table.loc[rows, "bias_fit"] = f"held-out training people ({fitted_on})"
        flags = {
            "age_unknown": table["age"].isna(),
            "age_outside_training": (table["age_in_training_range"] == False).fillna(False),  # noqa: E712
            "implausible_age": ~table["brain_age"].between(*IMPLAUSIBLE_YEARS),
            "site_unseen": ~table["site_seen"],
            "sex_unknown": table["sex"] == "U",
            "sex_unseen": ~table["sex"].isin(["U", *self.bundle.info.training.sexes]),
            "id_in_training": (table["_fold"] >= 0) & ~table["held_out"],
        }
        for role in self.matches:
            flags[f"{role}_missing"] = ~table[f"has_{role}"]
            flags[f"{role}_features_imputed"] = table[f"imputed_{role}"] > 0
        weak = {group for group, line in lines.items() if line.slope < bias.WEAK_SLOPE}
        fitted_on = available.where(available.isin(list(lines)), bias.EVERYONE)
        flags["model_barely_follows_age"] = fitted_on.isin(list(weak))
        raised = pd.DataFrame({name: mask & scored for name, mask in flags.items()})
        table["flags"] = [";".join(raised.columns[row]) for row in raised.to_numpy(dtype=bool)]
        return table.drop(columns="_fold")


def _for_member(bundle: Bundle, member: Member, role: str, x: torch.Tensor) -> torch.Tensor:
    """The columns that this member takes, in its order."""
    features = member.features(role)
    if not features:
        return x
    place = {name: index for index, name in enumerate(bundle.info.features[role])}
    columns = torch.tensor([place[name] for name in features], device=x.device)
    return x[:, columns]

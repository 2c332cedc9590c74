"""Which features, regions and connections drive the predicted age.

A feature's importance is the mean absolute value of what it adds to a held-out person's predicted age, in
years (`attribution.py`). Of a region, what its measures add is summed within the person first, so that
two measures that pull in opposite directions cancel. An edge counts half for each of the regions that it
joins.

Features that say the same (a thickness in two atlases, neighbouring regions) share the credit: a model
does not need all of them, and a low place does not mean that a region does not age.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.feature_names import edge_columns
from hpc_brainage.cohorts.region_names import region_name
from hpc_brainage.evaluation.attribution import attribute
from hpc_brainage.evaluation.intervals import LEVEL, drawn_sums
from hpc_brainage.evaluation.tables import markdown_table
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import TrainingData

_CORTICAL = re.compile(
    r"((?:lh|rh)_.+)_(area|volume|thickness|thicknessstd|meancurv|gauscurv|foldind|curvind)"
)
_CAT12 = re.compile(r"(.+)_(GM|WM|CSF)_Vol")
_CONNECTOME = re.compile(r"([A-Za-z0-9]+)[_~:|,\-]([A-Za-z0-9]+)")
_SCHAEFER = re.compile(r"(?:7|17)Networks_[LR]H_([A-Za-z]+)(?:_.*)?")


@dataclass(frozen=True)
class Place:
    """Where a feature was measured: one region, or the two that an edge joins; and what was measured."""

    regions: tuple[str, ...]
    measure: str


@dataclass(frozen=True)
class Importance:
    """Importance of features and of what they are grouped into, the most important first, in years.

    All tables have `role`, `mean_abs` (mean absolute years over the people who have the role) with a 95 %
    interval over people (`low`, `high`), and `mean` (signed).

    Attributes
    ----------
    features : `feature`, its `region` and `measure`, and `years_per_sd`: how many years one SD more of the
        feature adds, by least squares through the mean.
    regions : `region`, and of how many `features` it is the sum.
    networks : `region` is a pair of networks ("Vis -- Default"); of edges between regions whose names say
        their network (Schaefer et al. 2018), else empty.
    roles : each modality as a whole, with `n` people.
    stability : by `role` and `level`, rank correlation (Spearman) of the importances in each fold, by its
        members and over its held-out people: `mean` and `lowest` over pairs of `folds`.
    maps : by role, of a volume, mean and mean absolute years of each voxel.
    largest_miss : largest difference between a person's attributions and what they should add up to, years.
    """

    features: pd.DataFrame
    regions: pd.DataFrame
    networks: pd.DataFrame
    roles: pd.DataFrame
    stability: pd.DataFrame
    maps: dict[str, tuple[np.ndarray, np.ndarray]]
    largest_miss: float

    def markdown(self, top: int = 20) -> str:
        """The tables, of each only the `top` rows of each modality."""
        parts = [
            ("Modalities", self.roles),
            ("Regions", self.regions),
            ("Networks", self.networks),
            ("Features and connections", self.features),
            ("Agreement of the folds", self.stability),
        ]
        shown = [
            f"### {title}\n\n{markdown_table(table.groupby('role', sort=False).head(top))}"
            for title, table in parts
            if len(table)
        ]
        return "\n\n".join(shown)


def importance(
    members: Sequence[Member],
    data: TrainingData,
    fold: np.ndarray,
    *,
    ensemble: int = 1,
    draws: int = 500,
    seed: int = 0,
) -> Importance:
    """What drives the predicted age of held-out people.

    Parameters
    ----------
    members : `ensemble` for each fold, side by side; what is asked is their mean.
    fold : the fold in which each scan was held out, shape (scans,); -1 for none.
    ensemble : members of each fold.
    draws : bootstrap draws of people.

    Raises
    ------
    UsageError : the folds do not fit the members and the data.
    """
    found = attribute(members, data, fold, ensemble)
    tables: dict[str, list[pd.DataFrame]] = {"features": [], "regions": [], "networks": [], "roles": []}
    agreement = []
    for role, names in found.names.items():
        people = found.judged & data.inputs[role].present
        if not people.any():
            continue
        person = data.scans["participant_id"].to_numpy()[people]
        draw = partial(drawn_sums, cluster_N=person, draws=draws, seed=seed)
        years, z = found.years[role][people], found.standardised[role][people]
        places = places_of(names, data.inputs[role].tables)  # type: ignore[union-attr]
        features = _ranked(role, years, draw, {"feature": list(names)})
        where = dict(zip(names, places, strict=True))
        features.insert(2, "region", [" -- ".join(where[name].regions) for name in features["feature"]])
        features.insert(3, "measure", [where[name].measure for name in features["feature"]])
        slope = (years * z).sum(axis=0) / np.maximum((z * z).sum(axis=0), 1e-12)
        by_name = dict(zip(names, slope.astype(float), strict=True))
        features["years_per_sd"] = [by_name[name] for name in features["feature"]]
        tables["features"].append(features)
        levels = {"regions": _regions(places), "networks": _networks(places)}
        shares = {"features": years}
        for level, groups in levels.items():
            if not groups:
                continue
            summed = shares[level] = _grouped(years, groups)
            counts = [len(group) for group in groups.values()]
            tables[level].append(_ranked(role, summed, draw, {"region": list(groups), "features": counts}))
        whole = _ranked(role, years.sum(axis=1, keepdims=True), draw, {"n": [int(people.sum())]})
        tables["roles"].append(whole)
        agreement += [
            {"role": role, "level": level, **_agreement(value, found.fold[people])}
            for level, value in shares.items()
        ]
    joined = {
        name: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"role": []})
        for name, parts in tables.items()
    }
    missed = np.abs(found.missed[found.judged])
    return Importance(
        **joined,
        stability=pd.DataFrame(agreement),
        maps=found.maps,
        largest_miss=float(missed.max()) if len(missed) else float("nan"),
    )


def places_of(names: Sequence[str], tables: Sequence[str] = ()) -> list[Place]:
    """Where features were measured, by their names; a name that says nothing is its own region.

    Parameters
    ----------
    names : of all features of a role: a connectome is only known as a whole.
    tables : by which names may be qualified, as in `aparc:lh_insula_area`.
    """
    edges = edge_columns(names)
    found = []
    for name in names:
        bare = next((name.removeprefix(f"{t}:") for t in tables if name.startswith(f"{t}:")), name)
        if name in edges and "--" in bare:
            # Edges that are no plain correlations say so first: `partial:Insula--Precuneus`.
            one, _, other = bare.partition("--")
            found.append(Place((one.rpartition(":")[2].strip(), other.strip()), "edge"))
        elif name in edges and (pair := _CONNECTOME.fullmatch(bare)):
            found.append(Place((pair[1], pair[2]), "edge"))
        elif measured := _CORTICAL.fullmatch(region_name(bare)) or _CAT12.fullmatch(bare):
            found.append(Place((measured[1],), measured[2]))
        else:
            found.append(Place((region_name(bare),), ""))
    return found


def _regions(places: Sequence[Place]) -> dict[str, dict[int, float]]:
    """By region, the columns that belong to it and with which share."""
    groups: dict[str, dict[int, float]] = {}
    for column, place in enumerate(places):
        for region in place.regions:
            groups.setdefault(region, {})[column] = 1 / len(place.regions)
    return groups


def _networks(places: Sequence[Place]) -> dict[str, dict[int, float]]:
    """By pair of networks, the edges between them; empty where an edge's regions do not say theirs."""
    groups: dict[str, dict[int, float]] = {}
    for column, place in enumerate(places):
        found = [_SCHAEFER.fullmatch(region) for region in place.regions]
        if len(found) != 2 or not (found[0] and found[1]):
            return {}
        pair = " -- ".join(sorted((found[0][1], found[1][1])))
        groups.setdefault(pair, {})[column] = 1.0
    return groups


def _grouped(years_NF: np.ndarray, groups: dict[str, dict[int, float]]) -> np.ndarray:
    """Sums over the columns of each group (scans, groups)."""
    return np.stack(
        [years_NF[:, list(own)] @ np.array(list(own.values()), np.float32) for own in groups.values()],
        axis=1,
    )


def _ranked(
    role: str,
    years_NF: np.ndarray,
    draw: Callable[[np.ndarray], np.ndarray | None],
    labels: Mapping[str, Sequence[object]],
) -> pd.DataFrame:
    """Mean absolute years with an interval over people, and mean signed years, the largest first."""
    absolute = np.abs(years_NF).astype(np.float64)
    sums = draw(np.column_stack([absolute, np.ones(len(absolute))]))
    low, high = np.full((2, absolute.shape[1]), np.nan)
    if sums is not None:
        low, high = np.quantile(sums[:, :-1] / sums[:, -1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    table = pd.DataFrame(
        {
            "role": role,
            **labels,
            "mean_abs": absolute.mean(axis=0),
            "low": low,
            "high": high,
            "mean": years_NF.mean(axis=0, dtype=np.float64),
        }
    )
    return table.sort_values("mean_abs", ascending=False, kind="stable", ignore_index=True)


def _agreement(years_NF: np.ndarray, fold: np.ndarray) -> dict[str, object]:
    """Rank correlations of the importances by the members of each fold."""
    own = {int(k): np.abs(years_NF[fold == k]).mean(axis=0) for k in np.unique(fold)}
    between = pd.DataFrame(own).corr(method="spearman").to_numpy()
    pairs = between[np.triu_indices(len(own), k=1)]
    known = len(pairs) > 0
    return {
        "folds": len(own),
        "mean": float(pairs.mean()) if known else np.nan,
        "lowest": float(pairs.min()) if known else np.nan,
    }

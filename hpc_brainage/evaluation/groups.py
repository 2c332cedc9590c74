"""Groups of people whose errors are looked at by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

FEWEST_AT_A_SITE = 5
"""Sites with fewer people than this are taken together."""

Groups = dict[str, dict[str, np.ndarray]]


def groups_of(scans: pd.DataFrame, availability: Sequence[str]) -> Groups:
    """By sex, decade of age, site and modalities: bool (scans,) for each group, empty groups left out.

    Scans of an unknown site are a group of their own. A division into a single group is left out, for it
    says nothing more than everybody's errors.

    Parameters
    ----------
    scans : scan table; `participant_id`, `age`, `sex` and `site` are used.
    availability : which modalities each scan is predicted from, e.g. "smri+fmri".
    """
    has = np.asarray(availability, dtype=object)
    sex = scans["sex"].to_numpy()
    decade = (scans["age"].to_numpy(dtype=float) // 10).astype(int)
    divisions = {
        "sex": {name: sex == name for name in sorted(set(sex))},
        "age": {f"{10 * d} to {10 * d + 9} years": decade == d for d in np.unique(decade)},
        "site": _sites(scans),
        "modalities": {str(name): has == name for name in sorted(set(has), key=lambda n: (-len(n), n))},
    }
    return {name: parts for name, parts in divisions.items() if len(parts) > 1}


def _sites(scans: pd.DataFrame) -> dict[str, np.ndarray]:
    site = scans["site"].to_numpy()
    people = scans.groupby("site")["participant_id"].nunique()
    large = [name for name in sorted(people.index) if name and people[name] >= FEWEST_AT_A_SITE]
    small = [name for name in people.index if name and people[name] < FEWEST_AT_A_SITE]
    parts = {str(name): site == name for name in large}
    if small:
        word = "site" if len(small) == 1 else "sites"
        parts[f"{len(small)} {word} with fewer than {FEWEST_AT_A_SITE} people"] = np.isin(site, small)
    if (site == "").any():
        parts["site unknown"] = site == ""
    return parts

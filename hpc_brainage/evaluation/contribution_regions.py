"""What each region of the brain contributes to the predictions of a group."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

from hpc_brainage.evaluation.importance import places_of


def contributions_by_region(table: pd.DataFrame) -> pd.DataFrame:
    """Add up the contributions of the features of each region.

    The mean over people of a sum is the sum of the means, so signed contributions can be added up from a
    table of features; absolute ones cannot. An edge counts half for each of the two regions that it joins.

    Parameters
    ----------
    table : `role`, `feature`, `group` and `mean_contribution_years`, as a scoring run writes it.

    Returns
    -------
    Columns `role`, `region`, `group`, `features` (how many were added up) and `mean_contribution_years`.
    """
    rows: list[dict[Hashable, object]] = []
    for role in sorted(set(table["role"]), reverse=True):
        of_role = table[table["role"] == role]
        names = list(dict.fromkeys(of_role["feature"]))
        shares = [
            (name, region, 1 / len(place.regions))
            for name, place in zip(names, places_of(names), strict=True)
            for region in place.regions
        ]
        where = pd.DataFrame(shares, columns=["feature", "region", "share"])
        joined = of_role.merge(where, on="feature", how="inner", validate="many_to_many")
        joined["mean_contribution_years"] *= joined["share"]
        summed = joined.groupby(["group", "region"], sort=True)["mean_contribution_years"].agg(
            ["size", "sum"]
        )
        rows += [
            {
                "role": role,
                "region": region,
                "group": group,
                "features": size,
                "mean_contribution_years": years,
            }
            for (group, region), size, years in zip(
                summed.index, summed["size"], summed["sum"], strict=True
            )
        ]
    return pd.DataFrame(rows)

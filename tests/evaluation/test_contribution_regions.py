"""Contributions of features, added up by region."""

from __future__ import annotations

import pandas as pd
import pytest

from hpc_brainage.evaluation.contribution_regions import contributions_by_region


def table(role: str, values: dict[str, float], group: str = "all") -> pd.DataFrame:
    rows = [(role, name, group, years, abs(years), 10) for name, years in values.items()]
    columns = [
        "role",
        "feature",
        "group",
        "mean_contribution_years",
        "mean_absolute_contribution_years",
        "n",
    ]
    return pd.DataFrame(rows, columns=columns)


def by_region(found: pd.DataFrame, group: str = "all") -> dict[str, float]:
    own = found[found["group"] == group]
    return dict(zip(own["region"], own["mean_contribution_years"], strict=True))


def test_measures_of_a_region_are_added_up_with_their_signs() -> None:
    measures = {"lh_insula_thickness": 0.5, "lh_insula_area": -0.2, "Left-Hippocampus": 0.1}
    found = contributions_by_region(table("smri", measures))
    assert by_region(found) == {"lh_insula": pytest.approx(0.3), "Left-Hippocampus": pytest.approx(0.1)}
    assert set(found["features"]) == {1, 2}


def test_an_edge_counts_half_for_each_region_and_nothing_is_lost() -> None:
    edges = {"A--B": 1.0, "A--C": -0.5, "B--C": 0.25}
    found = by_region(contributions_by_region(table("fmri", edges)))
    assert found == {"A": pytest.approx(0.25), "B": pytest.approx(0.625), "C": pytest.approx(-0.125)}
    assert sum(found.values()) == pytest.approx(sum(edges.values()))


def test_groups_and_modalities_are_kept_apart() -> None:
    both = pd.concat(
        [
            table("smri", {"lh_insula_area": 1.0}, "case"),
            table("smri", {"lh_insula_area": 2.0}, "control"),
            table("fmri", {"A--B": 4.0}, "case"),
        ]
    )
    found = contributions_by_region(both)
    assert by_region(found, "control") == {"lh_insula": 2.0}
    assert by_region(found, "case") == {"lh_insula": 1.0, "A": 2.0, "B": 2.0}

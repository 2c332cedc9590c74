"""What the members say of scans, put together from what they said of some of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.modality import ROLES
from hpc_brainage.scoring.answers import Answers, modalities_named
from hpc_brainage.scoring.table import SCHEMA


def some(scans: int, seed: int) -> Answers:
    """Answers about scans, in which no two arrays are alike."""
    draw = np.random.default_rng(seed)

    def number() -> np.ndarray:
        return np.where(draw.random(scans) < 0.2, np.nan, draw.normal(size=scans))

    def by_role() -> dict[str, np.ndarray]:
        return {role: number() for role in ROLES}

    return Answers(
        number(), number(), by_role(), number(), by_role(), number(), number(), by_role(), by_role(),
        by_role(), {role: draw.integers(0, 9, scans) for role in ROLES},
        {role: draw.random(scans) < 0.5 for role in ROLES}, draw.integers(0, 9, scans),
        draw.random(scans) < 0.5,
    )  # fmt: skip


def same(a: Answers, b: Answers) -> bool:
    arrays = zip(a._arrays(), b._arrays(), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype == float) for x, y in arrays)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_lots_of_scans_come_together_in_any_order(lots: list[int], seed: int) -> None:
    parts = [some(scans, seed + 100 * place) for place, scans in enumerate(lots)]
    joined = Answers.joined(parts)
    assert len(joined) == sum(lots)
    order = np.random.default_rng(seed).permutation(len(joined))
    again, first = Answers.none_yet(len(joined)), 0
    for part in parts:
        again.put(order[first : first + len(part)], part)
        first += len(part)
    for whole, scattered in zip(joined._arrays(), again._arrays(), strict=True):
        np.testing.assert_array_equal(scattered[order], whole)


def test_of_scans_that_nobody_was_asked_about_nothing_is_known() -> None:
    nothing = Answers.none_yet(3)
    assert np.isnan(nothing.brain_age).all()
    assert not nothing.usable.any()
    assert nothing.members_used.tolist() == [0, 0, 0]
    assert nothing.available.tolist() == ["", "", ""]
    assert same(Answers.joined([nothing]), nothing)
    assert not same(some(3, 0), some(3, 1))


def test_columns_are_columns_of_the_score_table_and_the_very_numbers() -> None:
    said = some(4, 7)
    columns = said.columns()
    assert set(columns) < set(SCHEMA)
    np.testing.assert_array_equal(columns["brain_age_fmri_only"], said.brain_age_alone["fmri"])
    np.testing.assert_array_equal(columns["imputed_smri"], said.imputed["smri"])


def test_modalities_are_named_in_the_order_of_the_roles() -> None:
    has = {"smri": np.array([True, True, False, False]), "fmri": np.array([True, False, True, False])}
    assert modalities_named(has).tolist() == ["smri+fmri", "smri", "fmri", ""]

"""Whose predictions are judged: people without a diagnosis, whatever groups are compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scored_tables import score_table

from hpc_brainage.evaluation.judged import EVERYONE, judged


@pytest.mark.parametrize("group", [None, "diagnosis", "site", "sex", "hand"])
def test_the_same_people_are_judged_whatever_groups_are_compared(group: str | None) -> None:
    table = score_table(200).assign(hand="right", site=lambda t: t["site"].where(t.index > 40, "C"))
    of = judged(table, group)
    pd.testing.assert_frame_equal(of.people, judged(table).people)
    assert (of.who, of.healthy, list(of.groups)) == ("control", True, [EVERYONE, "control"])
    assert of.group == (group or "diagnosis")


@pytest.mark.parametrize(("diagnosis", "who"), [("TC", "TC"), ("ASD", "ASD"), ("", EVERYONE)])
@pytest.mark.parametrize("group", [None, "site", "sex"])
def test_one_site_or_sex_is_no_diagnosis(diagnosis: str, who: str, group: str | None) -> None:
    of = judged(score_table(60).assign(diagnosis=diagnosis, site="UM_1", sex="F"), group)
    assert (of.who, of.healthy, len(of.people)) == (who, diagnosis == "TC", 60)


def test_a_site_named_like_controls_is_a_site() -> None:
    table = score_table(90, sites=3).assign(diagnosis="")
    table["site"] = table["site"].map({"site 0": "A", "site 1": "B", "site 2": "C"})
    assert judged(table, "site").who == EVERYONE


def test_a_column_of_the_cohort_may_say_who_has_no_diagnosis() -> None:
    table = score_table(200)
    table = table.assign(dx=table["diagnosis"].map({"control": "HC", "patient": "MDD"}), diagnosis="")
    of = judged(table, "dx")
    assert (of.who, of.reference) == ("HC", "HC")
    assert (of.people["dx"] == "HC").all()
    assert judged(table).who == EVERYONE


def test_those_of_unknown_diagnosis_are_not_judged_beside_controls() -> None:
    table = score_table(200)
    table["diagnosis"] = np.where(table["diagnosis"] == "control", "TC", "")
    assert judged(table).who == "TC"
    assert judged(table, "sex").who == "TC"

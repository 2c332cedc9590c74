"""Whether intervals, z and p hold in a cohort: who is off, and by which columns, is seen."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from checked_scores import findings, found_in, judged
from scipy.stats import norm
from scored_tables import score_table, with_uncertainty

from hpc_brainage.evaluation.scored_accuracy import gap_against_age


def test_intervals_that_are_too_narrow_are_seen() -> None:
    table = with_uncertainty(score_table(400), noise=4.0)
    middle = (table["pi90_lo"] + table["pi90_hi"]) / 2
    narrow = table.assign(pi90_lo=middle - 2, pi90_hi=middle + 2)
    assert judged(narrow)[1]["Do the intervals hold?"] == "care"


def test_intervals_that_miss_the_oldest_are_seen_though_they_hold_over_all() -> None:
    table = with_uncertainty(score_table(400))
    oldest = table.index[(table["diagnosis"] == "control") & (table["age"] > 76)]
    table.loc[oldest, ["pi90_lo", "pi90_hi"]] -= 40
    judgement, finding = found_in(table, "Do the intervals hold?")
    assert len(oldest) < 0.06 * len(table)
    assert judgement == "care"
    assert "control: the 20 oldest" in finding


def test_intervals_that_hold_are_seldom_said_not_to_hold() -> None:
    cared = [
        found_in(with_uncertainty(score_table(330, seed)), "Do the intervals hold?")[0] == "care"
        for seed in range(25)
    ]
    assert sum(cared) <= 2


def test_a_site_whose_intervals_hold_too_rarely_is_seen() -> None:
    table = with_uncertainty(score_table(400, sites=5))
    middle, there = (table["pi90_lo"] + table["pi90_hi"]) / 2, table["site"] == "site 2"
    table["pi90_lo"] = table["pi90_lo"].where(~there, middle - 2.5)
    table["pi90_hi"] = table["pi90_hi"].where(~there, middle + 2.5)
    judgement, finding = found_in(table, "Do the intervals hold?")
    assert judgement == "care"
    assert "Too rarely in 1 of 12 groups shown: site site 2" in finding


def test_p_that_is_too_often_small_is_seen() -> None:
    question = "Are p and z even among these people?"
    even = with_uncertainty(score_table(400))
    assert found_in(even, question)[0] == "yes"
    too_sure = even.assign(bag_z=2 * even["bag_z"], p_accelerated=norm.sf(2 * even["bag_z"]))
    judgement, finding = found_in(too_sure, question)
    assert judgement == "care"
    assert "p is below 0.05 for" in finding
    assert "unless a condition" not in finding
    assert not findings(too_sure).notes.get("centiles")
    cases = too_sure.assign(diagnosis="patient")
    assert "unless a condition of these people moves them" in found_in(cases, question)[1]
    assert question not in judged(even.head(30).assign(p_accelerated=np.nan))[1]


def test_what_only_a_large_cohort_tells_from_even_is_even() -> None:
    large = with_uncertainty(score_table(8000))
    slightly = large.assign(p_accelerated=large["p_accelerated"] ** 1.06)
    judgement, finding = found_in(slightly, "Are p and z even among these people?")
    assert re.search(r"from even 0\.0[1-4], p 0\.00|from even 0\.0[1-4], p \de-", finding)
    assert judgement == "yes"


def test_a_person_scanned_often_is_one_person_among_p() -> None:
    often = with_uncertainty(score_table(400)).assign(diagnosis="control")
    often = pd.concat([often, *[often[often["p_accelerated"] < 0.1]] * 5], ignore_index=True)
    assert found_in(often, "Are p and z even among these people?")[1].count("400 people") == 1


def test_z_that_is_not_normal_is_said_to_be() -> None:
    table = with_uncertainty(score_table(400))
    skewed = table.assign(bag_z=-np.log(table["p_accelerated"]) - 1)
    judgement, finding = found_in(skewed, "Are p and z even among these people?")
    assert judgement == "care"
    assert "z is not normal here (skewness +" in finding
    assert "z is not normal here" in findings(skewed).notes["centiles"][0]


def test_intervals_that_were_calibrated_at_their_sites_have_a_row_of_their_own() -> None:
    table = with_uncertainty(score_table(200))
    moved = table.assign(pi90_lo=table["pi90_lo"] + 30, pi90_hi=table["pi90_hi"] + 30)
    moved["pi90_lo_site_calibrated"] = table["pi90_lo"].where(table["site"] != "site 0")
    moved["pi90_hi_site_calibrated"] = table["pi90_hi"].where(table["site"] != "site 0")
    found = findings(moved)
    after, before = found.tables["calibrated_coverage"].to_dict("records")
    assert after["people"] == "control, calibrated at their sites"
    assert after["coverage"] > 0.8
    assert before["coverage"] < 0.1
    control = moved[(moved["diagnosis"] == "control") & (moved["site"] != "site 0")]
    assert after["n"] == before["n"] == len(control)
    finding = found_in(moved, "Do the intervals hold?")[1].partition(". ")[0]
    assert f"of {len(control)} people, and these before that in " in finding
    assert not len(findings(table).tables["calibrated_coverage"])


def with_norms(table: pd.DataFrame, z: np.ndarray, n: int, seed: int) -> pd.DataFrame:
    """The table with z, and p as their rank among n normal controls."""
    norms = np.sort(np.random.default_rng(seed).normal(size=n))
    at_least = n - np.searchsorted(norms, z)
    return table.assign(bag_z=z, p_accelerated=(1 + at_least) / (n + 1), bag_centile=100 * norm.cdf(z))


def test_intervals_calibrated_at_their_sites_are_no_group_of_people() -> None:
    table = with_uncertainty(score_table(400, sites=2))
    raw = found_in(table, "Do the intervals hold?")[1]
    lo, hi = table["pi90_lo"] + 30, table["pi90_hi"] + 30
    moved = table.assign(pi90_lo_site_calibrated=lo, pi90_hi_site_calibrated=hi)
    judgement, finding = found_in(moved, "Do the intervals hold?")
    assert judgement == "yes"
    assert finding.startswith(f"{raw}; calibrated at their sites, in 0 % (")


NORMS = {"uniformity": {"smri": {"n": 221, "ks": 0.04, "p": 0.8, "skew": 0.1}}}
EVEN, AGE = "Are p and z even among these people?", "Is age out of z and p?"


def test_the_figure_shows_what_the_check_says() -> None:
    table = score_table(159).assign(diagnosis="control")
    z = np.random.default_rng(3).normal(0.3, 1, 159)
    often = pd.concat([with_norms(table, z, 221, 4)] * 2, ignore_index=True)
    found = findings(often, calibration=NORMS)
    finding = str(found.tables["checks"].set_index("check").loc[EVEN, "finding"])
    assert (
        f"from even {found.numbers['centile_distance']:.2f}, p {found.numbers['centile_p']:.3f}" in finding
    )
    assert found.tables["centiles"]["n"].sum() == 159


def test_z_that_goes_with_age_is_seen_and_said_in_words() -> None:
    table = with_uncertainty(score_table(300)).assign(diagnosis="control")
    assert found_in(table, AGE, calibration=NORMS)[0] == "yes"
    trend = 0.4 * (45 - table["age"]) / 20 + table["bag_z"]
    judgement, finding = found_in(with_norms(table, trend.to_numpy(), 221, 0), AGE, calibration=NORMS)
    assert judgement == "care"
    assert "partly say how old somebody is" in finding
    assert "age² as covariates" in finding


def controls_alone(people: int = 300) -> pd.DataFrame:
    return with_uncertainty(score_table(2 * people, seed=1)).query("diagnosis == 'control'").head(people)


def test_people_of_one_set_of_modalities_who_are_off_are_seen() -> None:
    table = controls_alone(250)
    table["has_fmri"] = np.arange(250) >= 15
    z = table["bag_z"].to_numpy() + np.where(table["has_fmri"], 0, 1.6)
    both = {"uniformity": {name: {"n": 221} for name in ("smri", "smri+fmri")}}
    assert (
        found_in(with_norms(table, table["bag_z"].to_numpy(), 221, 1), EVEN, calibration=both)[0] == "yes"
    )
    judgement, finding = found_in(with_norms(table, z, 221, 1), EVEN, calibration=both)
    assert judgement == "care"
    assert "uneven among the 15 people with smri only" in finding


SITES = ("site 0", "site 1", "site 2", "site 3")


def off_but_for_calibration(sites: tuple[str, ...] = ()) -> pd.DataFrame:
    """Controls whose z are all off by 1, and whose calibrated ones, at these sites, are not."""
    table = controls_alone(250)
    there = table["site"].isin(sites)
    return table.assign(
        bag_z=table["bag_z"] + 1,
        p_accelerated=norm.sf(table["bag_z"] + 1),
        bag_z_site_calibrated=table["bag_z"].where(there),
        p_accelerated_site_calibrated=table["p_accelerated"].where(there),
    )


def test_z_and_p_are_judged_as_a_reader_takes_them_row_by_row() -> None:
    whole = off_but_for_calibration(SITES)
    assert found_in(whole, EVEN)[0] == found_in(whole, AGE)[0] == "yes"
    assert "of 250 people (control; z and p of all calibrated at their sites)" in found_in(whole, EVEN)[1]
    partly = off_but_for_calibration(("site 0",))
    calibrated = int(partly["bag_z_site_calibrated"].notna().sum())
    judgement, finding = found_in(partly, EVEN)
    assert judgement == "care"
    assert f"of 250 people (control; z and p of {calibrated} calibrated at their sites)" in finding
    numbers = findings(partly).numbers
    assert (numbers["calibrated_people"], numbers["placed_people"]) == (calibrated, 250)
    assert "of 250 people (control) p is below 0.05" in found_in(off_but_for_calibration(), EVEN)[1]


def test_z_that_are_off_are_seen_though_the_gap_is_centred() -> None:
    question = "Are the gaps centred?"
    assert found_in(controls_alone(250), question)[0] == "yes"
    judgement, finding = found_in(off_but_for_calibration(("site 0",)), question)
    assert judgement == "care"
    assert finding.startswith("of control, mean z of those not calibrated +1.0")
    assert "Their z are off on average, though the gap is not" in finding
    calibrated = off_but_for_calibration(SITES)
    assert found_in(calibrated, question)[0] == "yes"
    gap = calibrated.assign(bag_site_calibrated=calibrated["bag_corrected"] + 3)
    judgement, finding = found_in(gap, question)
    assert judgement == "care"
    assert finding.startswith("of control, mean gap calibrated at the site around the norms +")
    assert "The gap is off on average, though z is not: the bias line does not fit" in finding


def test_a_mean_is_not_taken_over_calibrated_and_other_people() -> None:
    question, table = "Are the gaps centred?", off_but_for_calibration(("site 0", "site 1", "site 2"))
    there = table["bag_z_site_calibrated"].notna()
    opposed = table.assign(
        bag_site_calibrated=(table["bag_corrected"] - 1.5).where(there | (table.index % 20 == 3), np.nan),
        bag_z_site_calibrated=table["bag_z_site_calibrated"] - 0.6,
    )
    opposed.loc[~there, "bag_site_calibrated"] -= 20
    judgement, finding = found_in(opposed, question)
    assert judgement == "care"
    assert "mean z calibrated at the site −0.5" in finding
    assert "mean z of those not calibrated +" in finding
    assert "Their means are off to different sides" in finding
    assert "around the bias line" not in finding  # which a few have only
    rows = gap_against_age(opposed).set_index("around")
    assert rows.loc["norms", "mean"] > -3
    assert rows.loc["bias line", "mean"] < -18
    assert rows.loc["norms", "gap"] == "gap calibrated at the site, years, around the norms"


def test_a_gap_that_is_off_though_z_is_not_is_no_shift() -> None:
    table = controls_alone(250)
    found = found_in(table.assign(bag_corrected=table["bag_corrected"] - 2), "Are the gaps centred?")
    assert found[0] == "care"
    assert "The gap is off on average, though z is not" in found[1]
    assert "shifted" not in found[1]
    assert ". The others: mean z " in found[1]
    shifted = table.assign(bag_corrected=table["bag_corrected"] - 2, bag_z=table["bag_z"] - 0.5)
    assert "All of them are shifted" in found_in(shifted, "Are the gaps centred?")[1]
    alone = shifted.drop(columns="bag_corrected")
    assert "All of them are shifted" in found_in(alone, "Are the gaps centred?")[1]


def test_gaps_that_are_centred_are_seldom_said_not_to_be() -> None:
    cared = 0
    for seed in range(30):
        table = with_uncertainty(score_table(50, seed)).assign(diagnosis="")
        chance = np.random.default_rng(seed).normal(size=50)
        half = np.where(np.arange(50) < 25, chance, np.nan)
        table = table.assign(bag_corrected=4 * chance, bag_z=chance, bag_site_calibrated=4 * half)
        table = table.assign(bag_z_site_calibrated=half, p_accelerated_site_calibrated=norm.sf(half))
        cared += found_in(table, "Are the gaps centred?")[0] == "care"
    assert cared <= 3


def test_the_group_that_is_farthest_off_is_in_the_answer_itself() -> None:
    table = with_uncertainty(score_table(800))
    oldest = table.index[(table["diagnosis"] == "control") & (table["age"] > 76)]
    table.loc[oldest, ["pi90_lo", "pi90_hi"]] -= 40
    middle = table.index[table["age"].between(30, 55)]
    table.loc[middle, "pi90_lo"] -= 30
    table.loc[middle, "pi90_hi"] += 30
    check = findings(table).tables["checks"].set_index("check").loc["Do the intervals hold?"]
    assert "; farthest off, control: the 20 oldest" in check["answer"]
    others = str(check["finding"]).removeprefix(f"{check['answer']}. ")
    assert others.startswith("Too rarely in ")
    assert ". Too often in " in others


def test_examples_are_chosen_by_the_z_that_a_reader_takes() -> None:
    table = off_but_for_calibration(SITES)
    table.loc[table.index[-1], "bag_z_site_calibrated"] = 9.0
    shown = findings(table).tables["examples"]
    assert shown.loc[shown["why shown"] == "highest gap", "bag_z_site_calibrated"].max() == 9.0
    assert "p_accelerated_site_calibrated" in shown
    assert "bag_z_site_calibrated" not in findings(controls_alone()).tables["examples"]

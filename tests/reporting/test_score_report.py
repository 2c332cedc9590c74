"""The report on a scored cohort: what it says, whatever the cohort is like."""

from __future__ import annotations

import io
import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from reporting.html_outline import outline
from reporting.reports import HOSTILE, hostile_report, report_on, whole_report
from scored_tables import not_scored, score_table, sidecar, with_uncertainty

SECTIONS = ("checks", "people", "accuracy", "gaps", "groups", "sites", "uncertainty", "depth", "quality",
            "drivers", "examples", "model", "cite", "columns")  # fmt: skip


def test_every_section_and_every_figure_is_there() -> None:
    page = outline(whole_report())
    ids = [own["id"] for own in page.all("section")]
    assert ids == ["summary", *SECTIONS]
    assert [link["href"] for link in page.all("a") if link["href"][:1] == "#"][1:] == [
        f"#{s}" for s in SECTIONS
    ]  # type: ignore[index]
    assert page.count("svg") == page.count("figure") == page.count("figcaption") == 7
    assert "For research. Not a diagnostic device" in page.text
    own = pd.read_csv(io.StringIO(page.downloads["training-coverage.csv"])).set_index("people")
    assert own.loc["everyone", "low"] < 0.9 < own.loc["everyone", "high"]


def test_the_page_can_be_read_without_seeing_it() -> None:
    page = outline(whole_report())
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(next_one <= before + 1 for before, next_one in itertools.pairwise(levels))
    assert page.count("main") == page.count("header") == page.count("footer") == page.count("nav") == 1
    assert page.count("caption") == page.count("table") - 1  # the card's own table has none
    assert {own.get("scope") for own in page.all("th")} <= {"col", "row", None}
    assert all(own["role"] == "img" and own["aria-label"] for own in page.all("svg"))
    assert all(own["tabindex"] == "0" and own["aria-label"] for own in page.all("div") if "tabindex" in own)
    named = [own["id"] for _, own in page.elements if "id" in own]
    assert len(named) == len(set(named))
    assert page.all("html")[0]["lang"] == "en"


def test_the_same_scores_give_the_same_bytes() -> None:
    assert whole_report() == whole_report()


def test_what_comes_from_a_cohort_is_text() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = hostile_report()
    page = outline(html)
    assert page.count("script") == page.count("img") == 0
    assert not any(name.startswith("on") or name == "src" for _, own in page.elements for name in own)
    links = [own["href"] for own in page.all("a") + page.all("use")]
    assert all(re.match(r"#|data:text/csv", str(link)) for link in links)
    assert html.count("</style>") == 1
    for name in (
        "<script>alert('x')</script>",
        '"><img src=x onerror=alert(1)>',
        "日本語サイト",
        "{{7*7}}",
        "$\\frac{1}{0}$",
    ):
        assert name in page.text
    assert "\u202e" not in html
    assert "\x00" not in html
    sites = pd.read_csv(io.StringIO(page.downloads["sites.csv"]), keep_default_na=False)["group"]
    assert {"'=cmd|' /C calc'!A0", "'@SUM(1)", "not known"} <= set(sites)
    assert HOSTILE[8] in set(sites)  # cut on the page, whole in the download


@pytest.mark.parametrize("people", [0, 1, 2, 5, 9, 25])
def test_a_few_people_make_a_page_without_a_warning(people: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = outline(report_on(score_table(people)))
    assert len(page.all("section")) == 15
    assert (page.count("svg") > 0) == (people > 0)


def test_nobody_scored_and_no_ages_make_a_page_that_says_so() -> None:
    table = score_table(60)
    nobody = outline(report_on(not_scored(table, list(range(60)), "<b>unreadable</b>")))
    assert "nobody was scored" in nobody.text
    assert "<b>unreadable</b>" in nobody.text
    assert nobody.count("svg") == 0
    ages = outline(report_on(table.assign(age=np.nan, bag=np.nan, bag_corrected=np.nan)))
    assert "It cannot be told from these scores" in ages.text
    assert "60 of 60" in ages.text


@pytest.mark.parametrize("same", ["age", "brain_age", "both"])
def test_numbers_that_do_not_vary_make_a_page_without_a_warning(same: str) -> None:
    table = score_table(80)
    for column in ("age", "brain_age") if same == "both" else (same,):
        table[column] = 30.0
    table["bag"] = table["bag_corrected"] = table["brain_age"] - table["age"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = outline(report_on(table))
    assert ("✕ No" if same != "both" else "It cannot be told") in page.text


def test_a_large_cohort_is_counted_in_squares_and_stays_small() -> None:
    table = score_table(50_000, sites=300)
    html = report_on(table)
    assert len(html.encode()) < 2_000_000
    page = outline(html)
    assert "the darker a square, the more scans" in page.text
    assert "270 more rows in the download" in page.text
    assert len(pd.read_csv(io.StringIO(page.downloads["sites.csv"]))) == 300


def test_a_group_is_named_by_the_reader() -> None:
    table = score_table(200).assign(smoker=lambda t: np.where(t["age"] % 2 < 1, 1.0, 2.0))
    page = outline(report_on(table, group="smoker"))
    differences = pd.read_csv(io.StringIO(page.downloads["differences-group.csv"]))
    assert set(differences["group"].astype(str)) | set(differences["reference"].astype(str)) == {"1", "2"}
    assert "Differences by smoker, adjusted" in page.text


def test_a_column_that_says_nothing_is_said_to() -> None:
    page = outline(report_on(score_table(50), group="split"))
    assert "Nobody's split is known, so no groups are compared." in page.text


def test_the_difference_and_its_interval_stand_on_the_first_screen() -> None:
    page = report_on(score_table(300))
    first = page.split("<nav")[0]
    assert re.search(r"patient minus control: raw gap, years, adjusted for age, age², sex, site", first)
    assert re.search(r'<dd>\+[23]\.\d\d <span class="interval">\+\d\.\d\d to \+\d\.\d\d</span>', first)


def test_the_first_screen_says_the_answer_and_the_table_explains_it() -> None:
    table = score_table(300)
    table[["brain_age", "bag", "bag_corrected"]] += 6.0
    first, _, rest = outline(report_on(table.assign(site_seen=False))).text.partition("Contents")
    assert "Are the gaps centred? Of control, mean corrected gap +" in first
    assert "With care:" not in first  # which is what the answer says
    assert "as by a scanner or other processing" not in first
    assert "as by a scanner or other processing" in rest
    page = outline(report_on(table.assign(flags="model_no_better_than_mean")))
    first = page.text.partition("Contents")[0]
    assert "Did scoring let the predictions stand?" in first
    assert "Are the gaps centred?" not in first
    assert "1 other check is no plain yes" in first
    assert page.all("a")[1]["href"] == "#checks"


def test_of_checks_that_ask_for_care_the_first_screen_shows_five() -> None:
    table = score_table(300)
    table[["brain_age", "bag", "bag_corrected"]] += 6.0
    strange = table.assign(site_seen=False, in_training=True, flags="implausible_age", qc_status="fail")
    page = outline(report_on(strange.assign(bias_fit="in_cohort")))
    first = page.text.partition("Contents")[0]
    asking = [line for line in first.splitlines() if "? " in line]
    assert len(asking) == 5
    assert re.search(r"\d other checks? (is|are) no plain yes", first)


def test_the_model_s_error_stands_beside_that_of_their_mean_age() -> None:
    table = score_table(300)
    control = table[table["diagnosis"] == "control"]
    first = outline(report_on(table)).text.partition("Contents")[0]
    by_mean = (control["age"] - control["age"].mean()).abs().mean()
    assert f"{control['bag'].abs().mean():.2f}" in first
    assert f"{by_mean:.2f}" in first


def test_what_is_one_group_or_one_site_is_described_once() -> None:
    table = with_uncertainty(score_table(300)).assign(diagnosis="ASD", site="here")
    page = outline(report_on(table, group="diagnosis"))
    assert "All of them are of one diagnosis, ASD: there is nothing to compare." in page.text
    assert "There is one site, so sites cannot be compared." in page.text
    assert {"by-group.csv", "sites.csv"}.isdisjoint(page.downloads)
    held = pd.read_csv(io.StringIO(page.downloads["coverage.csv"]))["people"]
    assert not held.str.startswith("site ").any()


def test_a_model_of_one_modality_is_not_set_beside_itself() -> None:
    table = score_table(60)
    alone = report_on(table.assign(brain_age_smri_only=table["brain_age"]))
    assert "structural MRI alone" not in alone
    other = report_on(table.assign(brain_age_smri_only=table["brain_age"] + 1))
    assert "structural MRI alone" in other


def test_the_model_s_errors_stand_on_the_page_once() -> None:
    page = outline(whole_report())
    assert "The model's card, as it comes with the model:" in page.text
    assert "evidence.csv" not in page.downloads


def test_accuracy_is_of_the_raw_prediction_only() -> None:
    table = score_table(300)
    page = outline(report_on(table))
    said = pd.read_csv(io.StringIO(page.downloads["accuracy.csv"]))
    assert said["mae"][0] == pytest.approx(table["bag"].abs().mean(), rel=1e-4)
    assert said["r"].max() < np.corrcoef(table["age"], table["age"] + table["bag_corrected"])[0, 1]
    assert "never measures accuracy" in page.text


def test_without_a_correction_there_are_no_columns_of_it() -> None:
    table = score_table(60).assign(bag_corrected=np.nan, bias_method="none", bias_fit="")
    page = outline(report_on(table))
    assert "No line was taken out of the gap" in page.text
    assert "(none)" not in page.text
    assert "Mean corrected gap" not in page.text
    assert "Mean corrected gap" in outline(report_on(score_table(60))).text


def test_what_site_calibration_did_not_touch_is_said() -> None:
    table = with_uncertainty(score_table(60))
    said = "differences on this page are of the gap and z before it"
    assert said not in outline(report_on(table)).text
    calibrated = sidecar(table) | {"site_calibration": {"controls": "ctl", "sites": {}}}
    page = outline(report_on(table, calibrated)).text
    assert said in page
    assert "where somebody has them (0 of 35 people)" in page
    both = {f"{name}_site_calibrated": table[name] for name in ("bag_z", "p_accelerated")}
    judged = outline(report_on(table.assign(diagnosis="control", **both), calibrated)).text
    assert "somebody has them (60 of 60 people)" in judged
    assert "one scan a person; 60 of 60 site-calibrated" in judged


def test_the_p_of_the_centiles_stands_beside_their_distance() -> None:
    table = with_uncertainty(score_table(300))
    page = outline(report_on(table.assign(p_accelerated=table["p_accelerated"] / 2)))
    assert re.search(r"Largest distance from even \(Kolmogorov-Smirnov\): 0\.\d\d, p <0\.001", page.text)


def test_one_scan_is_one_scan() -> None:
    assert "1 scans" not in outline(report_on(score_table(1).assign(site_seen=False))).text


def test_a_brain_map_stands_in_the_page_itself() -> None:
    table = score_table(60)
    rows = pd.DataFrame(
        {"role": ["smri"], "feature": ["a"], "group": ["all"], "mean_contribution_years": [1.0]}
    )
    page = outline(report_on(table, contributions=rows.assign(n=60), brain_maps=(("A <map>", b"PNG"),)))
    (image,) = page.all("img")
    assert image == {"src": "data:image/png;base64,UE5H", "alt": "A <map>"}


def test_a_first_version_table_leaves_sections_out_with_a_sentence() -> None:
    table = score_table(100)
    page = outline(report_on(table, sidecar(table) | {"schema_version": 1}))
    for sentence in (
        "has no intervals",
        "no p and z of twenty people",
        "no figures of image quality",
        "were not computed for this table",
        "neither the model's card nor its evidence",
    ):
        assert sentence in page.text

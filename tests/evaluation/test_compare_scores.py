"""Which scans of two score tables belong together, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hpc_brainage.cli.main import app
from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.evaluation.compare_scores import compare_scores, write_comparison
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.table import write_table


def scores(
    people: int = 60, *, seed: int = 0, session: str = "1", model: str = "m1", store: str = "s1",
    error: float = 2.0, later: float = 0.0, name: str = "a",
) -> SavedScores:  # fmt: skip
    """People with a brain age each; whose ages and true gaps are the same for every seed."""
    people_draw, draw = np.random.default_rng(99), np.random.default_rng(seed)
    age = people_draw.uniform(20, 70, people) + later
    gap = people_draw.normal(0, 5, people) + draw.normal(0, error, people)
    table = pd.DataFrame(
        {
            "participant_id": [f"{i:04d}" for i in range(people)],
            "session_id": session,
            "run": "",
            "age": age,
            "sex": np.where(np.arange(people) % 2, "F", "M"),
            "site": [f"site {i % 10}" for i in range(people)],
            "split": "",
            "diagnosis": "",
            "status": "scored",
            "reason": "",
            "flags": "",
            "brain_age": age + gap,
            "bag": gap,
            "bag_corrected": gap,
            "in_training": False,
            "members_used": 3,
            "has_smri": True,
            "has_fmri": False,
            "model": model,
            "model_sha256": model,
            "store_sha256": store,
        }
    )
    return SavedScores(name, table, {})


def test_two_sessions_by_one_model_are_repeated_scans() -> None:
    found = compare_scores(scores(200), scores(200, seed=1, session="2", later=0.1, name="b"))
    assert found.kind == "repeated scans"
    row = found.measures.set_index("measure").loc["bag"]
    assert row["people"] == 200
    assert row["icc_agreement"] == pytest.approx(25 / 29, abs=0.06)
    assert row["sem"] == pytest.approx(2.0, abs=0.3)
    assert row["smallest_detectable_change"] == pytest.approx(1.96 * np.sqrt(2) * row["sem"])
    assert found.errors == {}
    assert not found.left_out


def test_calibrated_z_is_as_repeatable_as_the_gap_that_it_is_of() -> None:
    pair = [scores(200), scores(200, seed=1, session="2", name="b")]
    first, second = (
        replace(one, table=one.table.assign(bag_z_site_calibrated=one.table["bag"] / 5)) for one in pair
    )
    rows = compare_scores(first, second).measures.set_index("measure")
    assert rows.loc["bag_z_site_calibrated", "sem"] == pytest.approx(rows.loc["bag", "sem"] / 5)


def test_the_same_scans_by_two_models_are_compared_as_models() -> None:
    found = compare_scores(scores(300, error=0.1), scores(300, seed=1, model="m2", error=8.0, name="b"))
    assert found.kind == "same scans"
    row = found.measures.set_index("measure").loc["brain_age"]
    assert row["mae_first"] < row["mae_second"]
    assert row["mae_difference_people_high"] < 0
    assert row["mae_difference_sites_high"] < 0
    assert row["ccc"] <= row["r"]
    assert found.errors["brain_age"].difference.is_below_zero


def test_no_error_is_ever_computed_of_corrected_gaps() -> None:
    found = compare_scores(scores(), scores(seed=1, model="m2", name="b"))
    corrected = found.measures.set_index("measure").loc["bag_corrected"]
    assert np.isnan(corrected["mae_first"])
    assert "bag_corrected" not in found.errors


def test_another_store_of_the_same_names_by_the_same_model_is_a_repetition() -> None:
    found = compare_scores(scores(), scores(seed=1, store="s2", name="b"))
    assert found.kind == "repeated scans"
    assert "processed again" in found.why


def test_two_visits_in_one_table_are_paired_by_age() -> None:
    both = pd.concat([scores(session="b", later=1.0, seed=1).table, scores(session="a").table])
    third = scores(10, session="c", later=2.0).table
    table = SavedScores("both", pd.concat([both, third], ignore_index=True), {})
    found = compare_scores(table)
    assert found.kind == "repeated scans"
    assert found.pairs == 60
    assert len(found.left_out["third and later scans of people in both"]) == 10
    assert any("1.0 years apart" in note for note in found.notes)


def test_who_has_no_partner_is_listed_and_never_paired_with_somebody_else() -> None:
    a, b = scores(20), scores(20, seed=1, model="m2", name="b")
    b.table.loc[0, "participant_id"] = "somebody"
    b.table.loc[1, "age"] += 3
    b.table.loc[2, "sex"] = "F"
    b.table.loc[3, ["status", "brain_age"]] = ["missing", np.nan]
    b.table["brain_age"] = b.table["brain_age"].astype(float)
    found = compare_scores(a, SavedScores("b", b.table.iloc[::-1].reset_index(drop=True), {}))
    assert found.pairs == 16
    assert found.left_out == {
        "not scored in b": ("sub-0003_ses-1",),
        "only in a": ("sub-0000_ses-1", "sub-0003_ses-1"),
        "only in b": ("sub-somebody_ses-1",),
        "in both tables, but of another age": ("sub-0001_ses-1",),
        "in both tables, but of another sex": ("sub-0002_ses-1",),
    }


def test_rows_may_come_in_any_order() -> None:
    a, b = scores(), scores(seed=1, model="m2", name="b")
    turned = SavedScores("b", b.table.sample(frac=1, random_state=0).reset_index(drop=True), {})
    pd.testing.assert_frame_equal(compare_scores(a, b).measures, compare_scores(a, turned).measures)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (scores(), "same scans by the same model"),
        (scores(session="2", model="m2"), "by different models"),
        (
            SavedScores("b", scores().table.assign(participant_id=list("x" * 60)).head(1), {}),
            "nobody is in",
        ),
        (SavedScores("b", scores(model="m2").table.head(1), {}), "only one pair"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: SavedScores, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare_scores(scores(), other)


def test_one_table_of_single_visits_has_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match="nobody has two"):
        compare_scores(scores())


def test_a_table_of_two_models_is_refused() -> None:
    mixed = pd.concat([scores(5).table, scores(5, session="2", model="m2").table], ignore_index=True)
    with pytest.raises(ScoringError, match="2 different model_sha256"):
        compare_scores(SavedScores("mixed", mixed, {}))


def written(folder: Path, one: SavedScores) -> Path:
    write_table(one.table, folder / one.name, {"summary": {"scans": len(one.table)}})
    return folder / one.name


def test_the_verb_writes_both_files_and_says_what_it_compared(tmp_path: Path) -> None:
    a, b = scores(30), scores(40, seed=1, session="2", name="b")
    paths = [str(written(tmp_path, one)) for one in (a, b)]
    done = CliRunner().invoke(app, ["compare", *paths, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "30 pairs of repeated scans" in done.output
    assert "10 only one scan, in b" in done.output
    table = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert list(table["measure"]) == ["brain_age", "bag", "bag_corrected"]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["kind"] == "repeated scans"
    assert record["measures"][1]["sem"] == pytest.approx(table["sem"][1], rel=1e-5)
    assert len(record["left_out"]["only one scan, in b"]) == 10


def test_agreement_is_written_too(tmp_path: Path) -> None:
    found = compare_scores(scores(5), scores(5, seed=1, model="m2", name="b"))
    record = json.loads(write_comparison(found, tmp_path / "x")["json"].read_text())
    assert record["errors"]["brain_age"]["scans"] == 5
    assert record["errors"]["brain_age"]["difference"]["people"] is None

"""The main job on real people: ABIDE I, structural and functional MRI, as a user would type it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.cli import main as cli
from hpc_brainage.model.bundle import load_bundle, read_info
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.same_scans import same_scans
from hpc_brainage.scoring.saved import read_scores
from hpc_brainage.store.reader import Store

ROOT = Path(__file__).parents[2]
Brainage = Callable[..., int]

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def brainage() -> Brainage:
    """Types a `brainage` command in this process and returns its exit code."""

    def call(*words: object) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["brainage", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                cli.run()
        return int(ended.value.code or 0)

    return call


@pytest.fixture(scope="module")
def abide(real_data: Path) -> tuple[object, ...]:
    data = real_data / "abide1"
    people = ("--id", "file_id", "--age", "age", "--sex", "sex", "--site", "site", "--diagnosis", "dx")
    smri = ("--add", f"smri={data / 'smri_freesurfer6.csv.gz'}")
    return (
        data / "participants.csv",
        people,
        smri,
        ("--add", f"fmri={data / 'fmri_fc_ho111_fisherz.npz'}"),
    )


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, brainage: Brainage, abide: tuple, real_data: Path
) -> Path:
    """A folder with the whole cohort as a store, and a model of it: fewer epochs and members."""
    folder = tmp_path_factory.mktemp("abide")
    source, people, smri, fmri = abide
    assert brainage("convert", source, folder / "abide.zarr", *people, *smri, *fmri) == 0
    recipe = ROOT / "configs" / "abide-multimodal.toml"
    train = (
        "train",
        folder / "abide.zarr",
        "--config",
        recipe,
        "--runs",
        folder / "runs",
        "--name",
        "abide",
    )
    assert brainage(*train, "--set", "training.epochs=20", "--set", "training.ensemble=3") == 0
    return folder


def test_the_store_has_820_people_701_of_them_with_fmri(desk: Path, brainage: Brainage) -> None:
    store = Store.open(desk / "abide.zarr")
    present = {key: int(store.present(key).sum()) for key in store.modalities}
    assert present == {"smri/freesurfer6": 820, "fmri/fc_ho111_fisherz": 701}
    assert store.n_scans == 820
    assert int(np.isnan(store.read("fmri/fc_ho111_fisherz")).any(axis=1).sum()) == 175 + 119
    assert brainage("inspect", desk / "abide.zarr") == 0
    assert brainage("verify", desk / "abide.zarr") == 0


def test_the_model_is_better_than_ridge_and_far_better_than_the_mean(desk: Path) -> None:
    evidence = read_info(desk / "runs" / "abide" / "model").evidence
    assert evidence is not None
    pair = evidence.by_available["smri+fmri"]
    assert pair.model.n == 701
    assert pair.mean_predictor.mae == pytest.approx(5.4, abs=0.1)
    assert pair.model.mae < pair.ridge.mae < 3.0
    assert evidence.everyone.model.mae < 0.5 * evidence.everyone.mean_predictor.mae
    assert evidence.doubt is None


def test_nine_in_ten_ages_lie_in_their_intervals(desk: Path) -> None:
    found = read_info(desk / "runs" / "abide" / "model").calibration
    assert found is not None
    assert found.n == found.coverage["everyone"].n == 820
    assert found.coverage["everyone"].covered == pytest.approx(0.9, abs=0.03)
    for name, tolerance in (
        ("with smri+fmri", 0.03),
        ("sex M", 0.03),
        ("sex F", 0.08),
        ("with smri", 0.08),
    ):
        assert found.coverage[name].covered == pytest.approx(0.9, abs=tolerance), name
    assert sum(name.startswith("site ") for name in found.coverage) == 15
    assert found.groups["smri"].n == 820
    assert all(one.ks < 0.08 for one in found.uniformity.values())


def test_the_spurious_region_is_left_out_by_every_member(desk: Path) -> None:
    features = read_info(desk / "runs" / "abide" / "model").features["fmri"]
    assert len(features) == 110 * 109 // 2
    assert not any("3455" in name for name in features)


def test_another_selection_is_scored_by_members_that_never_saw_the_people(
    desk: Path, brainage: Brainage, abide: tuple
) -> None:
    source, people, smri, fmri = abide
    where = ("--where", "dx == 'ASD' and site == 'NYU'")
    assert brainage("convert", source, desk / "cases.zarr", *people, *smri, *fmri, *where) == 0
    model, out = desk / "runs" / "abide", desk / "scores" / "cases"
    assert brainage("score", desk / "cases.zarr", "--model", model, "--out", out) == 0
    scores = pd.read_csv(out.with_suffix(".tsv"), sep="\t", dtype={"participant_id": str})
    assert len(scores) == 75
    assert scores["in_training"].all()
    held_out = pd.read_csv(model / "held_out.tsv", sep="\t", dtype={"participant_id": str})
    both = scores.merge(held_out, on="participant_id", suffixes=("", "_training"))
    np.testing.assert_allclose(both["brain_age"], both["brain_age_training"], rtol=1e-3)


def test_no_two_people_are_taken_for_one_and_everybody_is_known_again_under_another_name(
    desk: Path, brainage: Brainage
) -> None:
    """From a table of six digits, with another age and site, as if the cohort had been handed on."""
    out = desk / "scores" / "everybody"
    assert brainage("score", desk / "abide.zarr", "--model", desk / "runs" / "abide", "--out", out) == 0
    whole, rounded = (read_scores(out.with_suffix(end)).scored for end in (".parquet", ".tsv"))
    draw = np.random.default_rng(0)
    for controls, draws in ((200, 10), (817, 200), (819, 200)):
        for _ in range(draws):
            order = draw.permutation(len(whole))
            pairs = same_scans(whole.iloc[order[:controls]], whole.iloc[order[controls:]])
            assert not (pairs.sure | ~pairs.contradicted).any()
    for again in (
        rounded.assign(age=np.floor(rounded["age"]), site="elsewhere"),
        rounded.assign(age=rounded["age"] + 1.5),
        rounded.assign(sex=rounded["sex"].map({"F": "M", "M": "F"})),
    ):
        pairs = same_scans(whole, again)
        sure = pairs.take(pairs.sure)
        np.testing.assert_array_equal(sure.first, np.arange(len(whole)))
        np.testing.assert_array_equal(sure.second, np.arange(len(whole)))


def test_time_series_become_the_connections_that_the_model_knows(
    desk: Path, brainage: Brainage, abide: tuple, real_data: Path
) -> None:
    source, people, *_ = abide
    series = ("--add", f"fmri={real_data / 'abide1' / 'timeseries_sample'}")
    assert brainage("convert", source, desk / "series.zarr", *people, *series) == 0
    out = desk / "scores" / "series"
    assert brainage("score", desk / "series.zarr", "--model", desk / "runs" / "abide", "--out", out) == 0
    scores = pd.read_csv(out.with_suffix(".tsv"), sep="\t")
    assert len(scores) == 26
    assert scores["flags"].str.contains("smri_missing").all()
    assert not scores["flags"].str.contains("far_from|out_of_range|poor").any()
    held_out = pd.read_csv(desk / "runs" / "abide" / "held_out.tsv", sep="\t")
    both = scores.merge(held_out, on="participant_id", suffixes=("", "_training"))
    # The connectivity that came with the data is stored in half precision.
    np.testing.assert_allclose(
        both["brain_age_fmri_only"], both["brain_age_fmri_only_training"], rtol=0.02, atol=0.05
    )
    bundle, store = load_bundle(desk / "runs" / "abide" / "model"), Store.open(desk / "series.zarr")
    assert bundle.training_range is not None
    prints = bundle.training_range.fingerprints["fmri"]
    values = match_roles(store, bundle.info)["fmri"]
    assert values.table is not None
    columns = values.columns[prints.columns]
    known = prints.held_out_in(values.table.read()[:, columns], bundle.info.salt)
    fold = bundle.known_people(store.scans, [("",)] * 26).fold
    assert (known == fold).mean() > 0.9, "by their connectivity alone, computed anew"
    assert set(known[known != fold]) <= {-1}


def test_a_cohort_of_other_measures_is_refused_with_both_sides_shown(
    desk: Path, brainage: Brainage, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = real_data / "ixi_smri" / "ixi_joined.csv"
    assert brainage("convert", table, desk / "ixi.zarr") == 0
    capsys.readouterr()
    assert brainage("score", desk / "ixi.zarr", "--model", desk / "runs" / "abide") == 3
    message = capsys.readouterr().err
    assert "smri features that the model takes" in message
    assert "lh_bankssts_thickness" in message

"""Ablation: the same splits and seeds for every row, and no more said than the numbers carry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_members import planted_data, quick

from hpc_brainage.config import RunConfig, changed
from hpc_brainage.errors import TrainingError
from hpc_brainage.evaluation import ablation
from hpc_brainage.evaluation.ablation import (
    AVERAGE,
    FULL,
    WHOLE,
    Effect,
    changes_nothing,
    effects,
    grid,
    run_ablation,
    table_of,
    verdicts,
    write_ablation,
)
from hpc_brainage.evaluation.intervals import Interval, corrected_t_test
from hpc_brainage.evaluation.splits import people_folds
from hpc_brainage.training.data import TrainingData

ROLES = ("smri", "fmri")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return planted_data(tmp_path_factory.mktemp("planted"), quick())


def rows_named(*names: str) -> list[ablation.Row]:
    return [row for row in grid(ROLES) if row.name in names]


@pytest.mark.parametrize("roles", [ROLES, ("smri",), ("fmri",)])
def test_every_row_is_a_setting_of_the_same_code_and_has_a_name_of_its_own(roles: tuple[str, ...]) -> None:
    rows = grid(roles)
    assert rows[0].name == FULL
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert (changed(RunConfig(), row.changes) == RunConfig()) == (not row.changes)
        assert set(row.roles) <= set(roles)


def test_rows_share_splits_and_seeds_and_are_kept(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick("training.epochs=2")
    splits = people_folds(data, 3)
    rows = rows_named(FULL, "no distance ratio", "smri alone", "fmri alone", AVERAGE)
    heard: list[str] = []

    def run(config: RunConfig) -> dict[str, dict[str, np.ndarray]]:
        return run_ablation(
            data, config, splits, (0, 1), rows, tmp_path, lambda done, total, name: heard.append(name)
        )

    found = run(config)
    assert list(found) == [row.name for row in rows]
    assert list(dict.fromkeys(heard)) == [*found, ""]
    epochs = len(splits) * 2 * config.training.epochs
    assert len(heard) == len(rows) + 4 * epochs + 1
    has = {role: source.present for role, source in data.inputs.items()}
    for name in (FULL, "no distance ratio"):
        assert np.array_equal(np.isfinite(found[name]["smri alone"][1]), has["smri"])
        assert np.isfinite(found[name][WHOLE]).all()
    assert np.array_equal(found["fmri alone"][WHOLE], found["fmri alone"]["fmri alone"], equal_nan=True)
    assert set(found["fmri alone"]) == {WHOLE, "fmri alone"}
    expected = 0.5 * (found["fmri alone"][WHOLE] + found["smri alone"][WHOLE])
    assert np.array_equal(found[AVERAGE][WHOLE], expected, equal_nan=True)

    def nothing_to_train(*_: object) -> None:
        raise AssertionError("the rows are there")

    monkeypatch.setattr(ablation, "held_out_views", nothing_to_train)
    again = run(config)
    for name, views in found.items():
        for view, ages in views.items():
            assert np.array_equal(again[name][view], ages, equal_nan=True)
    with pytest.raises(AssertionError, match="the rows are there"):
        run(quick("training.epochs=3"))


def test_of_one_modality_every_comparison_is_made_once(data: TrainingData, tmp_path: Path) -> None:
    config, splits = quick("training.epochs=1"), people_folds(data, 2)
    rows = [row for row in grid(("smri",)) if row.name in (FULL, "no linear path")]
    alone = data.only(("smri",))
    found = run_ablation(alone, config, splits, (0, 1), rows, tmp_path, lambda *_: None)
    assert [list(views) for views in found.values()] == [[WHOLE], [WHOLE]]
    assert [effect.view for effect in effects(found, rows, alone, splits)] == [WHOLE, WHOLE]


def test_people_of_whom_nobody_has_everything_are_refused_before_anything_is_trained(
    data: TrainingData, tmp_path: Path
) -> None:
    first = np.arange(len(data.scans)) % 2 == 0
    inputs = {
        role: replace(source, present=source.present & (first == (role == "smri")))
        for role, source in data.inputs.items()
    }
    apart = replace(data, inputs=inputs)
    with pytest.raises(TrainingError, match="nobody who is tested has smri and fmri") as refused:
        run_ablation(apart, quick(), people_folds(data, 2), (0, 1), grid(ROLES), tmp_path, lambda *_: None)
    assert "fmri.use=false" in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", ["0.npy", "row.json"])
def test_a_kept_row_that_is_damaged_is_made_anew(damaged: str, data: TrainingData, tmp_path: Path) -> None:
    splits, rows = people_folds(data, 2), rows_named(FULL)

    def run() -> dict[str, dict[str, np.ndarray]]:
        return run_ablation(
            data, quick("training.epochs=1"), splits, (0, 1), rows, tmp_path, lambda *_: None
        )

    first = run()
    (kept,) = (tmp_path / "rows").iterdir()
    (kept / damaged).write_bytes((kept / damaged).read_bytes()[:20])
    for view, ages in run()[FULL].items():
        assert np.array_equal(ages, first[FULL][view], equal_nan=True)


def test_a_row_that_the_settings_are_already_changes_nothing() -> None:
    same = {row.name for row in grid(ROLES) if changes_nothing(row, quick("model.sex=film"))}
    assert same == {"sex: film"}
    assert not any(changes_nothing(row, RunConfig()) for row in grid(ROLES))


@pytest.mark.parametrize("name", ["no reconstruction at all", "age loss alone"])
def test_nothing_is_rebuilt_where_a_row_says_so(name: str) -> None:
    (row,) = rows_named(name)
    loss = changed(quick("loss.translation=1.0"), row.changes).loss
    assert loss.reconstruction == loss.cross == loss.translation == 0


def known(data: TrainingData, *errors: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions that are wrong by these years, one for each seed."""
    return {WHOLE: data.age.astype(float) + np.stack(errors)}


def test_effects_are_those_of_the_same_people(data: TrainingData) -> None:
    draw = np.random.default_rng(0)
    splits = people_folds(data, 3)
    base = draw.normal(0, 3, (2, len(data.scans)))
    worse = np.sign(base) * (np.abs(base) + draw.uniform(0.9, 1.1, base.shape))
    rows = rows_named(FULL, "no distance ratio", "no cross-reconstruction")
    found = {
        FULL: known(data, *base),
        "no cross-reconstruction": known(data, *worse),
        "no distance ratio": known(data, *base[::-1]),
    }
    full, cross, ratio = effects(found, rows, data, splits)
    both = np.logical_and.reduce([source.present for source in data.inputs.values()])
    assert full.scans == cross.scans == both.sum()
    by_seed = np.abs(base[:, both]).mean(axis=1)
    assert full.mae == pytest.approx(by_seed.mean())
    assert full.sd == pytest.approx(by_seed.std(ddof=1))
    assert full.ensemble == pytest.approx(np.abs(base.mean(axis=0))[both].mean())
    assert (full.difference, full.p) == (None, None)
    gained = (np.abs(worse) - np.abs(base)).mean(axis=0)
    assert cross.difference == pytest.approx(gained[both].mean())
    assert cross.interval is not None
    assert cross.interval.low < cross.difference < cross.interval.high
    test = corrected_t_test(np.array([gained[s.test[both[s.test]]].mean() for s in splits]), 0.5)
    assert test is not None
    assert cross.p == pytest.approx(2 * test.p)
    assert (ratio.difference, ratio.p) == (0.0, 1.0)
    said = verdicts([full, cross, ratio])
    row = f"no cross-reconstruction ({WHOLE}): worse by its interval over people than the full model"
    assert said[0].startswith(f"{row} (difference +1.0")
    assert said[0].endswith("also tells them apart, p <0.001 after Holm)")
    assert said[1:] == [
        "1 of 2 comparisons are told apart from the full model",
        "had no row made any difference, up to 0.1 of 2 would be told apart all the same",
    ]
    said = verdicts([full, replace(cross, p=0.3), ratio])
    assert said[0].startswith(row)
    assert said[0].endswith(
        "the corrected test over 3 splits does not tell them apart, p 0.300 after Holm)"
    )


def test_a_row_is_told_apart_by_all_its_intervals_or_not_at_all() -> None:
    zero, above = Interval(-0.1, 0.3), Interval(0.1, 0.3)
    effect = Effect("no linear path", "", WHOLE, 10, 2.5, 0.1, 2.4, 0.2, above, zero, 5, 0.01)
    said = verdicts([effect])
    assert said[0].startswith(f"no linear path ({WHOLE}): not told apart from the full model")
    assert "the corrected test over 5 splits tells them apart, p 0.010 after Holm" in said[0]
    assert said[1].startswith("0 of 1 comparisons")
    assert verdicts([replace(effect, sites=above)])[1].startswith("1 of 1 comparisons")
    assert not any(WHOLE in line for line in verdicts([replace(effect, p=0.5)]))


def test_a_kept_row_of_other_code_is_made_anew(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, config = people_folds(data, 2), quick("training.epochs=1")

    def run() -> int:
        run_ablation(data, config, splits, (0, 1), rows_named(FULL), tmp_path, lambda *_: None)
        return len(list((tmp_path / "rows").iterdir()))

    assert (run(), run()) == (1, 1)
    monkeypatch.setattr(ablation, "code_sha256", lambda *rooms: "an edited loss")
    assert run() == 2


def test_p_values_are_corrected_after_holm() -> None:
    raw = (0.01, None, 0.04, 0.03, 0.5)
    some = [Effect(str(p), "", WHOLE, 1, 1.0, None, 1.0, 0.0, p=p) for p in raw]
    assert [effect.p for effect in ablation._holm(some)] == pytest.approx([0.04, None, 0.09, 0.09, 0.5])


def test_the_report_says_what_was_found(data: TrainingData, tmp_path: Path) -> None:
    effect = Effect(FULL, "", WHOLE, 10, 2.5, 0.1, 2.4)
    other = replace(effect, row="no distance ratio", difference=-0.01, p=0.7, sd=None)
    path = write_ablation(tmp_path, [effect, other], {"seeds": [0]}, "Ablation")
    text = path.read_text()
    assert "| full model |  | 10 | 2.500 ± 0.100 | 2.400 |  |  |  |  |" in text
    assert "0 of 1 comparisons are told apart" in text
    assert (tmp_path / "ablation.json").is_file()
    assert table_of([effect, other], "another view").empty

"""A score table in the place of another one: only of the same scans by the same model, or when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_brainage.errors import ScoringError
from hpc_brainage.scoring.earlier_table import check_place

OURS = {
    "model": {"name": "ten", "sha256": "ab" * 32},
    "store": {"name": "cohort", "sha256": "cd" * 32},
    "where": None,
}


def standing(out: Path, content: object) -> Path:
    for suffix in ("tsv", "parquet"):
        out.with_name(f"{out.name}.{suffix}").write_text("a table\n")
    out.with_name(f"{out.name}.json").write_text(json.dumps(content))
    return out


def refusal(out: Path, *, replace: bool = False) -> str:
    with pytest.raises(ScoringError) as caught:
        check_place(out, OURS, replace=replace)
    assert caught.value.where
    assert caught.value.expected
    assert "another --out" in (caught.value.hint or "")
    return str(caught.value)


def test_where_nothing_is_and_where_the_same_was_scored_a_table_may_go(tmp_path: Path) -> None:
    check_place(tmp_path / "new", OURS, replace=False)
    check_place(standing(tmp_path / "out", {**OURS, "bias": {"method": "cole"}}), OURS, replace=False)


@pytest.mark.parametrize(
    ("other", "what", "of"),
    [
        ({"model": {"name": "aomic", "sha256": "ef" * 32}}, "another model is", "model aomic (efefefef)"),
        ({"model": {"name": "ten", "sha256": "ef" * 32}}, "another model is", "model ten (efefefef)"),
        ({"store": {"name": "half", "sha256": "ef" * 32}}, "another store is", "store half (efefefef)"),
        ({"where": "age > 40"}, "another selection is", "the scans with age > 40"),
        (
            {"model": {"name": "aomic", "sha256": "ef" * 32}, "where": "age > 40"},
            "another model and selection is",
            "model aomic (efefefef), the scans with age > 40",
        ),
    ],
)
def test_the_table_of_something_else_is_named_and_replaced_when_asked(
    other: dict[str, object], what: str, of: str, tmp_path: Path
) -> None:
    out = standing(tmp_path / "out", OURS | other)
    said = refusal(out)
    assert what in said
    assert f"out: {of}\n" in said
    assert ("expected: all scans" in said) == (list(other) == ["where"])
    assert "--no-resume" in said
    check_place(out, OURS, replace=True)


@pytest.mark.parametrize("content", [[], {}, {**OURS, "model": "ten"}, {"age": {"Units": "years"}}])
def test_files_that_are_no_score_table_are_never_replaced(content: object, tmp_path: Path) -> None:
    out = standing(tmp_path / "participants", content)
    for replace in (False, True):
        said = refusal(out, replace=replace)
        assert "left as it is" in said
        assert "participants.tsv" in said


def test_a_table_without_a_sidecar_that_can_be_read_is_never_replaced(tmp_path: Path) -> None:
    out = standing(tmp_path / "out", OURS)
    out.with_name("out.json").write_text('{"model": ')
    assert "left as it is" in refusal(out, replace=True)
    out.with_name("out.json").unlink()
    assert "left as it is" in refusal(out, replace=True)


def test_a_file_in_the_place_of_the_folder_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "a file is where the folder" in refusal(tmp_path / "file" / "deeper" / "out")


def test_a_folder_of_the_table_s_name_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "out.tsv").mkdir()
    assert "a folder is where the score table is to go" in refusal(tmp_path / "out")

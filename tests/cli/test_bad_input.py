"""Bad input through the command: what, where and what to do; an exit code; nobody lost; no traceback."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from cli.commands import Brainage
from cohorts import openbhb_trees as trees
from planted import planted_cohort, planted_store

from hpc_brainage.conversion.convert import init
from hpc_brainage.store.reader import Store

HEADER = "participant_id,age,sex,site,lh_bankssts_thickness,rh_bankssts_thickness"
GOOD = ("s1,20,F,NYU,2.1,2.2", "s2,30,M,NYU,2.5,2.4", "s3,50,F,UM,2.4,2.6")

# What is typed in a folder with people.csv and an empty folder, its exit code, and what is answered.
IMPOSSIBLE: list[tuple[list[str], int, tuple[str, ...]]] = [
    (["convert", "nowhere"], 3, ("there is nothing at this path", "nowhere", "an OpenBHB folder")),
    (["convert", "empty"], 3, ("the folder is empty", "empty", "an OpenBHB folder")),
    (["convert", "people.csv", "--add", "fmri"], 2, ("--add fmri", "role[/name]=PATH")),
    (
        ["convert", "people.csv", "--add", "eeg=people.csv"],
        2,
        ("unknown role", "eeg", "smri (structural)"),
    ),
    (["convert", "people.csv", "--add", "fmri=gone.csv"], 3, ("nothing at this path", "gone.csv")),
    (
        ["convert", "people.csv", "--where", "agee > 3"],
        2,
        ("--where 'agee > 3'", "did you mean 'age'?"),
    ),
    (["convert", "people.csv", "--where", "age > 99"], 2, ("matches none of the 3 scans",)),
    (["convert", "people.csv", "--where", "age"], 2, ("does not say yes or no",)),
    (
        ["convert", "people.csv", "--age", "agee"],
        3,
        ("no column 'agee' (--age)", "did you mean 'age'?"),
    ),
    (["convert", "people.csv", "--age-unit", "days"], 2, ("--age-unit days", "years or months")),
    (["convert", "people.csv", "--sex-codes", "1:M"], 2, ("--sex-codes 1:M", "1=M,2=F")),
    (["convert", "people.csv", "--role", "eeg"], 2, ("unknown role",)),
    (["convert", "people.csv", "people.csv"], 3, ("not a store of ours; it is left as it is",)),
    (["convert", "people.csv", "people.csv/x.zarr"], 3, ("cannot be written", "people.csv/x.zarr")),
    (["convert", "people.csv", "--recipe", "gone.toml"], 2, ("a recipe holds the sources itself",)),
    (["convert", "--recipe", "gone.toml", "--where", "age > 3"], 2, ("how and which scans are read",)),
    (["convert", "--recipe", "gone.toml", "--participant-label", "1"], 2, ("how and which scans",)),
    (["convert", "people.csv", "--participant-label", "nobody"], 2, ("nobody has the label nobody",)),
    (["convert", "people.csv", "--compression", "lz5"], 2, ("unknown compression", "'lz4'")),
    (["convert", "people.csv", "--append", "--compression", "zstd"], 2, ("packed as the store is",)),
    (["convert", "people.csv", "--confounds", "simpel"], 2, ("unknown confounds", "'simple'")),
    (["convert", "people.csv", "--atlas", "gone.nii.gz"], 2, ("no BOLD series that the atlas",)),
    (["convert", "--recipe", "gone.toml"], 2, ("the recipe is missing", "gone.toml")),
    (["train"], 3, ("no store was named, and there is no openbhb.zarr here", "brainage train STORE")),
    (["train", "gone.zarr"], 3, ("there is no store here", "gone.zarr")),
    (["train", "people.csv"], 3, ("a store is a folder, this is a file",)),
    (
        ["train", "gone.zarr", "--set", "training.epoch=3"],
        2,
        ("training.epoch", "did you mean 'epochs'?"),
    ),
    (["train", "gone.zarr", "--set", "epochs"], 2, ("--set epochs", "--set section.key=value")),
    (
        ["train", "gone.zarr", "--config", "gone.toml"],
        2,
        ("configuration file is not there", "gone.toml"),
    ),
    (["train", "gone.zarr", "--nodes", "0"], 2, ("--nodes",)),
    (["score", "gone.zarr", "--partition", "gpu"], 2, ("no job is submitted", "--partition gpu")),
    (["score", "gone.zarr", "--cluster", "slurm", "--time", "soon"], 2, ("--time soon", "a time is")),
    (["score", "gone.zarr", "--scheduler", "tcp://x:1", "--qos", "q"], 2, ("leave --qos away",)),
    (["score", "gone.zarr"], 3, ("no model at this path", "runs/latest", "--model runs/NAME")),
    (["score", "gone.zarr", "--model", "gone"], 3, ("no model at this path", "where: gone")),
    (["score", "gone.zarr", "--model", "empty"], 3, ("this is not a model bundle", "empty")),
    (["inspect", "empty"], 3, ("there is no store here", "empty", "a folder that `brainage convert` made")),
    (["verify", "nowhere"], 3, ("there is no store here", "nowhere", "brainage convert")),
    (["simulate", "people.csv"], 2, ("already holds something else", "people.csv")),
    (["simulate", "openbhb", "--scans", "0"], 2, ("0 scans are too few", "at least")),
]


def write_table(folder: Path, *rows: str, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


class _Runs:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _leave_a_trace, (str(self.path),)


def _leave_a_trace(path: str) -> None:
    Path(path).write_text("ran")


def damaged(kind: str, path: Path) -> None:
    """Spoil one person's image."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickled":
        np.save(path, np.array([_Runs(path.parents[4] / "trace")], dtype=object), allow_pickle=True)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(_Runs(path.parents[4] / "trace")))
    elif kind == "shape":
        np.save(path, np.ones((1, 1, 3, 6, 4), dtype=np.float32))
    elif kind == "nan":
        image = np.load(path, allow_pickle=False)
        image[..., 0] = np.nan
        np.save(path, image)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "the file is truncated: it has 598 of 608 bytes"),
        ("empty", "not a readable .npy file"),
        ("pickled", "pickled Python objects"),
        ("bare pickle", "not a readable .npy file"),
        ("shape", "the array has shape (1, 1, 3, 6, 4)"),
        ("nan", "30 of 120 values are NaN or infinite"),
    ],
)
def test_one_bad_volume_is_refused_by_name_and_the_others_go_on(
    kind: str, reason: str, brainage: Brainage, tmp_path: Path
) -> None:
    folder = trees.huggingface(tmp_path / "openbhb")
    image = next(trees.scan_folder(folder, 0).glob("*cat12vbm_desc-gm_T1w.npy"))
    damaged(kind, image)
    answer = brainage("convert", "openbhb")
    assert answer.code == 4
    assert f"sub-{trees.IDS[0]}" in answer.text
    assert reason in answer.text
    assert not (tmp_path / "trace").exists()
    store = Store.open(tmp_path / "openbhb.zarr")
    assert store.present("smri/cat12vbm").tolist() == [False, True, False]
    assert store.present("smri/quasiraw").tolist() == [True, True, False]
    assert store.present("smri/desikan_roi").all()
    account = pd.read_csv(tmp_path / "openbhb.account.tsv", sep="\t", dtype=str, keep_default_na=False)
    refused = account[account["reason"] != ""]
    assert refused["participant_id"].tolist() == [trees.IDS[0]]
    assert reason in refused["reason"].iloc[0]
    assert set(trees.IDS) == set(account["participant_id"])
    assert str(tmp_path) not in (tmp_path / "openbhb.account.tsv").read_text()
    again = brainage("convert", "openbhb")
    assert again.code == 4, "what was refused is still lost when nothing is left to do"
    assert "refused at that time: 1; --overwrite converts everything anew" in again.text
    assert reason in again.text


@pytest.mark.parametrize(
    ("row", "who", "reason"),
    [
        ("s4,40,F,NYU,abc,2.2", "sub-s4", "lh_bankssts_thickness is 'abc', which is not a number"),
        ("s4,forty,F,NYU,2.1,2.2", "sub-s4", "its age is 'forty', which is not a number"),
        ("s4,-3,F,NYU,2.1,2.2", "sub-s4", "its age of -3 years is impossible"),
        (",40,F,NYU,2.1,2.2", "(row 4)", "the row has no participant id"),
        ("s1,21,F,NYU,2.1,2.2", "sub-s1", "has two ages: 20 and 21"),
        ("s1,20,M,NYU,2.1,2.2", "sub-s1", "has two sexes: F and M"),
        ("s1,20,F,NYU,2.1,2.9", "sub-s1", "has 2 different rows"),
        ("s4,40,F,NYU,inf,2.2", "sub-s4", "lh_bankssts_thickness is infinite"),
    ],
)
def test_one_bad_row_is_refused_with_its_reason_and_the_others_are_converted(
    row: str, who: str, reason: str, brainage: Brainage, tmp_path: Path
) -> None:
    write_table(tmp_path, *GOOD, row)
    answer = brainage("convert", "people.csv")
    assert answer.code == 4
    assert who in answer.text
    assert reason in answer.text
    scans = Store.open(tmp_path / "people.zarr").scans
    good = ["s1", "s2", "s3"] if row.split(",")[0] != "s1" else ["s2", "s3"]
    assert scans["participant_id"].tolist() == good


def test_a_missing_age_is_kept_and_counted(brainage: Brainage, tmp_path: Path) -> None:
    write_table(tmp_path, *GOOD, "s4,,F,NYU,2.1,2.2", "s5,n/a,F,NYU,2.1,2.2")
    answer = brainage("convert", "people.csv")
    assert answer.code == 0
    assert "2 scans have no age (can be scored, not trained on)" in answer.text
    ages = Store.open(tmp_path / "people.zarr").scans["age"]
    assert ages.isna().tolist() == [False, False, False, True, True]
    assert "unknown for 2" in brainage("inspect", "people.zarr").text


def test_a_row_that_stands_there_twice_is_one_scan(brainage: Brainage, tmp_path: Path) -> None:
    write_table(tmp_path, *GOOD, GOOD[0])
    answer = brainage("convert", "people.csv")
    assert answer.code == 0
    assert "listed more than once with the same values: kept once" in answer.text
    assert Store.open(tmp_path / "people.zarr").n_scans == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ("s1,240,F,NYU,2.1,2.2", "s2,360,M,NYU,2.5,2.4", "s3,100,M,NYU,2.5,2.4"),
            (
                "look like months (2 of 3 are above 122.5; their median is 240)",
                "people.csv, column age",
                "--age-unit months",
            ),
        ),
        (
            ("s1,20,7,NYU,2.1,2.2", "s2,30,9,NYU,2.5,2.4"),
            (
                "sex is coded in a way that is not explained: '7' (1), '9' (1)",
                "column sex",
                "--sex-codes 7=?,9=? with F, M or U",
            ),
        ),
        (
            ("s1,a,F,NYU,2.1,2.2", "s2,b,M,NYU,2.5,2.4"),
            ("no age is a number: 'a', 'b'", "column age", "--age"),
        ),
        ((), ("people.csv",)),
    ],
)
def test_a_column_that_cannot_be_trusted_stops_the_conversion(
    rows: tuple[str, ...], said: tuple[str, ...], brainage: Brainage, tmp_path: Path
) -> None:
    write_table(tmp_path, *rows)
    answer = brainage("convert", "people.csv")
    assert answer.code == 3
    assert answer.err.startswith("error: ")
    for words in said:
        assert words in answer.text
    assert not (tmp_path / "people.zarr").exists()


def test_ages_in_months_that_are_said_to_be_months_become_years(brainage: Brainage, tmp_path: Path) -> None:
    write_table(tmp_path, "s1,240,F,NYU,2.1,2.2", "s2,366,M,NYU,2.5,2.4")
    assert brainage("convert", "people.csv", "--age-unit", "months").code == 0
    assert Store.open(tmp_path / "people.zarr").scans["age"].tolist() == [20.0, 30.5]


def test_sex_codes_that_are_explained_are_taken(brainage: Brainage, tmp_path: Path) -> None:
    write_table(tmp_path, "s1,20,1,NYU,2.1,2.2", "s2,30,2,NYU,2.5,2.4")
    assert brainage("convert", "people.csv", "--sex-codes", "1=M,2=F").code == 0
    assert Store.open(tmp_path / "people.zarr").scans["sex"].tolist() == ["M", "F"]


@pytest.mark.parametrize(
    ("words", "code", "said"), IMPOSSIBLE, ids=[" ".join(words) for words, _, _ in IMPOSSIBLE]
)
def test_what_cannot_be_done_is_said_in_one_message_and_nothing_is_made(
    words: list[str], code: int, said: tuple[str, ...], brainage: Brainage, tmp_path: Path
) -> None:
    table = write_table(tmp_path, *GOOD)
    (tmp_path / "empty").mkdir()
    before = table.read_bytes()
    answer = brainage(*words)
    assert answer.code == code, answer.text
    for part in said:
        assert part in answer.text
    assert table.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "people.csv"]


def test_a_store_that_is_not_ours_is_left_alone(brainage: Brainage, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "theirs.zarr"), mode="w")
    group.create_array("x", data=np.arange(3))
    write_table(tmp_path, *GOOD)
    for words in (["inspect"], ["verify"], ["train"]):
        answer = brainage(*words, "theirs.zarr")
        assert answer.code == 3
        assert "not one of scans" in answer.text
    answer = brainage("convert", "people.csv", "theirs.zarr", "--overwrite")
    assert answer.code == 3
    assert "is left as it is" in answer.text
    assert zarr.open_group(str(tmp_path / "theirs.zarr"))["x"][:].tolist() == [0, 1, 2]  # type: ignore[index]


def test_a_store_of_a_newer_format_is_named_as_such(brainage: Brainage, tmp_path: Path) -> None:
    store = planted_store(tmp_path, people=6)
    root = json.loads((store / "zarr.json").read_text())
    (attribute,) = root["attributes"]
    root["attributes"][attribute]["format_version"] = 99
    (store / "zarr.json").write_text(json.dumps(root))
    for verb in ("inspect", "verify", "train"):
        answer = brainage(verb, "planted.zarr")
        assert answer.code == 3
        assert "format version 99" in answer.text
        assert "a newer hpc_brainage reads it" in answer.text
    assert not (tmp_path / "runs").exists()


def test_an_unfinished_store_says_how_to_go_on(brainage: Brainage, tmp_path: Path) -> None:
    init(planted_cohort(6), tmp_path / "planted.zarr")
    for verb in ("inspect", "verify", "train"):
        answer = brainage(verb, "planted.zarr")
        assert answer.code == 3
        assert "has not finished" in answer.text
        assert "run the same `brainage convert` command again" in answer.text


def test_a_damaged_store_is_named_scan_by_scan(brainage: Brainage, tmp_path: Path) -> None:
    store = planted_store(tmp_path, people=6)
    shard = next((store / "smri_table").rglob("c.*"))
    content = bytearray(shard.read_bytes())
    content[40] ^= 0xFF
    shard.write_bytes(bytes(content))
    answer = brainage("verify", "planted.zarr")
    assert answer.code == 3
    assert "smri/table" in answer.text
    assert "sub-0000002" in answer.text
    assert "--overwrite" in answer.text


def test_several_nodes_without_slurm_say_what_to_do(
    brainage: Brainage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_store(tmp_path, people=6)
    monkeypatch.setenv("PATH", "")
    answer = brainage("train", "planted.zarr", "--nodes", "2")
    assert answer.code == 5
    assert "needs a SLURM cluster" in answer.text
    assert "leave --nodes out" in answer.text
    assert not (tmp_path / "runs").exists()


def test_too_few_people_to_train_on_say_which_setting(brainage: Brainage, tmp_path: Path) -> None:
    planted_store(tmp_path, people=4)
    answer = brainage("train", "planted.zarr")
    assert answer.code == 3
    assert "cannot be dealt into 5 folds" in answer.text
    assert "training.folds" in answer.text


def test_a_folder_that_cannot_be_written_is_said_in_words(brainage: Brainage, tmp_path: Path) -> None:
    planted_store(tmp_path, people=6)
    (tmp_path / "taken").write_text("a file, not a folder")
    answer = brainage("train", "planted.zarr", "--runs", "taken")
    assert answer.code == 5
    assert "taken" in answer.err
    assert "permissions" in answer.err


def test_whatever_a_cohort_calls_its_sites_is_shown_and_never_obeyed(
    brainage: Brainage, tmp_path: Path
) -> None:
    sites = ("[red]x[/red]", "<script>", "[/]", "=cmd()", "[link=file:///]y")
    rows = [f"s{i},{20 + i},F,{site},2.{i},2.2" for i, site in enumerate(sites)]
    write_table(tmp_path, *rows, "[bold]s9,[b]forty,F,NYU,2.1,2.2")
    answer = brainage("convert", "people.csv")
    assert answer.code == 4
    assert "sub-[bold]s9" in answer.text
    assert "'[b]forty'" in answer.text
    answer = brainage("inspect", "people.zarr")
    assert answer.code == 0
    for site in sites:
        assert f"{site} 1" in answer.text
    assert "\x1b" not in answer.out

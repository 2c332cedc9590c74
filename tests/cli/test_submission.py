"""`brainage convert --cluster`: what is submitted, what is said, and what is refused before that.

SLURM only pretends here; `tests/slurm` has the real one.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cli.commands import Brainage
from conversion.synthetic import small_shards

from hpc_brainage.cluster.array import work_in

PEOPLE = 20


@pytest.fixture
def table(tmp_path: Path) -> Path:
    lines = ["participant_id,age,sex,lh_thickness,rh_thickness"]
    lines += [f"p{i:02d},{20 + i},{'FM'[i % 2]},{2 + i / 100},{2.5 - i / 100}" for i in range(PEOPLE)]
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines))
    return path


def commands(folder: Path) -> list[list[str]]:
    """What each job that was submitted from `folder` types, the last one last."""
    (logs,) = folder.glob("*.jobs/*")
    work = work_in(logs)
    assert work.folder == str(folder)
    assert not list(logs.rglob("*.pkl"))
    return [list(words) for words in (*work.commands, work.last)]


def test_every_job_types_what_the_user_typed(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    with small_shards():
        answer = brainage(
            "convert", "people.csv", "a store.zarr", "--where", "age >= 21", "--add", f"smri/more={table}",
            "--features", "*_thickness", "--cluster", "slurm", "--jobs", 3, "--overwrite",
        )  # fmt: skip
    assert answer.code == 0, answer.text
    *array, last = commands(tmp_path)
    start = ["convert", "--workers=2"]
    said = ["--add", f"smri/more={table}", "--where", "age >= 21", "--features", "*_thickness"]
    end = ["--", "people.csv", "a store.zarr"]
    for number, words in enumerate(array, start=1):
        assert words[:3] == [*start, f"--part={number}/3"]
        assert sorted(words[3:-3]) == sorted(said)
        assert words[-3:] == end
    assert len(array) == 3
    assert sorted(last) == sorted([*start, *said, *end])
    assert (tmp_path / "a store.zarr" / "_build").is_dir()


def test_it_says_how_to_watch_the_jobs_and_how_to_do_without(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    with small_shards():
        answer = brainage("convert", "people.csv", "--cluster", "slurm", "--jobs", 100)
    (logs,) = tmp_path.glob("people.zarr.jobs/*")
    for words in ("array 100 of", "job 200 then", "squeue -j 100,200", logs.name, "without --cluster"):
        assert words in answer.text
    assert f"--array=1-{len(commands(tmp_path)) - 1}" in (slurm / "job-1").read_text()


def test_work_that_is_one_part_is_one_job(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    answer = brainage("convert", table, "--cluster", "slurm", "--workers", 5)
    assert answer.code == 0
    assert "job 100 converts everything" in answer.text
    (words,) = commands(tmp_path)
    assert "--workers=5" in words
    assert not any("--part" in word for word in words)


def test_the_command_of_a_job_is_one_that_can_be_run(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    brainage("convert", "people.csv", "--cluster", "slurm")
    (words,) = commands(tmp_path)
    answer = brainage(*words)
    assert answer.code == 0, shlex.join(words)
    assert f"{PEOPLE} scans in the store" in answer.text
    again = brainage("convert", "people.csv", "--cluster", "slurm")
    assert (again.code, "nothing was submitted" in again.text) == (0, True)


def test_bad_input_is_said_here_and_nothing_is_submitted(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('partiton = "x"')
    for words, code, message in (
        (("nowhere.csv", "--cluster", "slurm"), 3, "nowhere.csv"),
        (("people.csv", "--where", "age > 200", "--cluster", "slurm"), 2, "matches none of the 20 scans"),
        (("people.csv", "--cluster", "site.toml"), 2, "did you mean 'partition'?"),
        (("people.csv", "--cluster", "slrum"), 2, "there is no such cluster"),
        (("people.csv", "--cluster", "slurm", "--part", "1/2"), 2, "--part"),
        (("people.csv", "--cluster", "slurm", "--init"), 2, "--init"),
        (("people.csv", "--cluster", "slurm", "--finalise"), 2, "--finalise"),
        (("people.csv", "--cluster", "slurm", "--append"), 2, "--append"),
        (("people.csv", "--jobs", "3"), 2, "--cluster slurm as well"),
        (("people.csv", "--account", "lab"), 2, "no job is submitted"),
        (("people.csv", "--cluster", "slurm", "--time", "soon"), 2, "--time soon"),
        (("people.csv", "--cluster", "slurm", "--partition", "lnog"), 2, "--partition NAME"),
        (("people.csv", "--cluster", "slurm", "--jobs", "0"), 2, "--jobs"),
    ):
        answer = brainage("convert", *words)
        assert (answer.code, message in answer.text) == (code, True), (words, answer.text)
    assert not (slurm / "job-1").exists()
    assert not list(tmp_path.glob("*.zarr"))


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ('time = "9-00:00:00"', ("partition main lets no job run for so long", "at most 1-00:00:00")),
        ('partition = "lnog"', ("no such partition", "main (4 nodes), long (2 nodes)")),
        ("cpus = 9", ("main has no node with as many cores", "cpus = 9")),
        ("memory_gb = 16", ("main has no node with as much memory", "memory_gb = 16")),
    ],
)
def test_what_the_cluster_does_not_have_is_said_before_the_cohort_is_read(
    brainage: Brainage, slurm: Path, tmp_path: Path, settings: str, messages: tuple[str, ...]
) -> None:
    (tmp_path / "site.toml").write_text(settings)
    answer = brainage("convert", "nowhere.csv", "--cluster", "site.toml")
    assert answer.code == 2, answer.text
    for message in messages:
        assert message in answer.text


def test_a_long_time_is_let_be_where_a_partition_has_it(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('partition = "main,long"\ntime = "9-00:00:00"')
    answer = brainage("convert", "people.csv", "--cluster", "site.toml")
    assert answer.code == 0, answer.text
    assert "#SBATCH --time=12960\n" in (slurm / "job-1").read_text()


def test_what_the_jobs_ask_for_may_be_typed_and_is_not_typed_by_them(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('partition = "main"\ntime = "9-00:00:00"\naccount = "lab"')
    flags = ("--partition", "long", "--qos", "night", "--time", 90)
    answer = brainage("convert", "people.csv", "--cluster", "site.toml", *flags)
    assert answer.code == 0, answer.text
    asked = (slurm / "job-1").read_text()
    for line in ("--partition=long", "--account=lab", "--qos=night", "--time=90"):
        assert f"#SBATCH {line}\n" in asked
    assert commands(tmp_path) == [["convert", "--workers=2", "--", "people.csv"]]


def test_a_refusal_names_the_flag_that_mends_it(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    (slurm / "refuse-1").write_text("sbatch: error: Invalid qos specification\n")
    answer = brainage("convert", "people.csv", "--cluster", "slurm", "--qos", "nihgt")
    assert answer.code == 2
    for words in ("qos = 'nihgt'", "set it by --qos, or in the TOML"):
        assert words in answer.text


def test_a_cluster_that_does_not_answer_is_not_said_to_have_no_partitions(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('partition = "main"')
    (slurm.parent / "programs" / "sinfo").write_text("#!/bin/sh\nexit 1")
    (slurm / "refuse-1").write_text("sbatch: error: Unable to contact slurm controller\n")
    answer = brainage("convert", "people.csv", "--cluster", "site.toml")
    assert (answer.code, "SLURM does not answer" in answer.text) == (5, True), answer.text


def test_a_refusal_is_said_once_and_leaves_nothing(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    (slurm / "refuse-1").write_text("sbatch: error: Batch job submission failed: the moon is full\n")
    answer = brainage("convert", "people.csv", "--cluster", "slurm")
    assert answer.code == 2
    assert answer.text.count("the moon is full") == 1, answer.text
    assert "sbatch:" not in answer.text
    assert not list(tmp_path.glob("*.jobs"))


def test_a_refusal_leaves_what_was_submitted_before(
    brainage: Brainage, slurm: Path, table: Path, tmp_path: Path
) -> None:
    brainage("convert", "people.csv", "--cluster", "slurm")
    before = sorted(tmp_path.glob("people.zarr.jobs/*"))
    (slurm / "refuse-2").write_text("sbatch: error: the moon is full\n")
    assert brainage("convert", "people.csv", "--cluster", "slurm").code == 2
    assert sorted(tmp_path.glob("people.zarr.jobs/*")) == before
    assert len(before) == 1


def test_a_machine_without_slurm_says_how_to_share_the_work_anyway(
    brainage: Brainage, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    answer = brainage("convert", "people.csv", "--cluster", "slurm")
    assert answer.code == 5
    assert "there is no SLURM on this machine" in answer.text
    assert "--part 1/8 to --part 8/8" in answer.text
    assert not list(tmp_path.glob("*.zarr"))

"""What a site's TOML may say, and what is refused in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cluster.resources import (
    Flags,
    Resources,
    ScoreResources,
    TrainResources,
    read_resources,
)
from hpc_brainage.errors import UsageError

EXAMPLE = Path(__file__).parents[2] / "configs" / "cluster" / "example.toml"


def test_slurm_alone_leaves_to_the_site_what_the_site_knows() -> None:
    resources = read_resources("slurm")
    assert (resources.partition, resources.account, resources.qos, resources.extra) == (
        None,
        None,
        None,
        {},
    )
    assert (resources.time, resources.cpus, resources.memory_gb) == (120, 2, 4)


def test_the_example_shows_the_defaults() -> None:
    assert read_resources(str(EXAMPLE)) == Resources()


def test_the_example_with_every_line_switched_on_is_read_too(tmp_path: Path) -> None:
    shown = EXAMPLE.read_text().splitlines()
    lines = [line.removeprefix("# ") if " = " in line or "[extra]" in line else line for line in shown]
    site = tmp_path / "site.toml"
    site.write_text("\n".join(lines))
    resources = read_resources(str(site))
    assert resources.model_fields_set == set(Resources.model_fields)
    assert resources.setup == ("module load gcc/12", "export OMP_NUM_THREADS=1")
    assert resources.extra == {
        "reservation": "course",
        "mail-user": "me@example.org",
        "mail-type": "END,FAIL",
    }


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ('"02:00:00"', 120),
        ('"1-12:30:00"', 36 * 60 + 30),
        ('"00:00:30"', 1),
        ("90", 90),
        ('"48:00:01"', 2881),
    ],
)
def test_a_time_is_read_as_slurm_writes_it(tmp_path: Path, text: str, minutes: int) -> None:
    (tmp_path / "site.toml").write_text(f"time = {text}")
    assert read_resources(str(tmp_path / "site.toml")).time == minutes


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_no_job_gets_less_time_than_was_asked_for(
    days: int, hours: int, minutes: int, seconds: int
) -> None:
    given_minutes = Resources(time=f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}").time  # type: ignore[arg-type]
    asked = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert 0 <= given_minutes * 60 - asked < 60


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('partiton = "cpu"', "did you mean 'partition'?"),
        ("memory = 4", "did you mean 'memory_gb'?"),
        ('time = "02:00"', 'a time is "HH:MM:SS", "D-HH:MM:SS" or whole minutes'),
        ("time = 0", "a time is"),
        ("time = true", "a time is"),
        ('time = "soon"', "a time is"),
        ('cpus = "2"', "valid integer"),
        ("cpus = 0", "greater than or equal to 1"),
        ("memory_gb = 0", "greater than 0"),
        ('partition = ""', "at least 1 character"),
        ('setup = "module load gcc"', "a list in square brackets"),
        ('[extra]\narray = "1-4"', "array is not for [extra]"),
        ('[extra]\njob_name = "x"', "job_name is not for [extra]"),
        ("[extra]\nexclusive = false", "exclusive is False"),
        ('[extra]\n"--hold" = true', "--hold is no option of sbatch"),
        ("cpus 2", "not readable as TOML"),
    ],
)
def test_what_a_site_cannot_mean_is_refused(tmp_path: Path, line: str, message: str) -> None:
    site = tmp_path / "site.toml"
    site.write_text(line)
    with pytest.raises(UsageError) as refused:
        read_resources(str(site))
    assert message in str(refused.value)
    assert "site.toml" in str(refused.value)


def test_flags_go_above_the_site_s_toml_and_above_its_sections() -> None:
    own: dict[str, Any] = {"partition": "gpu", "qos": "long", "time": 5}
    site = Resources(
        partition="cpu", account="lab", time=60, cpus=3, train=TrainResources(gpus_per_node=2, **own),
        score=ScoreResources(**own),
    )  # fmt: skip
    assert Flags().over(site) == site
    asked = Flags("main,long", "other", "short", "1-00:00:00").over(site)
    for part in (asked, asked.train, asked.score):
        assert (part.partition, part.qos, part.time) == ("main,long", "short", 1440)
    assert (asked.account, asked.cpus, asked.train.gpus_per_node) == ("other", 3, 2)
    only_time = Flags(time="90").over(site)
    assert (only_time.time, only_time.train.time, only_time.train.partition) == (90, 90, "gpu")
    assert site.train.time == 5


def test_what_neither_the_toml_nor_a_flag_says_is_as_sbatch_s_variables_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, word in {
        "PARTITION": "long", "ACCOUNT": "lab", "QOS": "short", "CONSTRAINT": "", "TIMELIMIT": "7"
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SBATCH_{name}", word)
    left_open = Flags().over(Resources())
    assert (left_open.partition, left_open.account, left_open.qos) == ("long", "lab", "short")
    assert (left_open.time, left_open.train.time, left_open.score.time) == (7, 7, None)
    assert left_open.constraint is None
    site = Resources(partition="cpu", time=60, train=TrainResources(qos="own"))
    above = Flags(account="other").over(site)
    assert (above.partition, above.account, above.qos) == ("cpu", "other", "short")
    assert (above.time, above.train.time, above.train.qos) == (60, 7, "own")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1-0")
    with pytest.raises(UsageError, match="SBATCH_TIMELIMIT=1-0"):
        Flags().over(Resources())
    assert Flags(time="5").over(Resources()).train.time == 5


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (Flags(time="soon"), "--time soon"),
        (Flags(time="02:00"), "--time 02:00"),
        (Flags(time="0"), "--time 0"),
        (Flags(time="-5"), "--time -5"),
        (Flags(partition="cpu", account=""), "--account "),
    ],
)
def test_a_flag_that_cannot_be_meant_is_named(flags: Flags, where: str) -> None:
    with pytest.raises(UsageError) as refused:
        flags.over(Resources())
    assert where in str(refused.value)


def test_what_is_asked_of_jobs_is_refused_where_there_are_none() -> None:
    Flags().refuse_without_jobs()
    with pytest.raises(UsageError, match="no job is submitted") as refused:
        Flags(qos="long", time="90").refuse_without_jobs()
    assert "--qos long" in str(refused.value)


def test_a_cluster_that_is_not_there_is_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slurm, or the path of a TOML"):
        read_resources(str(tmp_path / "nowhere.toml"))

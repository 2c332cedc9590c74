"""The README's commands, typed as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpc_brainage.cluster.slurm import partitions
from hpc_brainage.cohorts.simulation import simulate_openbhb

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PEOPLE = 90


def blocks(heading: str) -> list[list[str]]:
    """The commands of each bash block under a heading, continued lines joined, comments cut."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = []
    for block in re.findall(r"```bash\n(.*?)```", section, re.S):
        lines = block.replace("\\\n", " ").splitlines()
        found.append([re.sub(r"\s+# .*", "", line) for line in lines if line.strip()])
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README speaks of: an OpenBHB, and a cohort of tables."""
    folder = tmp_path_factory.mktemp("readme")
    made = simulate_openbhb(folder / "home" / "openbhb", scans=60, volumes=4)
    shutil.copy(made.connectomes, folder / "connectomes.tsv")
    shutil.copytree(ROOT / "configs", folder / "configs")
    draw = np.random.default_rng(0)
    age, ids = draw.uniform(7, 50, PEOPLE), [f"Site_{i:07d}" for i in range(PEOPLE)]
    people = {
        "file_id": ids, "age": age, "sex": np.where(draw.random(PEOPLE) < 0.5, "M", "F"),
        "site": [f"S{i % 4}" for i in range(PEOPLE)],
        "dx": np.where(np.arange(PEOPLE) % 3 == 0, "ASD", "TC"),
    }  # fmt: skip
    pd.DataFrame(people).to_csv(folder / "participants.csv", index=False)
    thickness = 3 - 0.01 * age[:, None] + draw.normal(0, 0.05, (PEOPLE, 40))
    table = pd.DataFrame(thickness, columns=[f"lh_region{i}_thickness" for i in range(40)])
    table.insert(0, "file_id", ids)
    table.to_csv(folder / "smri_freesurfer6.csv.gz", index=False)
    i, j = np.triu_indices(12, 1)
    edges = draw.normal(0, 0.2, (PEOPLE, len(i))) + 0.01 * age[:, None] * draw.normal(size=len(i))
    np.savez(
        folder / "fmri_fc_ho111_fisherz.npz", fc_z=edges[5:].astype(np.float16), file_id=np.array(ids[5:]),
        roi_id=np.arange(101, 113), edge_i=i.astype(np.int16), edge_j=j.astype(np.int16),
    )  # fmt: skip
    return folder


def type_in(command: str, desk: Path) -> subprocess.CompletedProcess[str]:
    programs = Path(sys.executable).parent
    env = os.environ | {"HOME": str(desk / "home"), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command], cwd=desk, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_for_one_s_own_data_work_as_they_stand(desk: Path) -> None:
    openbhb, cohort = blocks("Your own data")
    for command in [*openbhb, *cohort]:
        done = type_in(command, desk)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    scored = pd.read_csv(desk / "scores" / "cases.tsv", sep="\t")
    assert len(scored) == PEOPLE / 3
    assert set(scored["status"]) == {"scored"}
    assert not scored["in_training"].any()


def test_the_commands_for_large_cohorts_work_as_they_stand(desk: Path) -> None:
    simulate_openbhb(desk / "home" / "newcomers", scans=40, seed=1, volumes=4)
    (large,) = blocks("Large cohorts")
    elsewhere = [command for command in large if "s3://" in command or "--cluster" in command]
    assert len(elsewhere) == 2
    for command in large:
        if command not in elsewhere:
            done = type_in(command, desk)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert type_in("brainage verify all.zarr", desk).returncode == 0


def test_a_second_conversion_does_not_replace_a_store_unasked(desk: Path) -> None:
    command = "brainage convert ~/openbhb kept.zarr"
    assert type_in(command, desk).returncode == 0
    refused = type_in(f"{command} --add fmri=connectomes.tsv", desk)
    assert refused.returncode == 3
    assert "--overwrite" in refused.stderr


def test_the_cluster_command_says_what_is_missing_on_a_machine_without_slurm(desk: Path) -> None:
    train, *others = blocks("On a cluster")[0]
    assert "--nodes 4" in train
    for command in others:
        assert type_in(f"{command.split(' runs/')[0]} --help", desk).returncode == 0
    if partitions():
        pytest.skip("this machine reaches a SLURM cluster")
    (desk / "openbhb.zarr").exists() or type_in("brainage convert ~/openbhb", desk)
    done = type_in(train, desk)
    assert done.returncode == 5
    assert "SLURM" in done.stderr


def test_the_two_commands_are_there_and_every_file_of_the_tree_is_too() -> None:
    for command in blocks("Two commands on a new machine")[0]:
        assert os.access(ROOT / command.split()[0], os.X_OK)
    tree = TEXT.split("## What is where")[1].split("```")[1]
    for line in tree.strip().splitlines():
        name = line.split()[0]
        inside = ROOT / "hpc_brainage" if line.startswith("  ") else ROOT
        assert (inside / name).exists(), name

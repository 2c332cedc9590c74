"""Training as a job of a real SLURM: whatever happens to the job, the model is that of an undisturbed run.

A run is disturbed while it trains and its epochs' losses are compared, to the last bit, with those of two
processes that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.commands import TINY, Answer, type_command
from planted import planted_store
from slurm.asking import ask, wait_for, wait_until

from hpc_brainage.cluster.run_job import batch_file, job_of, submit_run
from hpc_brainage.cluster.slurm import job_states
from hpc_brainage.cluster.starts import starts_of
from hpc_brainage.model.bundle import load_bundle

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(300)]

SANDBOX = str(Path(__file__).parents[2] / "slurm" / "sandbox")
TRAIN = Path(__file__).parents[2] / "slurm" / "train.sbatch"
STUCK_SAVING = Path(__file__).with_name("stuck_saving.py")
SITE = "[train]\ncpus_per_task = 1\nmemory_gb = 2\ntime = 10\n"
EPOCHS = 40
# Long enough to be disturbed, and saved often enough to lose little to a node that dies.
SETTINGS = [
    word
    for setting in (*TINY, f"training.epochs={EPOCHS}", "training.checkpoint_minutes=0.01")
    for word in ("--set", setting)
]
FEW_SECONDS = ("--set", "training.epochs=3")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    planted_store(folder, people=80, name="openbhb")
    (folder / "site.toml").write_text(SITE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(desk: Path) -> dict[tuple[int, int], float]:
    """Losses of two processes of this machine, which stand for two nodes."""
    answer = type_command(desk, "train", "--nodes", 2, "--cluster", "local", "--name", "local", *SETTINGS)
    assert answer.code == 0, answer.text
    return losses(desk / "runs" / "local")


def submitted(desk: Path, name: str, *words: object, nodes: int = 2) -> str:
    """Type `brainage train --cluster site.toml`; returns the job's number."""
    start = ("train", "--nodes", nodes, "--cluster", "site.toml", "--name", name)
    answer = type_command(desk, *start, *SETTINGS, *words)
    assert answer.code == 0, answer.text
    return re.search(r"submitted job (\d+)", answer.text)[1]  # type: ignore[index]


def losses(run: Path) -> dict[tuple[int, int], float]:
    """The loss of each epoch of each member, which stands in metrics.jsonl once."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {(record["member"], record["epoch"]): record["loss"] for record in records}
    assert len(found) == len(records)
    return found


def is_training(run: Path, epochs: int = 5) -> bool:
    """Whether a run is in the middle of its first member."""
    metrics = run / "metrics.jsonl"
    return metrics.is_file() and len(metrics.read_text().splitlines()) >= epochs


def logs(run: Path) -> str:
    return "\n".join(f"{path.name}\n{path.read_text()}" for path in sorted((run / "logs").glob("*.log")))


def finished(run: Path, job: str, starts: int) -> None:
    """Wait for the job, and make sure that it finished the run in so many starts."""
    wait_for(job)
    assert json.loads((run / "status.json").read_text())["state"] == "finished", logs(run)
    assert len(starts_of(run)) == starts, logs(run)
    assert len(load_bundle(run / "model").members) == 2


@contextmanager
def following(desk: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """`brainage train --follow` of a run whose job is there, as a process of its own."""
    words = ["train", "--nodes", "2", "--cluster", "site.toml", "--name", name, "--follow", *SETTINGS]
    process = subprocess.Popen(
        [sys.executable, "-m", "hpc_brainage.cli.main", *words],
        cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_four_nodes_train_a_model_that_scores(slurm: None, desk: Path) -> None:
    words = ("--nodes", 4, "--cluster", "site.toml", "--name", "four", *SETTINGS, *FEW_SECONDS)
    flags = ("--partition", "main", "--time", "00:20:00", "--qos", "normal")
    answer = type_command(desk, "train", *words, *flags, "--follow")
    assert answer.code == 0, answer.text
    job = re.search(r"submitted job (\d+)", answer.text)[1]  # type: ignore[index]
    asked = ("sacct", "-X", "-n", "-P", "-o", "Partition,TimelimitRaw,QOS", "-j", job)
    wait_until(lambda: ask(*asked).strip() == "main|20|normal")
    assert "member 2 of 2, epoch 3 of 3" in answer.text
    assert "held-out error, 2-fold over people" in answer.text
    scored = type_command(desk, "score", "openbhb.zarr", "--model", "runs/four", "--workers", 1)
    assert scored.code == 0, scored.text
    listed = type_command(desk, "jobs")
    assert re.search(r"four \d+ finished \d+ 3/3 2/2 - 0 -", listed.text), listed.text
    ranks = sorted(path.name for path in (desk / "runs" / "four" / "logs").glob("rank-*"))
    assert ranks == [f"rank-{rank}.log" for rank in range(4)]


def test_what_the_cluster_does_not_have_is_said_before_anything_is_submitted(
    slurm: None, desk: Path
) -> None:
    for site, words, message in (
        ('[train]\npartition = "gpu"', (), "partitions of this cluster: main (4 nodes, 2 GPUs each)"),
        ("", ("--nodes", 5), "partition main has 4 nodes, and the job asks for 5"),
        ("", ("--gpus-per-node", 3), "has no node with as many GPUs, and the job asks for 1"),
        ('[train]\ntime = "2-00:00:00"', (), "at most 1-00:00:00"),
        ("[train]\ncpus_per_task = 64", (), "4 nodes of 4 cores"),
    ):
        (desk / "wrong.toml").write_text(site)
        answer = type_command(desk, "train", "--cluster", "wrong.toml", "--name", "wrong", *words)
        assert (answer.code, message in answer.text) == (2, True), answer.text
    assert not (desk / "runs" / "wrong").exists()


def test_of_two_jobs_of_one_run_one_trains_and_is_the_one_that_is_kept(slurm: None, desk: Path) -> None:
    """As if two people had typed the same command in the same instant: neither saw the other's job."""
    run = desk / "runs" / "twice"
    # Long enough for the second to see that the first is alive, which takes it three seconds.
    first = submitted(desk, "twice", "--set", "training.epochs=150", nodes=1)
    planned = job_of(run)
    assert planned is not None
    second = submit_run(run, planned).id
    assert second is not None
    wait_for(f"{first},{second}")
    states = {job: job_states([job])[job].state for job in (first, second)}
    assert sorted(states.values()) == ["COMPLETED", "FAILED"], logs(run)
    kept = job_of(run)
    assert kept is not None
    assert kept.id is not None
    assert states[kept.id] == "COMPLETED"
    assert load_bundle(run / "model")


@pytest.mark.parametrize("script", ["printed", "train.sbatch"])
def test_a_job_that_is_submitted_by_hand_is_the_run_s_as_soon_as_it_trains(
    slurm: None, desk: Path, script: str
) -> None:
    run = desk / "runs" / f"by hand {script}"
    words = ("train", "--cluster", "site.toml", "--name", run.name, *SETTINGS)
    printed = type_command(desk, *words, "--nodes", 2, "--dry-run").out
    (desk / "printed.sbatch").write_text(printed)
    by_hand = {
        "printed": [str(desk / "printed.sbatch")],
        "train.sbatch": ["--nodes=2", "--mem=2G", "--time=7", str(TRAIN), str(run)],
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = subprocess.run(
        ["sbatch", "--parsable", *by_hand[script]],
        cwd=desk, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60, check=True,
    ).stdout.strip()  # fmt: skip
    wait_until(lambda: is_training(run, epochs=1))
    assert re.search(rf"{run.name} {job} running", type_command(desk, "jobs").text)
    assert f"job {job} of this run is there already" in type_command(desk, "resume", run).text
    assert type_command(desk, "cancel", run).code == 0
    wait_for(job)
    assert "submitted job" in type_command(desk, "resume", run).text
    again = job_of(run)
    assert again is not None
    assert again.id is not None
    assert ask("squeue", "--noheader", "--jobs", again.id, "--format", "%D").strip() == "2"
    if script == "printed":
        assert batch_file(run, again) == printed
    assert type_command(desk, "cancel", run).code == 0
    wait_for(again.id)


def test_two_jobs_meet_on_ports_of_their_own_on_the_same_nodes(slurm: None, desk: Path) -> None:
    jobs = {submitted(desk, name, *FEW_SECONDS): desk / "runs" / name for name in ("one", "other")}
    for job, run in jobs.items():
        finished(run, job, starts=1)
    meetings = [
        json.loads((run / "logs" / f"{job}-0" / "rendezvous.json").read_text()) for job, run in jobs.items()
    ]
    assert {meeting["address"] for meeting in meetings} == {"node1"}
    assert meetings[0]["port"] != meetings[1]["port"]


def test_a_job_that_is_queued_again_is_followed_on_and_loses_nothing(
    slurm: None, desk: Path, undisturbed: dict[tuple[int, int], float]
) -> None:
    run = desk / "runs" / "requeued"
    job = submitted(desk, "requeued")
    with following(desk, "requeued") as follower:
        wait_until(lambda: is_training(run))
        ask("scontrol", "requeue", job)
        said = follower.communicate(timeout=200)[0]
    assert follower.returncode == 0, said
    finished(run, job, starts=2)
    assert losses(run) == undisturbed
    assert f"job {job} of this run is there already" in said
    assert "for the 2nd time" in said
    # What was done before the first look is summed up; nothing else is left out, or said again.
    epochs = re.findall(r"member \d of 2, epoch \d+ of", said)
    assert len(epochs) == len(set(epochs))
    summed_up = sum(map(int, re.findall(r"\.\.\. (\d+) epochs before", said)))
    assert len(epochs) + summed_up == len(undisturbed)


def test_a_preempted_job_saves_and_goes_on(
    slurm: None, desk: Path, undisturbed: dict[tuple[int, int], float]
) -> None:
    run = desk / "runs" / "preempted"
    job = submitted(desk, "preempted")
    wait_until(lambda: is_training(run))
    words = ("sbatch", "--parsable", "--partition=urgent", "--nodes=4", "--exclusive", "--wrap", "sleep 1")
    urgent = ask(*words, "--output=/dev/null").strip()
    finished(run, f"{urgent},{job}", starts=2)
    assert losses(run) == undisturbed
    assert "told to stop" in (run / "logs" / "rank-0.log").read_text()


def test_a_job_that_is_stopped_before_its_processes_listen_goes_on_unless_it_was_cancelled(
    slurm: None, desk: Path
) -> None:
    """As where a container takes long to start; and where the site keeps the environment from the steps."""
    (desk / "slow.sh").write_text('#!/bin/sh\nsleep 4\nexec "$@"\n')
    (desk / "slow.sh").chmod(0o755)
    slow = [str(desk / "slow.sh")]
    (desk / "slow.toml").write_text(f'{SITE}container = {json.dumps(slow)}\n[extra]\nexport = "NONE"\n')
    names = ("stopped early", "preempted early", "cancelled early")
    words = (*FEW_SECONDS, "--cluster", "slow.toml")
    stopped, preempted, cancelled = (submitted(desk, name, *words, nodes=1) for name in names)
    for job in (stopped, preempted, cancelled):
        wait_until(lambda job=job: f"{job}.0" in ask("squeue", "--noheader", "--steps", "--format=%i"))
    ask("scancel", "--signal=USR2", stopped)
    ask("scancel", "--signal=TERM", preempted)
    ask("scancel", cancelled)
    for name, job in zip(names[:2], (stopped, preempted), strict=True):
        run = desk / "runs" / name
        finished(run, job, starts=1)
        assert (run / "logs" / f"{job}-1").is_dir(), logs(run)
    wait_for(cancelled)
    assert job_states([cancelled])[cancelled].state == "CANCELLED"
    assert not (desk / "runs" / names[2] / "logs" / f"{cancelled}-1").exists()


def test_a_job_whose_time_is_nearly_up_saves_and_queues_itself_again(
    slurm: None, desk: Path, undisturbed: dict[tuple[int, int], float]
) -> None:
    """SLURM sends the signal itself up to a minute early; here the test does."""
    run = desk / "runs" / "timed"
    job = submitted(desk, "timed")
    wait_until(lambda: is_training(run))
    ask("scancel", "--signal=USR2", job)
    finished(run, job, starts=2)
    assert losses(run) == undisturbed
    assert re.search(rf"job {job} ended with exit code \d+ and asks to be queued again", logs(run))


def test_jobs_whose_node_dies_go_on_from_what_was_saved(
    slurm: None, desk: Path, undisturbed: dict[tuple[int, int], float]
) -> None:
    """One job has rank 0, which alone saves at ZeRO stage 0, and its script on that node, and is in the
    middle of a checkpoint. Another has only its other process there, and is in the middle of an epoch."""
    saving, training = (desk / "runs" / name for name in ("half saved", "half an epoch"))
    mark = desk / "half-a-checkpoint-is-there"
    words = [sys.executable, "-P", str(STUCK_SAVING), str(mark)]
    elsewhere = f'exclude = "node1"\n{SITE}container = {json.dumps(words)}\n'
    (desk / "stuck.toml").write_text(elsewhere)
    first = submitted(desk, saving.name, "--cluster", "stuck.toml")
    wait_until(lambda: is_training(saving, epochs=1))
    second = submitted(desk, training.name)
    wait_until(mark.exists)
    wait_until(lambda: is_training(training))
    nodes = ask("squeue", "--noheader", "--jobs", f"{first},{second}", "--sort=i", "--format=%N")
    assert nodes.split() == ["node[2-3]", "node[1-2]"]
    ask(SANDBOX, "kill-node", "2")
    try:
        before, half = sorted((saving / "checkpoints" / "member-0").iterdir())
        assert (before / "rank-0.json").is_file()
        assert not list(half.glob("*.json"))
        finished(saving, first, starts=2)
        finished(training, second, starts=2)
    finally:
        ask(SANDBOX, "start-node", "2")
    assert losses(saving) == losses(training) == undisturbed


def test_a_disk_that_fills_up_costs_checkpoints_and_nothing_else(
    slurm: None, desk: Path, undisturbed: dict[tuple[int, int], float]
) -> None:
    """One of a single page is put over the checkpoints, on the node of rank 0 alone."""
    run = desk / "runs" / "full"
    job = submitted(desk, run.name)
    wait_until(lambda: is_training(run, epochs=1))
    checkpoints = str(run / "checkpoints")
    ask(SANDBOX, "exec", "1", "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", checkpoints)
    try:
        finished(run, job, starts=1)
    finally:
        ask(SANDBOX, "exec", "1", "umount", "--lazy", checkpoints)
    assert losses(run) == undisturbed
    said = (run / "logs" / "rank-0.log").read_text()
    assert "could not be saved, and training goes on" in said
    assert "No space left on device" in said


def test_a_ctrl_c_leaves_the_job_and_a_cancelled_job_is_resumed(
    slurm: None, desk: Path, undisturbed: dict[tuple[int, int], float]
) -> None:
    run = desk / "runs" / "left"
    job = submitted(desk, "left")
    with following(desk, "left") as follower:
        wait_until(lambda: is_training(run))
        follower.send_signal(signal.SIGINT)
        said = follower.communicate(timeout=60)[0]
    assert follower.returncode == 130
    assert f"job {job} goes on" in said
    assert "RUNNING" in ask("squeue", "--noheader", "--jobs", job, "--format", "%T")
    assert f"left {job} running" in type_command(desk, "jobs").text
    assert type_command(desk, "cancel", "runs/left").code == 0
    wait_for(job)
    assert re.search(rf"left {job} cancelled", type_command(desk, "jobs").text)
    resumed = type_command(desk, "resume", "runs/left", "--follow")
    assert resumed.code == 0, resumed.text
    assert losses(run) == undisturbed
    assert len(starts_of(run)) == 2


def test_of_a_run_that_fails_the_first_process_is_shown(slurm: None, desk: Path) -> None:
    answer = failed(
        desk, "hopeless", "--set", "training.batch_size=2", "--set", "training.learning_rate=1e30"
    )
    assert re.search(r"rank \d on node\d failed", answer.text), answer.text
    assert "Traceback" not in answer.text
    assert "brainage resume runs/hopeless" in answer.text
    shown = type_command(desk, "logs", "runs/hopeless")
    assert "failed first" in shown.text
    assert len(starts_of(desk / "runs" / "hopeless")) == 1


def failed(desk: Path, name: str, *words: object) -> Answer:
    start = ("train", "--nodes", 2, "--cluster", "site.toml", "--name", name, "--follow")
    answer = type_command(desk, *start, *SETTINGS, *words)
    assert answer.code == 3, answer.text
    return answer


def test_the_sbatch_file_does_the_same_by_hand(
    slurm: None, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(desk)
    start = ("train", "--nodes", 2, "--cluster", "site.toml", "--name", "by hand", *SETTINGS, *FEW_SECONDS)
    assert type_command(desk, *start, "--dry-run").code == 0
    file = str(Path(SANDBOX).with_name("train.sbatch"))
    job = ask("sbatch", "--parsable", "--nodes=2", "--mem=2G", file, "runs/by hand").strip()
    finished(desk / "runs" / "by hand", job, starts=1)

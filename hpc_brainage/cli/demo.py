"""`brainage demo`: the main job from end to end, with no GPU, no SLURM and no data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("brainage-demo"),
) -> None:
    """Simulate a cohort, convert it, train on it and score it: the main job in a few minutes.

    The commands are the ones that you would type for your own data. Running it again goes on with what
    is there.
    """
    from hpc_brainage.cli.screen import say

    started = time.monotonic()
    cohort, store, scores = folder / "openbhb", folder / "openbhb.zarr", folder / "scores" / "demo"
    recipe = Path(__file__).parent / "demo.toml"
    connectomes = cohort / "connectomes.tsv"
    training_split = ("--where", "split == 'train'")  # the others are new to the model when it scores
    steps = (
        ["simulate", cohort],
        ["convert", cohort, store, "--add", f"fmri={connectomes}"],
        ["inspect", store],
        ["verify", store],
        ["train", store, "--config", recipe, *training_split, "--runs", folder / "runs", "--name", "demo"],
        ["score", store, "--model", folder / "runs" / "demo", "--out", scores],
    )
    for step in steps:
        words = [str(word) for word in step]
        say("")
        say("$ brainage " + " ".join(f'"{word}"' if " " in word else word for word in words))
        _call(words)
    say("")
    say(f"The whole path took {time.monotonic() - started:.0f} s. What it made:")
    for what, path in (
        ("cohort", cohort),
        ("store", store),
        ("model", folder / "runs" / "demo" / "model"),
        ("scores", scores.with_suffix(".tsv")),
    ):
        say(f"  {what:<7} {path}")
    say("The people are simulated: the numbers show that the path works, not how well it predicts.")


def _call(words: list[str]) -> None:
    """Run a verb as the command line would."""
    from typer.main import get_command

    from hpc_brainage.cli.main import app

    code = get_command(app).main(args=words, prog_name="brainage", standalone_mode=False)
    if code:
        raise typer.Exit(int(code))

"""`brainage simulate`: a cohort to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    folder: Annotated[Path, typer.Argument(help="Where the cohort goes.")] = Path("openbhb"),
    scans: Annotated[int, typer.Option(help="People, one scan each.")] = 240,
    volumes: Annotated[int, typer.Option(help="People with small volumes as well.")] = 12,
    seed: Annotated[int, typer.Option(help="Other seeds give other people.")] = 0,
) -> None:
    """Write a simulated cohort in OpenBHB's layout, with an fMRI side table.

    The ages, regions and connections are simulated with a known truth; they are no evidence about brains.
    """
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cohorts.simulation import simulate_openbhb

    made = simulate_openbhb(folder, scans=scans, seed=seed, volumes=volumes)
    say(f"{made.scans} simulated people, {made.with_fmri} with fMRI, {made.with_volumes} with volumes")
    say(f"cohort      {made.folder}")
    say(f"fMRI table  {made.connectomes}")

"""Flags of the commands that submit jobs: what a job asks for, above what the site's TOML says.

`hpc_brainage.cluster.resources.Flags` takes what was typed.
"""

from __future__ import annotations

from typing import Annotated

import typer

_JOBS = "What jobs ask of SLURM, above the site's TOML"

Partition = Annotated[
    str | None,
    typer.Option(metavar="NAME[,NAME]", help="Partition, or several of them.", rich_help_panel=_JOBS),
]
Account = Annotated[
    str | None, typer.Option(metavar="NAME", help="The account that pays.", rich_help_panel=_JOBS)
]
Qos = Annotated[str | None, typer.Option(metavar="NAME", help="Quality of service.", rich_help_panel=_JOBS)]
Time = Annotated[
    str | None,
    typer.Option(
        metavar="[D-]HH:MM:SS",
        help="Longest time of one start of a job, or whole minutes; a longer job goes on in another one.",
        rich_help_panel=_JOBS,
    ),
]

"""`brainage verify`: prove that a store holds what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpc_brainage.errors import ExitCode

_SHOWN = 20


def verify(
    store: Annotated[Path, typer.Argument(help="The store.")],
) -> None:
    """Read everything in a store and check it.

    Every scan's checksum, presence, shapes, identities, statistics and files: damage is named by scan
    and modality.
    """
    from hpc_brainage.cli.screen import progress, say, table
    from hpc_brainage.store.verify import verify as verify_store

    with progress("verifying") as show:
        damages = verify_store(store, progress=show)
    if not damages:
        say(f"{store}: every scan is as it was written")
        return
    table(
        f"damage: {len(damages)}",
        ("where", "what", "scans"),
        [
            (
                d.key,
                d.problem,
                ", ".join(d.scans[:3]) + (f", ... {len(d.scans)}" if len(d.scans) > 3 else ""),
            )
            for d in damages[:_SHOWN]
        ],
    )
    say("convert the cohort again with --overwrite")
    raise typer.Exit(int(ExitCode.INPUT))

"""`brainage verify`: prove that a store holds what was written, and what its source holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from hpc_brainage.cohorts.cohort import Cohort
    from hpc_brainage.store.verify import Damage

_SHOWN = 20


def verify(
    store: Annotated[str, typer.Argument(help="The store, a folder or the URL of an object store.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SOURCE",
            help="Compare with the source that the store was made of, too, read as it was then. For a "
            "store that was added to, repeat it in the order of the additions.",
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE[/NAME]=PATH", help="What was joined to that source. Repeatable."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="A TOML that says what to compare with and how to read it, as of convert."),
    ] = None,
) -> None:
    """Read everything in a store and check it.

    Every scan's checksum, presence, shapes, identities, statistics and files: damage is named by scan
    and modality. With --against or --recipe, every measurement and every cell of the table of people is
    compared with the source files as well.
    """
    from hpc_brainage.cli.screen import progress, say
    from hpc_brainage.store.verify import verify as verify_store

    if recipe is not None and (against or add):
        raise UsageError("a recipe holds the sources itself", where=f"--recipe {recipe}")
    if add and not against:
        raise UsageError("joined to what?", where=f"--add {add[0]}", expected="--against SOURCE as well")
    sources = _sources(store, against or [], add or [], recipe)
    with progress("verifying") as show:
        found = verify_store(store, progress=show)
    if not found:
        say(f"{store}: every scan is as it was written")
    _show(found, "damage")
    if sources:
        from hpc_brainage.conversion.against import compare
        from hpc_brainage.store.reader import Store

        with progress("comparing") as show:
            differences = compare(Store.open(store), sources, progress=show)
        if not differences:
            say(f"{store}: every scan is as it is in {', '.join(cohort.name for cohort in sources)}")
        _show(differences, "differences")
        found += differences
    if found:
        raise typer.Exit(int(ExitCode.INPUT))


def _sources(store: str, against: list[Path], add: list[str], recipe: Path | None) -> list[Cohort]:
    """What to compare with, opened before the long reading begins."""
    if recipe is None and not against:
        return []
    from hpc_brainage.cohorts.recipe import read_recipe
    from hpc_brainage.cohorts.sources import parse_added
    from hpc_brainage.conversion.against import open_again
    from hpc_brainage.store.reader import Store

    if recipe is not None:
        return [read_recipe(recipe).open()]
    return open_again(Store.open(store), against, [parse_added(text) for text in add])


def _show(found: list[Damage], what: str) -> None:
    from hpc_brainage.cli.screen import say, table

    if not found:
        return
    table(
        f"{what}: {len(found)}",
        ("where", "what", "scans"),
        [
            (
                d.key,
                d.problem,
                ", ".join(d.scans[:3]) + (f", ... {len(d.scans)}" if len(d.scans) > 3 else ""),
            )
            for d in found[:_SHOWN]
        ],
    )
    if len(found) > _SHOWN:
        say(f"  ... and {len(found) - _SHOWN} more")
    for to_do in dict.fromkeys(d.to_do for d in found):
        say(to_do)

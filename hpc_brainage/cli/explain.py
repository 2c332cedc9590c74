"""`brainage explain`: what a model has learned, and what drives its ages."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import UsageError

if TYPE_CHECKING:
    from hpc_brainage.evaluation.explain import Explained, Judged


def explain(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")] = Path("runs/latest"),
    store: Annotated[
        str | None,
        typer.Argument(help="Where the run's store lies now, if it was moved; known by its content."),
    ] = None,
    atlas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=IMAGE",
            help="An image of the regions of a modality's features, as in smri=aparc.nii.gz, with their"
            " names in a table beside it: importance is drawn on a brain. May be repeated.",
        ),
    ] = None,
    shuffles: Annotated[
        int, typer.Option(min=1, help="Probes fitted on shuffled people, to know the level of chance.")
    ] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Folder for what is found; by default explain/ in the run's.")
    ] = None,
) -> None:
    """Say what a model's codes know, what sex does in it, and which regions drive its ages.

    Nothing is trained. Every person is judged by the members that never saw them.
    """
    from hpc_brainage.cli.screen import notes, progress, say, table
    from hpc_brainage.evaluation.explain import explain as ask
    from hpc_brainage.evaluation.explain import judged_members
    from hpc_brainage.evaluation.explain_report import headlines, write_explanation

    judged = judged_members(run, store)
    atlases = _atlases(atlas or [], judged)
    with progress("explaining") as show:
        found = ask(judged, shuffles, show)
    folder = out or run / "explain"
    written = write_explanation(folder, judged, found)
    say(judged.heading)
    for part in headlines(found):
        first, *others = part.content.columns
        rows = part.content.itertuples(index=False, name=None)
        table(part.title, (first, *(f">{name}" for name in others)), rows)
    notes(found.notes)
    for path in written:
        say(f"report  {path}")
    for path in _pictures(folder, judged, found, atlases):
        say(f"figure  {path}")
    say(f"tables  {folder / 'tables'}")


def _atlases(given: list[str], judged: Judged) -> dict[str, Path]:
    """By role, an atlas that can be read; looked at now, and not after all has been computed."""
    from hpc_brainage.cohorts.atlas import Atlas

    found = {}
    for text in given:
        role, _, image = text.partition("=")
        if role not in judged.tables or not image:
            raise UsageError(
                "an atlas is for a modality whose features are regions",
                where=f"--atlas {text}",
                expected=" or ".join(f"{name}=IMAGE" for name in judged.tables) or "none: it takes volumes",
            )
        Atlas(Path(image))
        found[role] = Path(image)
    return found


def _pictures(folder: Path, judged: Judged, found: Explained, atlases: dict[str, Path]) -> list[Path]:
    """Bar charts and maps; of a volume also its maps as images, to be looked at in a viewer."""
    from hpc_brainage.files import write_bytes
    from hpc_brainage.reporting.brain_maps import importance_figures, voxel_map

    affines, drives = judged.affines, found.importance
    maps = {role: both for role, both in drives.maps.items() if role in affines}
    images = []
    for role, both in maps.items():
        for name, years in zip(("mean", "mean_abs"), both, strict=True):
            image = voxel_map(years, affines[role])
            images.append(folder / "maps" / f"{role}_{name}.nii.gz")
            write_bytes(images[-1], gzip.compress(image.to_bytes(), mtime=0))
    drawn = importance_figures(
        drives.regions, maps, folder / "figures", atlases=atlases, affines=dict(affines)
    )
    return [*images, *drawn]

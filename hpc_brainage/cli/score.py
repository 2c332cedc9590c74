"""`brainage score`: a model scores a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import ExitCode, ModelError

if TYPE_CHECKING:
    from hpc_brainage.scoring.runner import ScoringReport

_ROWS_SHOWN = 5
_BARELY = "model_barely_follows_age"
_COLUMNS_SHOWN = ("age", "sex", "status", "brain_age", "bag", "bag_corrected", "flags")


def score(
    store: Annotated[str, typer.Argument(help="The store to score.")],
    model: Annotated[Path, typer.Option(help="A run folder, or a model bundle.")] = Path("runs/latest"),
    out: Annotated[
        Path | None,
        typer.Option(help="Where the table goes, without suffix; by default scores/STORE_MODEL."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only these scans, as in \"dx != 'TC'\".")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; by default one for each core.")
    ] = None,
) -> None:
    """Score the scans of a store for the brain-age gap.

    Writes OUT.tsv, OUT.parquet and OUT.json. Every scan has a row, scored or not. People whom the model
    was trained on are scored by members that never saw them. Run again after an interruption, it
    goes on where it stopped.
    """
    from hpc_brainage.cli.screen import progress
    from hpc_brainage.model.bundle import read_info
    from hpc_brainage.scoring.runner import score_store
    from hpc_brainage.store.place import place_at

    bundle = _bundle(model)
    info = read_info(bundle)
    destination = out or Path("scores") / f"{place_at(store).name.removesuffix('.zarr')}_{info.name}"
    if destination.suffix in (".tsv", ".parquet", ".json"):
        destination = destination.with_suffix("")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with progress("scoring") as show:
        report = score_store(store, bundle, destination, where=where, workers=workers, progress=show)
    _show(report)
    if report.about["summary"]["status"].get("scored", 0) < len(report.table):
        raise typer.Exit(int(ExitCode.SCANS_REFUSED))


def _bundle(model: Path) -> Path:
    """The bundle itself, or the one in a run folder."""
    if (model / "model" / "model.json").is_file():
        return model / "model"
    if not model.exists():
        raise ModelError(
            "there is no model at this path",
            where=model,
            expected="a run folder of `brainage train`, or a bundle",
            hint="brainage score STORE --model runs/NAME",
        )
    return model


def _show(report: ScoringReport) -> None:
    from hpc_brainage.cli.screen import notes, say, table, years
    from hpc_brainage.scans import scan_names

    about, rows = report.about["summary"], report.table.head(_ROWS_SHOWN)
    shown = [
        (name, *(_cell(row[column]) for column in _COLUMNS_SHOWN))
        for name, (_, row) in zip(scan_names(rows), rows.iterrows(), strict=True)
    ]
    table(f"first {len(shown)} of {len(report.table)} rows", ("scan", *_COLUMNS_SHOWN), shown)
    notes(report.notes)
    status = ", ".join(f"{n} {name}" for name, n in about["status"].items())
    say(f"{len(report.table)} scans: {status}")
    if about["held_out"]:
        say(f"  · {about['held_out']} scans are of people in the model's training; each was scored by"
            " members that never saw them")  # fmt: skip
    notes(f"{n} not scored: {reason}" for reason, n in list(about["reasons"].items())[:_ROWS_SHOWN])
    flags = {flag: n for flag, n in about["flags"].items() if flag != _BARELY}
    notes(f"{n} {'scan' if n == 1 else 'scans'} flagged {flag}" for flag, n in flags.items())
    if "id_in_training" in about["flags"]:
        say(
            "  · id_in_training: an identifier of the training with another sex or age and other data."
            " Whoever it is, only members that never saw the identifier scored them"
        )
    if about["mean_gap"] is not None:
        say(
            f"raw gap: mean {about['mean_gap']:+.2f} y, SD {years(about['sd_gap'])} y,"
            f" mean absolute {years(about['mean_absolute_gap'])} y"
        )
    if about["mean_gap"] is not None and about["training_mean_gap"] is not None:
        say(f"  · of the training people, held out: mean {about['training_mean_gap']:+.2f} y")
    if about["mean_corrected_gap"] is not None:
        mean, sd = about["mean_corrected_gap"], about["sd_corrected_gap"]
        say(f"corrected gap: mean {mean:+.2f} y, SD {years(sd)} y (without the model's own trend in age)")
    if barely := about["flags"].get(_BARELY):
        say(
            f"WARNING: for {barely} of {about['status'].get('scored', 0)} scored scans the model barely"
            f" follows age ({_BARELY}); do not use their brain ages"
        )
    for kind, path in report.paths.items():
        say(f"{kind:<8} {path}")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.2f}"
    return str(value)

"""`brainage convert`: a cohort on disk becomes a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from hpc_brainage.cohorts.recipe import Recipe
    from hpc_brainage.conversion.convert import ConversionReport

_REFUSALS_SHOWN = 8
_PEOPLE = "Which column is what"


def convert(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="An OpenBHB folder, BIDS derivatives, a FreeSurfer or CAT12 folder, a table, an .npz, "
            "images, or ROI time series."
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Argument(help="Where the store goes; by default NAME.zarr in this folder.")
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE[/NAME]=PATH",
            help="Join a further source by participant (and session); ROLE is smri or fmri. Repeatable.",
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only these scans, as in \"dx == 'TC' and age >= 18\".")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A TOML that holds all of this instead of the command line.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="Participant.", rich_help_panel=_PEOPLE)] = None,
    session: Annotated[str | None, typer.Option(help="Session.", rich_help_panel=_PEOPLE)] = None,
    run: Annotated[str | None, typer.Option(help="Run.", rich_help_panel=_PEOPLE)] = None,
    age: Annotated[str | None, typer.Option(help="Age at the scan.", rich_help_panel=_PEOPLE)] = None,
    age_unit: Annotated[
        str | None,
        typer.Option(
            help="years or months; by default what the JSON beside the table says, else years.",
            rich_help_panel=_PEOPLE,
        ),
    ] = None,
    sex: Annotated[str | None, typer.Option(help="Sex.", rich_help_panel=_PEOPLE)] = None,
    sex_codes: Annotated[
        str | None,
        typer.Option(
            metavar="1=M,2=F", help="What the codes of the sex column mean.", rich_help_panel=_PEOPLE
        ),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Site or scanner.", rich_help_panel=_PEOPLE)] = None,
    split: Annotated[
        str | None, typer.Option(help="The cohort's own split.", rich_help_panel=_PEOPLE)
    ] = None,
    diagnosis: Annotated[str | None, typer.Option(help="Diagnosis.", rich_help_panel=_PEOPLE)] = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="GLOBS", help="Which columns are measurements, as in 'lh_*,rh_*'."),
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="Role of SOURCE's own measurements: smri or fmri.")
    ] = None,
    connectivity: Annotated[
        str,
        typer.Option(
            help="How ROI time series become edges: pearson, partial or tangent (whose reference is fitted "
            "on all scans, so that it only meets models of the same reference)."
        ),
    ] = "pearson",
    entities: Annotated[
        str | None,
        typer.Option(
            metavar="ENTITY=VALUE,...",
            help="Which files of BIDS derivatives, as in space=MNI152NLin2009cAsym,desc=preproc.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that is there.")] = False,
) -> None:
    """Convert a cohort into a chunked, verified Zarr store.

    The layout of SOURCE is recognised. Every scan is accounted for: what cannot be taken is listed with
    the reason, on the screen and in NAME.account.tsv beside the store. Run again after an interruption,
    it goes on where it stopped.
    """
    from hpc_brainage.cli.screen import progress, say
    from hpc_brainage.cohorts.recipe import read_recipe
    from hpc_brainage.conversion.convert import convert as convert_cohort

    if recipe is not None:
        if source is not None or add:
            raise UsageError("a recipe holds the sources itself", where=f"--recipe {recipe}")
        plan = read_recipe(recipe)
    else:
        if source is None:
            raise UsageError(
                "nothing to convert", expected="brainage convert SOURCE, or --recipe cohort.toml"
            )
        columns = {
            "id": id, "session": session, "run": run, "age": age, "sex": sex,
            "site": site, "split": split, "diagnosis": diagnosis,
        }  # fmt: skip
        plan = _plan(source, columns, age_unit, sex_codes, add or [], features, where, connectivity, role)
        plan = replace(plan, entities=entities)
    cohort = plan.open()
    destination = store or plan.output or Path(f"{cohort.name}.zarr")
    say(f"{cohort.name}: {len(cohort)} scans -> {destination}")
    with progress("converting") as show:
        report = convert_cohort(cohort, destination, overwrite=overwrite, progress=show)
    _show(report, list(cohort.sources))
    if report.refused:
        raise typer.Exit(int(ExitCode.SCANS_REFUSED))


def _plan(
    source: Path,
    columns: dict[str, str | None],
    age_unit: str | None,
    sex_codes: str | None,
    add: list[str],
    features: str | None,
    where: str | None,
    connectivity: str,
    role: str | None,
) -> Recipe:
    from hpc_brainage.cohorts.columns import ColumnMap
    from hpc_brainage.cohorts.recipe import Recipe
    from hpc_brainage.cohorts.sources import parse_added

    if age_unit not in (None, "years", "months"):
        raise UsageError("unknown unit of age", where=f"--age-unit {age_unit}", expected="years or months")
    if connectivity not in ("pearson", "partial", "tangent"):
        raise UsageError(
            "unknown connectivity",
            where=f"--connectivity {connectivity}",
            expected="pearson, partial or tangent",
        )
    return Recipe(
        source,
        columns=ColumnMap(**columns, age_unit=age_unit, sex_codes=_codes(sex_codes)),  # type: ignore[arg-type]
        add=tuple(parse_added(text) for text in add),
        features=features,
        where=where,
        connectivity=connectivity,  # type: ignore[arg-type]
        role=role,
    )


def _codes(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    if any(not equals or sex.strip().upper() not in ("F", "M", "U") for _, equals, sex in pairs):
        raise UsageError(
            "the sex codes are not understood", where=f"--sex-codes {text}", expected="as in 1=M,2=F"
        )
    return {code.strip(): sex.strip().upper() for code, _, sex in pairs}


def _show(report: ConversionReport, modalities: list[str]) -> None:
    """The account: where every row of every source went."""
    from hpc_brainage.cli.screen import notes, say, table

    account = report.account
    table(
        "sources",
        ("source", ">rows", ">matched", ">only here", ">scans without", ">unmeasured"),
        [
            (s.source, s.rows, s.matched, len(s.only_here), s.without, len(s.unmeasured))
            for s in account.sources
        ],
    )
    notes(account.notes)
    if report.refused:
        table(
            f"refused: {len(report.refused)}",
            ("scan", "source", "reason"),
            [(r.scan, r.source, r.reason) for r in report.refused[:_REFUSALS_SHOWN]],
        )
        if len(report.refused) > _REFUSALS_SHOWN:
            say(f"  ... and {len(report.refused) - _REFUSALS_SHOWN} more: see {report.account_path}")
    if report.nothing_to_do:
        say("everything had been converted before; nothing was left to do")
        if report.refused_on_loading:
            say(
                f"refused at that time: {report.refused_on_loading}; --overwrite converts everything anew, "
                "once those files are mended"
            )
    without = f", {report.missing} without any measurement" if report.missing else ""
    say(f"{report.converted} scans converted{without}, in {report.seconds:.1f} s")
    say(f"store    {report.store_path}  ({', '.join(modalities)})")
    say(f"account  {report.account_path}")

"""`brainage convert`: a cohort on disk becomes a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpc_brainage.cli.job_flags import Account, Partition, Qos, Time
from hpc_brainage.errors import UsageError

if TYPE_CHECKING:
    from hpc_brainage.cohorts.reading import Reading

_PEOPLE = "Which column is what"
_IMAGES = "How images are kept"
_SHARED = "Sharing the work"


def convert(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            help="An OpenBHB folder, BIDS derivatives, a FreeSurfer or CAT12 folder, a table, an .npz, "
            "images, or ROI time series."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Argument(
            help="Where the store goes, a folder or the URL of an object store (s3://bucket/NAME.zarr); "
            "by default NAME.zarr in this folder."
        ),
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
    participant_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL[,...]", help="Only these participants, with or without sub-. Repeatable."
        ),
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
    atlas: Annotated[
        Path | None,
        typer.Option(
            metavar="LABELS.nii.gz",
            help="Make ROI time series of the BOLD series of BIDS derivatives with this atlas; a table "
            "(index, name) of the same name beside it names its regions.",
        ),
    ] = None,
    confounds: Annotated[
        str,
        typer.Option(
            help="How those series are cleaned: simple (24 motion, white matter, CSF, high pass), "
            "scrubbing (the same, without volumes of strong motion), compcor, ica_aroma, or none."
        ),
    ] = "simple",
    voxels: Annotated[
        str,
        typer.Option(
            help="native keeps voxels that are integers in all images as they are; float32 always widens.",
            rich_help_panel=_IMAGES,
        ),
    ] = "native",
    resample: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Bring images of other grids onto that of this image (or of mni152-1mm, mni152-2mm). It "
            "registers nothing: all must lie in the space of the template.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(
            help="Of the images of a new store: lz4 (fast), zstd (smaller) or none (for very fast disks).",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a store that is there; with --append, give up an addition that was interrupted.",
        ),
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add the scans that a finished store does not have yet.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; by default one for each core if there are images.",
            rich_help_panel=_SHARED,
        ),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Only plan, and take the destination.", rich_help_panel=_SHARED)
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only the I-th of N shares of the work (1/N to N/N); each may run anywhere, at any time.",
            rich_help_panel=_SHARED,
        ),
    ] = None,
    finalise: Annotated[
        bool,
        typer.Option("--finalise", help="Only finish, once all shares are done.", rich_help_panel=_SHARED),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Submit the shares as jobs: slurm, or your site's TOML (configs/cluster/example.toml).",
            rich_help_panel=_SHARED,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs that are submitted; by default up to 32.", rich_help_panel=_SHARED),
    ] = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    time: Time = None,
) -> None:
    """Convert a cohort into a chunked, verified Zarr store.

    The layout of SOURCE is recognised. Every scan is accounted for: what cannot be taken is listed with
    the reason, on the screen and in NAME.account.tsv beside the store. Run again after an interruption,
    it goes on where it stopped; the same command in several terminals or jobs, with --part, shares the
    work.
    """
    from hpc_brainage.cli.conversion import Way, carry_out
    from hpc_brainage.cluster.resources import Flags
    from hpc_brainage.cohorts.reading import Reading
    from hpc_brainage.cohorts.recipe import Recipe, read_recipe
    from hpc_brainage.cohorts.sources import parse_added

    way = Way.of(
        compression=compression, workers=workers, overwrite=overwrite, append=append,
        init=init, part=part, finalise=finalise, cluster=cluster, jobs=jobs,
        flags=Flags(partition, account, qos, time),
    )  # fmt: skip
    columns = {
        "id": id, "session": session, "run": run, "age": age, "sex": sex,
        "site": site, "split": split, "diagnosis": diagnosis,
    }  # fmt: skip
    reading = _reading(
        columns, age_unit, sex_codes, participant_label,
        features=features, connectivity=connectivity, role=role, entities=entities,
        atlas=atlas, confounds=confounds, voxels=voxels, resample=resample,
    )  # fmt: skip
    if recipe is not None:
        if source is not None or add:
            raise UsageError("a recipe holds the sources itself", where=f"--recipe {recipe}")
        if where is not None or reading != Reading():
            raise UsageError(
                "a recipe says itself how and which scans are read",
                where=f"--recipe {recipe}",
                hint="write the same words there, as in participant_label = '01'",
            )
        plan = read_recipe(recipe)
    else:
        if source is None:
            raise UsageError(
                "nothing to convert", expected="brainage convert SOURCE, or --recipe cohort.toml"
            )
        plan = Recipe(source, reading=reading, add=tuple(map(parse_added, add or [])), where=where)
    carry_out(plan, store, way, context)


def _reading(
    columns: dict[str, str | None],
    age_unit: str | None,
    sex_codes: str | None,
    participant_label: list[str] | None,
    **said: Any,
) -> Reading:
    """How the sources are read, from the words of the command line."""
    from hpc_brainage.cohorts.chosen_participants import participant_labels
    from hpc_brainage.cohorts.columns import ColumnMap
    from hpc_brainage.cohorts.reading import Reading

    if age_unit not in (None, "years", "months"):
        raise UsageError("unknown unit of age", where=f"--age-unit {age_unit}", expected="years or months")
    return Reading(
        ColumnMap(**columns, age_unit=age_unit, sex_codes=_codes(sex_codes)),  # type: ignore[arg-type]
        participants=participant_labels(participant_label),
        **said,
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

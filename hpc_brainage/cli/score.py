"""`brainage score`: a model scores a store."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_brainage.cli.job_flags import Account, Partition, Qos, Time
from hpc_brainage.errors import ExitCode, ModelError

if TYPE_CHECKING:
    import pandas as pd

    from hpc_brainage.scoring.runner import ScoringReport

_SHARED = "Sharing the work"
_GAPS = "What becomes of the gap"
_INSIDE = "Looking into the model"
_ROWS_SHOWN = 5
_FEATURES_SHOWN = 3
_BARELY = "model_barely_follows_age"
_NO_BETTER = "model_no_better_than_mean"
_COLUMNS_SHOWN = ("age", "sex", "status", "brain_age", "bag", "bag_corrected", "flags")


class Bias(StrEnum):
    """Corrections of the gap's trend in age."""

    beheshti = "beheshti"
    cole = "cole"
    none = "none"


def score(
    store: Annotated[str, typer.Argument(help="The store to score.")],
    model: Annotated[Path, typer.Option(help="A run folder, or a model bundle.")] = Path("runs/latest"),
    out: Annotated[
        Path | None,
        typer.Option(help="Where the table goes, without suffix; by default scores/STORE_MODEL."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Only these scans, as in \"dx != 'TC'\".")] = None,
    accept_implausible: Annotated[
        bool,
        typer.Option(
            "--accept-implausible", help="Write a table that makes no sense as a whole all the same."
        ),
    ] = False,
    bias: Annotated[
        Bias,
        typer.Option(
            help="How bag_corrected is made: beheshti takes the gap's trend in age out, cole divides by"
            " its slope as well.",
            rich_help_panel=_GAPS,
        ),
    ] = Bias.beheshti,
    fit_bias_on_cohort: Annotated[
        bool,
        typer.Option(
            "--fit-bias-on-cohort",
            help="Fit the trend on the scored scans, not on the model's own; every row says so.",
            rich_help_panel=_GAPS,
        ),
    ] = False,
    controls: Annotated[
        str | None,
        typer.Option(
            help="With --fit-bias-on-cohort: on these of them, as in \"dx == 'TC'\".",
            rich_help_panel=_GAPS,
        ),
    ] = None,
    site_calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="SCORES",
            help="A score table of controls of the same, unseen sites, by this model: other people, at"
            " least 20 of a site.",
            rich_help_panel=_GAPS,
        ),
    ] = None,
    codes: Annotated[
        bool,
        typer.Option("--codes", help="Write the codes to OUT_codes.parquet.", rich_help_panel=_INSIDE),
    ] = False,
    contributions: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Write what each feature adds, in years, by the groups of this column, to"
            " OUT_contributions.tsv.",
            rich_help_panel=_INSIDE,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Go on where an interrupted run stopped, or begin anew, also in the place of a table of"
            " another model, store or selection.",
        ),
    ] = True,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Who scores: local, slurm, or your site's TOML (configs/cluster/example.toml).",
            rich_help_panel=_SHARED,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers: processes of this machine, by default one for each GPU or core; or jobs.",
            rich_help_panel=_SHARED,
        ),
    ] = None,
    min_workers: Annotated[
        int | None,
        typer.Option(min=0, help="Jobs that stay, with --max-workers.", rich_help_panel=_SHARED),
    ] = None,
    max_workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="As many jobs as there is work for, but no more.", rich_help_panel=_SHARED
        ),
    ] = None,
    gpus_per_worker: Annotated[
        int | None,
        typer.Option(min=0, help="GPUs of each worker; 0 for none.", rich_help_panel=_SHARED),
    ] = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    time: Time = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Dask scheduler of your own that runs already, with its workers.",
            rich_help_panel=_SHARED,
        ),
    ] = None,
    dashboard: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where Dask's dashboard listens, if bokeh is installed; by default a free port, for this"
            " machine alone.",
            rich_help_panel=_SHARED,
        ),
    ] = None,
) -> None:
    """Score the scans of a store for the brain-age gap.

    Writes OUT.tsv, OUT.parquet and OUT.json. Every scan has a row, scored or not. People whom the model
    was trained on are scored by members that never saw them. Run again after an interruption, it
    goes on where it stopped. A finished table of another model, store or selection is not replaced unasked.
    """
    from hpc_brainage.cli.screen import progress, say
    from hpc_brainage.cli.signals import like_ctrl_c
    from hpc_brainage.cluster.resources import Flags
    from hpc_brainage.model.bundle import read_info
    from hpc_brainage.scoring.fleet import Fleet
    from hpc_brainage.scoring.further import Further
    from hpc_brainage.scoring.runner import score_store
    from hpc_brainage.scoring.saved import read_scores
    from hpc_brainage.scoring.whole_table import WholeTable
    from hpc_brainage.store.place import place_at

    fleet = Fleet.of(
        cluster, scheduler, workers=workers, least=min_workers, most=max_workers, gpus=gpus_per_worker,
        dashboard=dashboard, flags=Flags(partition, account, qos, time),
    )  # fmt: skip
    local = None if site_calibration is None else read_scores(site_calibration)
    whole = WholeTable(bias.value, fit_bias_on_cohort, controls, local)
    bundle = _bundle(model)
    info = read_info(bundle)
    destination = out or Path("scores") / f"{place_at(store).name.removesuffix('.zarr')}_{info.name}"
    if destination.suffix in (".tsv", ".parquet", ".json"):
        destination = destination.with_suffix("")
    with like_ctrl_c(), progress("scoring") as show:
        report = score_store(
            store, bundle, destination, where=where, fleet=fleet, resume=resume, progress=show,
            accept_implausible=accept_implausible, whole=whole, further=Further(codes, contributions),
            watched_at=lambda link: say(f"the workers can be watched at {link}"),
        )  # fmt: skip
    _show(report, store)
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


def _show(report: ScoringReport, store: str) -> None:
    from hpc_brainage.cli.screen import notes, per_second, say, table, years
    from hpc_brainage.numerals import many
    from hpc_brainage.scans import scan_names

    about, rows = report.about["summary"], report.table.head(_ROWS_SHOWN)
    shown = [
        (name, *(_cell(row[column]) for column in _COLUMNS_SHOWN))
        for name, (_, row) in zip(scan_names(rows), rows.iterrows(), strict=True)
    ]
    table(f"first {len(shown)} of {many(len(report.table), 'row')}", ("scan", *_COLUMNS_SHOWN), shown)
    notes(report.notes)
    status = ", ".join(f"{n} {name}" for name, n in about["status"].items())
    say(f"{many(len(report.table), 'scan')}: {status}")
    if (fresh := len(report.table) - report.kept) and report.seconds:
        rate = per_second(fresh / report.seconds)
        say(f"  · {fresh} of them scored now, in {report.seconds:.1f} s ({rate} a second)")
    if report.kept:
        say(f"  · {report.kept} of them kept from the run that was interrupted")
    if known := about["in_training"]:
        are_of = "is of somebody" if known == 1 else "are of people"
        say(f"  · {many(known, 'scan')} {are_of} in the model's training; each was scored by"
            " members that never saw them")  # fmt: skip
    notes(f"{n} not scored: {reason}" for reason, n in list(about["reasons"].items())[:_ROWS_SHOWN])
    if about["status"].get("failed"):
        say(f"  · `brainage verify {store}` says whether the store is damaged, and for which scans")
    flags = {flag: n for flag, n in about["flags"].items() if flag not in (_BARELY, _NO_BETTER)}
    notes(f"{many(n, 'scan')} flagged {flag}" for flag, n in flags.items())
    if "id_in_training" in about["flags"]:
        say(
            "  · id_in_training: an identifier of the training with another sex or age and other data."
            " Whoever it is, only members that never saw the identifier scored them"
        )
    if about["mean_gap"] is not None:
        say(
            f"raw gap: mean {years(about['mean_gap'], sign=True)} y{_sd(about['sd_gap'])},"
            f" mean absolute {years(about['mean_absolute_gap'])} y"
        )
    if about["mean_gap"] is not None and about["training_mean_gap"] is not None:
        expected = years(about["training_mean_gap"], sign=True)
        say(f"  · of held-out training people of these ages and modalities: mean {expected} y")
    if about["mean_corrected_gap"] is not None:
        mean, sd = years(about["mean_corrected_gap"], sign=True), _sd(about["sd_corrected_gap"])
        say(f"corrected gap: mean {mean} y{sd} (without the model's own trend in age)")
    if barely := about["flags"].get(_BARELY):
        say(
            f"WARNING: for {barely} of {about['status'].get('scored', 0)} scored scans the model barely"
            f" follows age ({_BARELY}); do not use their brain ages"
        )
    if about["flags"].get(_NO_BETTER):
        say(
            f"WARNING: on held-out people of its training this model is not told apart from a constant age"
            f" ({_NO_BETTER}); do not use its brain ages"
        )
    _show_accuracy(report.table)
    if "contributions" in report.paths:
        _show_contributions(report.paths["tsv"].with_suffix(""))
    for kind, path in report.paths.items():
        say(f"{kind:<8} {path}")


def _sd(of_gap: float | None) -> str:
    """The standard deviation, which one scan has none of."""
    from hpc_brainage.cli.screen import years

    return "" if of_gap is None else f", SD {years(of_gap)} y"


def _show_accuracy(table: pd.DataFrame) -> None:
    """What the report says of the errors beside the people's own mean age, and of their intervals."""
    from hpc_brainage.cli.screen import say
    from hpc_brainage.evaluation.checks import NO
    from hpc_brainage.evaluation.judged import judged
    from hpc_brainage.evaluation.scored_coverage import FEWEST, coverage, of_whom
    from hpc_brainage.evaluation.usability import better_than_the_mean

    of = judged(table)
    if len(of.people) < FEWEST:
        return
    check = better_than_the_mean(of.people, of.who)
    say(f"WARNING: {check.finding}" if check.judgement == NO else check.finding)
    for held in coverage({of.who: of.people}).to_dict("records"):
        say(f"90 % intervals hold the age of {held['coverage']:.1%} of {of_whom(held)}, {of.who}")


def _show_contributions(out: Path) -> None:
    """Of each group, the features that add most to the ages of its people or take most from them."""
    from hpc_brainage.cli.screen import table, years
    from hpc_brainage.scoring.saved import read_contributions

    found = read_contributions(out)
    assert found is not None
    rows = []
    for (group, role), own in found.groupby(["group", "role"], sort=False):
        most = own.head(_FEATURES_SHOWN)
        sizes = (most[f"mean_{kind}contribution_years"] for kind in ("absolute_", ""))
        each = zip(most["feature"], *sizes, strict=True)
        said = [f"{name} {years(size)} ({years(mean, sign=True)})" for name, size, mean in each]
        rows.append((group, role, own["n"].iat[0], ", ".join(said)))
    title = "what drives the ages most: mean size of what a feature adds, and mean with its sign, years"
    table(title, ("group", "modality", ">scans", "features"), rows)


def _cell(value: object) -> str:
    from hpc_brainage.cli.screen import years

    if isinstance(value, float):
        return "" if value != value else years(value)
    return str(value)

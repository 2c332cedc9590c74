"""How `brainage convert` does its work: all of it or a share, and what it says afterwards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import typer

from hpc_brainage.cluster.resources import NO_FLAGS, Flags
from hpc_brainage.errors import ExitCode, UsageError, nearest

if TYPE_CHECKING:
    from hpc_brainage.cluster.resources import Resources
    from hpc_brainage.cohorts.cohort import Cohort
    from hpc_brainage.cohorts.recipe import Recipe
    from hpc_brainage.conversion.convert import ConversionReport
    from hpc_brainage.store.place import Place
    from hpc_brainage.store.schema import Compression

_REFUSALS_SHOWN = 8


@dataclass(frozen=True)
class Way:
    """How the work is done.

    Parameters
    ----------
    step : "all" of it, or only "init", "part" or "finalise".
    share : of a part: which, of how many.
    cluster, jobs, flags : whom to submit all of it to, as how many jobs, and what each asks for.
    """

    compression: Compression
    workers: int | None
    overwrite: bool
    append: bool
    step: str
    share: tuple[int, int] = (1, 1)
    cluster: str | None = None
    jobs: int | None = None
    flags: Flags = NO_FLAGS

    @classmethod
    def of(
        cls,
        *,
        compression: str | None,
        workers: int | None,
        overwrite: bool,
        append: bool,
        init: bool,
        part: str | None,
        finalise: bool,
        cluster: str | None,
        jobs: int | None,
        flags: Flags,
    ) -> Way:
        """From the words of the command line.

        Raises
        ------
        UsageError : a word is not understood, or two of them contradict each other.
        """
        from hpc_brainage.store.schema import COMPRESSIONS

        if compression is not None and compression not in COMPRESSIONS:
            raise UsageError(
                "unknown compression",
                where=f"--compression {compression}",
                hint=nearest(compression, COMPRESSIONS),
            )
        if compression is not None and append:
            raise UsageError(
                "what is added is packed as the store is", where=f"--append --compression {compression}"
            )
        steps = [name for name, said in (("init", init), ("part", part), ("finalise", finalise)) if said]
        if len(steps) > 1:
            raise UsageError("one step at a time", where=" ".join(f"--{step}" for step in steps))
        if append and steps:
            raise UsageError("--append adds to a finished store, in one go", where=f"--append --{steps[0]}")
        if overwrite and steps not in ([], ["init"]):
            raise UsageError(
                "each share would throw away what the others have done",
                where=f"--overwrite --{steps[0]}",
                hint="give --overwrite to --init, before the shares begin",
            )
        if cluster is not None and (steps or append):
            other = f"--{steps[0]}" if steps else "--append"
            raise UsageError("jobs are submitted for all of the work", where=f"--cluster {cluster} {other}")
        if jobs is not None and cluster is None:
            raise UsageError(
                "jobs of what cluster?", where=f"--jobs {jobs}", expected="--cluster slurm as well"
            )
        if cluster is None:
            flags.refuse_without_jobs()
        share = (1, 1) if part is None else _share(part)
        return cls(
            cast("Compression", compression or "lz4"),
            workers,
            overwrite,
            append,
            steps[0] if steps else "all",
            share,
            cluster,
            jobs,
            flags,
        )


def carry_out(plan: Recipe, store: str | None, way: Way, context: typer.Context) -> None:
    """Convert what the recipe describes, and show the account; or submit that as jobs."""
    from hpc_brainage.cli.screen import say
    from hpc_brainage.conversion.memory import keep_freed_memory
    from hpc_brainage.store.place import place_at

    keep_freed_memory()
    resources = None
    if way.cluster is not None:
        from hpc_brainage.cli.submission import site

        resources = site(way.cluster, way.flags)
    cohort = plan.open()
    destination = place_at(store or plan.output or f"{cohort.name}.zarr")
    say(f"{cohort.name}: {len(cohort)} scans -> {destination.label}")
    if resources is not None:
        _all_of_the_work_elsewhere(cohort, destination, way, resources, context)
    elif way.step in ("init", "part"):
        _share_of_the_work(cohort, destination, way)
    else:
        _all_of_the_work(cohort, destination, way)


def _all_of_the_work_elsewhere(
    cohort: Cohort, destination: Place, way: Way, resources: Resources, context: typer.Context
) -> None:
    from hpc_brainage.cli.submission import submit_conversion, words_of
    from hpc_brainage.conversion.convert import init

    build = init(cohort, destination, overwrite=way.overwrite, compression=way.compression)
    submit_conversion(build, words_of(context), resources, jobs=way.jobs, workers=way.workers)


def _all_of_the_work(cohort: Cohort, destination: Place, way: Way) -> None:
    from hpc_brainage.cli.screen import progress
    from hpc_brainage.conversion.append import append
    from hpc_brainage.conversion.convert import convert

    with progress("converting") as show:
        if way.append:
            report = append(
                cohort, destination, overwrite=way.overwrite, workers=way.workers, progress=show
            )
        else:
            report = convert(
                cohort,
                destination,
                overwrite=way.overwrite,
                compression=way.compression,
                workers=way.workers,
                only_finish=way.step == "finalise",
                progress=show,
            )
    _show(report)
    if report.refused:
        raise typer.Exit(int(ExitCode.SCANS_REFUSED))


def _share_of_the_work(cohort: Cohort, destination: Place, way: Way) -> None:
    from hpc_brainage.cli.screen import progress, say
    from hpc_brainage.conversion.convert import init
    from hpc_brainage.conversion.parts import share, write_parts

    build = init(cohort, destination, overwrite=way.overwrite, compression=way.compression)
    parts = len(build.plan.parts)
    if way.step == "init":
        say(f"planned: {parts} parts of up to {build.plan.part_scans} scans")
        say("next: the same command with --part I/N in place of --init, for every I, and then --finalise")
        return
    indices = share(parts, *way.share)
    number, of = way.share
    if not indices:
        say(f"share {number} of {of} is empty: there are fewer parts ({parts}) than shares")
        return
    with progress(f"converting {number}/{of}") as show:
        before = write_parts(cohort, build, indices, workers=way.workers, progress=show)
    done = f", {before} of them before" if before else ""
    say(f"share {number} of {of}: parts {indices[0] + 1} to {indices[-1] + 1} of {parts} are done{done}")


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(
            "the share is not understood",
            where=f"--part {text}",
            expected="I/N with I from 1 to N, as in 3/8",
        )
    return int(found[1]), int(found[2])


def _show(report: ConversionReport) -> None:
    """The account: where every row of every source went."""
    from hpc_brainage.cli.screen import account_notes, say, table

    account = report.account
    table(
        "sources",
        ("source", ">rows", ">matched", ">only here", ">scans without", ">unmeasured"),
        [
            (s.source, s.rows, s.matched, len(s.only_here), s.without, len(s.unmeasured))
            for s in account.sources
        ],
    )
    account_notes(account.notes)
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
    elif report.skipped:
        say(f"{report.skipped} scans skipped, which had been converted before")
    without = f", {report.missing} without any measurement" if report.missing else ""
    say(f"{report.converted} scans in the store{without}; this took {report.seconds:.1f} s")
    say(f"store    {report.store_path}  ({', '.join(report.modalities)})")
    say(f"account  {report.account_path}")

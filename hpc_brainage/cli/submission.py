"""`brainage convert --cluster`: the shares of the work become a job array, which one more job finishes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hpc_brainage.cluster.fits import check_conversion_fits
from hpc_brainage.cluster.resources import Flags, Resources, read_resources
from hpc_brainage.cluster.slurm import read_partitions, require_slurm

if TYPE_CHECKING:
    from hpc_brainage.store.building import Build

_NAME = "brainage-convert"
"""Of the jobs, as `squeue` shows it."""
_MOST_JOBS = 32
_PARTS_PER_JOB = 4
"""Opening a large cohort takes as long as some parts do: with fewer parts, a job would mostly open it."""
_OPTIONS = ("cluster", "jobs", "partition", "account", "qos", "time", "overwrite", "workers")
"""What the submitting command says differently to its jobs, or keeps for itself."""


def site(cluster: str, flags: Flags) -> Resources:
    """What jobs shall ask of the cluster, once it is known that there is one and that it has that.

    Raises
    ------
    UsageError : the site's TOML is not there, it or a flag is not understood, or they ask for what the
        cluster does not have.
    EnvironmentLacks : there is no SLURM on this machine.
    """
    resources = flags.over(read_resources(cluster))
    require_slurm(
        "leave --cluster away to convert on this machine; or share the work with others that see the same "
        "files: the same command with --part 1/8 to --part 8/8, anywhere, and then without"
    )
    if there := read_partitions():  # else SLURM does not answer, which sbatch says itself
        check_conversion_fits(resources, there)
    return resources


def words_of(context: typer.Context) -> list[str]:
    """The command that the user typed, without what concerns the submission.

    Paths stay as they were typed, since jobs run in the same folder: the store is then exactly the one
    that the same command makes here.
    """
    options, arguments = [str(context.info_name)], ["--"]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name in _OPTIONS or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                options += [parameter.opts[0], str(one)]
    return options + (arguments if len(arguments) > 1 else [])


def submit_conversion(
    build: Build, words: Sequence[str], resources: Resources, *, jobs: int | None, workers: int | None
) -> None:
    """Submit what is left of a conversion that has been planned, and say how to follow it.

    Parameters
    ----------
    words : of the command, see `words_of`.
    jobs : of the array; by default one for every four parts, at most 32. Never more than parts.
    workers : threads of each job; by default its cores.
    """
    from hpc_brainage.cli.screen import say
    from hpc_brainage.cluster.array import submit
    from hpc_brainage.cluster.code import room_for_a_job
    from hpc_brainage.store.place import is_url

    if build.finished:
        say("everything had been converted before; nothing was submitted")
        return
    parts = len(build.plan.parts)
    shares = min(parts, jobs or min(_MOST_JOBS, -(-parts // _PARTS_PER_JOB)))
    verb, *rest = words
    command = [verb, f"--workers={workers or resources.cpus}"]
    elements = [[*command, f"--part={share}/{shares}", *rest] for share in range(1, shares + 1)]
    name = f"{build.place.name}.jobs"
    logs = Path.cwd() / name if is_url(build.place.label) else Path(build.place.beside(name))
    folder = logs / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    try:
        with room_for_a_job(logs):
            submission = submit(elements if shares > 1 else [], [*command, *rest], resources, folder, _NAME)
    except KeyboardInterrupt:
        say(f"SLURM may have taken jobs of this conversion: squeue --me -n {_NAME}; logs {folder}")
        raise
    if submission.array is None:
        say(f"submitted: job {submission.last} converts everything and finishes the store")
    else:
        say(f"submitted: array {submission.array} of {shares} jobs converts {parts} parts")
        say(f"           job {submission.last} then does what they left, if any, and finishes the store")
    say(f"watch      squeue -j {submission.ids}")
    say(f"logs       {submission.folder}")
    say("at any time, the same command without --cluster and --overwrite does here what is left")

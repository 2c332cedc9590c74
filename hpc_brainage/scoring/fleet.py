"""Who scores a store: processes of this machine, jobs of SLURM, or the workers of a scheduler that runs."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_brainage.cluster.resources import NO_FLAGS, Flags, Resources, read_resources
from hpc_brainage.errors import UsageError

LOCAL = "local"


@dataclass(frozen=True)
class Fleet:
    """The workers that are asked for.

    Attributes
    ----------
    resources : of jobs of SLURM; None where none are to be submitted.
    scheduler : address of a Dask scheduler that runs already, with workers of its own.
    workers : how many; by default one for each GPU or core of this machine, or one job.
    least, most : bounds of a number of jobs that follows the work, in place of `workers`.
    gpus : of each worker; by default one on a machine that has GPUs, or what the site's TOML says.
    dashboard : address where Dask's dashboard listens; None for any free port, for this machine alone.
    """

    resources: Resources | None = None
    scheduler: str | None = None
    workers: int | None = None
    least: int | None = None
    most: int | None = None
    gpus: int | None = None
    dashboard: str | None = None

    @classmethod
    def of(
        cls,
        cluster: str | None,
        scheduler: str | None,
        *,
        workers: int | None = None,
        least: int | None = None,
        most: int | None = None,
        gpus: int | None = None,
        dashboard: str | None = None,
        flags: Flags = NO_FLAGS,
    ) -> Fleet:
        """From the words of the command line.

        Raises
        ------
        UsageError : two of them contradict each other, or the cluster is not known.
        """
        said = {
            "--workers": workers, "--min-workers": least, "--max-workers": most,
            "--gpus-per-worker": gpus, "--cluster": cluster, "--dashboard": dashboard, **flags.typed(),
        }  # fmt: skip
        if scheduler is not None and (other := [word for word, value in said.items() if value is not None]):
            raise UsageError(
                "a scheduler that runs already has its own workers",
                where=f"--scheduler {scheduler} {other[0]} {said[other[0]]}",
                hint=f"leave {other[0]} away",
            )
        is_local = cluster in (None, LOCAL)
        resources = None if is_local else flags.over(read_resources(str(cluster), others=(LOCAL,)))
        if is_local:
            flags.refuse_without_jobs()
        if is_local and (least is not None or most is not None):
            raise UsageError(
                "a number of workers that follows the work is for jobs",
                where=f"--min-workers {least}" if least is not None else f"--max-workers {most}",
                expected="--cluster slurm as well",
            )
        if is_local and gpus is not None and gpus > 1:
            raise UsageError(
                "a process of this machine uses one GPU",
                where=f"--gpus-per-worker {gpus}",
                expected="0 or 1, and as many --workers as there are GPUs",
            )
        if least is not None and most is None:
            raise UsageError("without an upper bound", where=f"--min-workers {least}", hint="--max-workers")
        if most is not None and workers is not None:
            raise UsageError(
                "the number of workers is either fixed or follows the work",
                where=f"--workers {workers} --max-workers {most}",
            )
        if most is not None and least is not None and least > most:
            raise UsageError(
                "the bounds are the wrong way round", where=f"--min-workers {least} --max-workers {most}"
            )
        return cls(resources, scheduler, workers, least, most, gpus, dashboard)

"""Whether a cluster has what a job asks for: else the job would wait for ever."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hpc_brainage.cluster.resources import Resources
from hpc_brainage.cluster.slurm import Nodes, Partition
from hpc_brainage.errors import UsageError


@dataclass(frozen=True)
class _Request:
    """What a job asks for.

    Parameters
    ----------
    partition : or several with commas between; None for the cluster's default.
    cores, gpus, memory_gb : of each node.
    of_cores : the setting that the cores come from, for what is said of them.
    minutes : of one start.
    """

    partition: str | None
    nodes: int
    cores: int
    of_cores: str
    gpus: int
    memory_gb: float | None
    minutes: int | None


def check_fits(nodes: int, resources: Resources, cluster: list[Partition]) -> None:
    """Make sure that one of the partitions named can run the training job, ever.

    Nodes that are down now are counted: a job may wait for them.

    Raises
    ------
    UsageError : a partition is not there, or none of them has what is asked for; it says what there is.
    """
    asked = resources.train
    _check(
        _Request(
            partition=asked.partition or resources.partition,
            nodes=nodes,
            cores=asked.processes_per_node * asked.cpus_per_task,
            of_cores=f"{asked.processes_per_node} tasks of {asked.cpus_per_task} cores on a node",
            gpus=asked.gpus_per_node,
            memory_gb=asked.memory_gb,
            minutes=asked.time,
        ),
        cluster,
    )


def check_conversion_fits(resources: Resources, cluster: list[Partition]) -> None:
    """Likewise for each of the jobs that convert.

    Raises
    ------
    UsageError : as for `check_fits`.
    """
    _check(
        _Request(
            partition=resources.partition,
            nodes=1,
            cores=resources.cpus,
            of_cores=f"cpus = {resources.cpus}",
            gpus=0,
            memory_gb=resources.memory_gb,
            minutes=resources.time,
        ),
        cluster,
    )


def _check(asked: _Request, cluster: list[Partition]) -> None:
    there = {partition.name: partition for partition in cluster}
    if asked.partition is None:
        chosen = [partition for partition in cluster if partition.is_default]
    else:
        names = [name.strip() for name in asked.partition.split(",")]
        if unknown := [name for name in names if name not in there]:
            raise UsageError(
                "this cluster has no such partition",
                where=f"partition = {unknown[0] or asked.partition!r}",
                expected=f"partitions of this cluster: {', '.join(map(str, cluster))}",
                hint="--partition NAME, or a line in the TOML that --cluster names, as in"
                " configs/cluster/example.toml",
            )
        chosen = [there[name] for name in names]
    problems = [problem for partition in chosen if (problem := _lacks(partition, asked))]
    if problems and len(problems) == len(chosen):
        raise problems[0]


def _lacks(partition: Partition, asked: _Request) -> UsageError | None:
    """What a partition does not have of what the job asks for."""
    memory = math.ceil((asked.memory_gb or 0) * 1024)
    conditions: tuple[tuple[str, str, Callable[[Nodes], bool]], ...] = (
        (f"--nodes {asked.nodes}", "", lambda kind: True),
        (f"gpus_per_node = {asked.gpus}", " with as many GPUs", lambda kind: kind.gpus >= asked.gpus),
        (asked.of_cores, " with as many cores", lambda kind: kind.cores >= asked.cores),
        (
            f"memory_gb = {asked.memory_gb}",
            " with as much memory",
            lambda kind: kind.memory_mb >= memory,
        ),
    )
    kinds = partition.kinds
    for where, with_that, is_enough in conditions:
        kinds = tuple(kind for kind in kinds if is_enough(kind))
        count = sum(kind.count for kind in kinds)
        if count < asked.nodes:
            return UsageError(
                f"partition {partition.name} has {_nodes(count)}{with_that}, and the job asks for"
                f" {asked.nodes}",
                where=where,
                expected=f"{partition.name} has {_described(partition)}",
                hint="ask for less, or name another --partition, here or in the TOML that --cluster names",
            )
    if asked.minutes is not None and partition.minutes is not None and asked.minutes > partition.minutes:
        return UsageError(
            f"partition {partition.name} lets no job run for so long",
            where=f"time = {_clock(asked.minutes)}",
            expected=f"at most {_clock(partition.minutes)}",
            hint="ask for less, by --time or in the TOML: a job that takes longer is queued again and goes"
            " on where it was",
        )
    return None


def _described(partition: Partition) -> str:
    return "; ".join(
        f"{_nodes(kind.count)} of {kind.cores} cores, {kind.memory_mb / 1024:.0f} GiB and {kind.gpus} GPUs"
        for kind in partition.kinds
    )


def _nodes(count: int) -> str:
    return f"{count or 'no'} node{'s' if count > 1 else ''}"


def _clock(minutes: int) -> str:
    """Minutes as SLURM writes them, "HH:MM:SS" or "D-HH:MM:SS"."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{f'{days}-' if days else ''}{rest // 60:02}:{rest % 60:02}:00"

"""Whether a cluster has what a training job asks for: else the job would wait for ever."""

from __future__ import annotations

import math
from collections.abc import Callable

from hpc_brainage.cluster.resources import Resources
from hpc_brainage.cluster.slurm import Nodes, Partition
from hpc_brainage.errors import UsageError


def check_fits(nodes: int, resources: Resources, cluster: list[Partition]) -> None:
    """Make sure that one of the partitions named can run the job, ever.

    Nodes that are down now are counted: a job may wait for them.

    Raises
    ------
    UsageError : a partition is not there, or none of them has what is asked for; it says what there is.
    """
    asked = resources.train
    named = asked.partition or resources.partition
    there = {partition.name: partition for partition in cluster}
    if named is None:
        chosen = [partition for partition in cluster if partition.is_default]
    else:
        names = [name.strip() for name in named.split(",")]
        if unknown := [name for name in names if name not in there]:
            raise UsageError(
                "this cluster has no such partition",
                where=f"partition = {unknown[0]!r}",
                expected=f"partitions of this cluster: {', '.join(map(str, cluster))}",
                hint="set it in the TOML that --cluster names, as in configs/cluster/example.toml",
            )
        chosen = [there[name] for name in names]
    problems = [problem for partition in chosen if (problem := _lacks(partition, nodes, resources))]
    if problems and len(problems) == len(chosen):
        raise problems[0]


def _lacks(partition: Partition, nodes: int, resources: Resources) -> UsageError | None:
    """What a partition does not have of what the job asks for."""
    asked = resources.train
    cores = asked.processes_per_node * asked.cpus_per_task
    memory = math.ceil((asked.memory_gb or 0) * 1024)
    conditions: tuple[tuple[str, str, Callable[[Nodes], bool]], ...] = (
        (f"--nodes {nodes}", "nodes", lambda kind: True),
        (f"gpus_per_node = {asked.gpus_per_node}", "GPUs", lambda kind: kind.gpus >= asked.gpus_per_node),
        (
            f"{asked.processes_per_node} tasks of {asked.cpus_per_task} cores on a node",
            "cores",
            lambda kind: kind.cores >= cores,
        ),
        (f"memory_gb = {asked.memory_gb}", "memory", lambda kind: kind.memory_mb >= memory),
    )
    kinds = partition.kinds
    for where, what, is_enough in conditions:
        kinds = tuple(kind for kind in kinds if is_enough(kind))
        count = sum(kind.count for kind in kinds)
        if count < nodes:
            of_them = (
                ""
                if what == "nodes"
                else f" with as many {what}"
                if what != "memory"
                else " with as much memory"
            )
            return UsageError(
                f"partition {partition.name} has {count} nodes{of_them}, and the job asks for {nodes}",
                where=where,
                expected=f"{partition.name} has {_described(partition)}",
                hint="ask for less, or name another partition in the TOML that --cluster names",
            )
    if asked.time is not None and partition.minutes is not None and asked.time > partition.minutes:
        return UsageError(
            f"partition {partition.name} lets no job run for so long",
            where=f"time = {asked.time} minutes",
            expected=f"at most {partition.minutes} minutes",
            hint="ask for less: a run that takes longer is queued again and goes on where it was",
        )
    return None


def _described(partition: Partition) -> str:
    return "; ".join(
        f"{kind.count} nodes of {kind.cores} cores, {kind.memory_mb / 1024:.0f} GiB and {kind.gpus} GPUs"
        for kind in partition.kinds
    )

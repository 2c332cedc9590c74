"""Whether a cluster has what a job asks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cluster.fits import check_fits
from hpc_brainage.cluster.resources import Resources, TrainResources
from hpc_brainage.cluster.slurm import Nodes, Partition
from hpc_brainage.errors import UsageError

CLUSTER = [
    Partition("cpu", (Nodes(8, 16, 64_000, 0),), 24 * 60, True),
    Partition("gpu", (Nodes(2, 32, 256_000, 4), Nodes(1, 64, 512_000, 8)), None, False),
]


def asking(**asked: object) -> Resources:
    return Resources(train=TrainResources(**asked))  # type: ignore[arg-type]


def test_what_the_cluster_has_is_let_be() -> None:
    check_fits(8, asking(), CLUSTER)
    check_fits(3, asking(partition="gpu", gpus_per_node=4, cpus_per_task=8, time=10**6), CLUSTER)
    check_fits(1, asking(partition="gpu", gpus_per_node=8, memory_gb=400), CLUSTER)
    check_fits(3, asking(partition="cpu,gpu", gpus_per_node=1), CLUSTER)
    check_fits(3, Resources(partition="gpu", train=TrainResources(gpus_per_node=1)), CLUSTER)


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        (1, {"partition": "gpus"}, "cpu (8 nodes), gpu (3 nodes, 8 GPUs each)"),
        (9, {}, "partition cpu has 8 nodes, and the job asks for 9"),
        (1, {"gpus_per_node": 1}, "partition cpu has no node with as many GPUs, and the job asks for 1"),
        (
            2,
            {"partition": "gpu", "gpus_per_node": 8},
            "has 1 node with as many GPUs, and the job asks for 2",
        ),
        (1, {"cpus_per_task": 17}, "has no node with as many cores"),
        (1, {"tasks_per_node": 16, "cpus_per_task": 2}, "16 tasks of 2 cores on a node"),
        (1, {"memory_gb": 100}, "has no node with as much memory"),
        (1, {"time": 9 * 24 * 60 + 61}, "time = 9-01:01:00\n  expected: at most 1-00:00:00"),
        (1, {"partition": "cpu,"}, "partition = 'cpu,'"),
        (
            4,
            {"partition": "gpu", "gpus_per_node": 1},
            "2 nodes of 32 cores, 250 GiB and 4 GPUs; 1 node of 64",
        ),
    ],
)
def test_what_it_does_not_have_is_said_with_what_there_is(
    nodes: int, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        check_fits(nodes, asking(**asked), CLUSTER)
    assert message in str(refused.value)


def test_a_cluster_that_shows_nothing_refuses_nothing_but_a_name() -> None:
    check_fits(1000, asking(gpus_per_node=8), [])
    with pytest.raises(UsageError):
        check_fits(1, asking(partition="cpu"), [])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 9))
def test_a_job_fits_if_and_only_if_enough_nodes_have_all_of_it(nodes: int, cores: int, gpus: int) -> None:
    asked = asking(partition="gpu", tasks_per_node=1, cpus_per_task=cores, gpus_per_node=gpus)
    enough = sum(kind.count for kind in CLUSTER[1].kinds if kind.cores >= cores and kind.gpus >= gpus)
    try:
        check_fits(nodes, asked, CLUSTER)
    except UsageError:
        assert enough < nodes
    else:
        assert enough >= nodes

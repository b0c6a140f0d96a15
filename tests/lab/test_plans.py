# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is planned for each shape, from the facts that the running machine gave, and what is refused."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from fleet.cpus import numbers
from machines import shapes
from machines.observation import Facts, Observation

from ansible_collections.numapin.inference.plugins.filter.plan_instances import FilterModule

plan_instances: t.Callable[..., Facts] = FilterModule().filters()["plan_instances"]

Placed = list[tuple[int, str, str]]
# (node, the instance's CPUs, those kept for the system) of one instance per node.
EXPECTED: dict[str, Placed] = {
    "gpu-server": [(0, "1", "0"), (1, "3", "2")],
    "two-sockets": [(0, "1", "0"), (1, "3", "2")],
    # Nodes 0 and 1 have a single core, which the instance gets; CPU 3 is isolated; node 3 has no CPUs.
    "four-nodes": [(0, "0", ""), (1, "1", ""), (2, "2", "")],
    # CPU 1, the sibling of 0, and CPUs 4 and 5 are offline.
    "smt-offline": [(0, "0", ""), (1, "2-3", "")],
    "one-node": [(0, "1", "0")],
    "sparse": [(0, "1", "0"), (1, "3", "2")],
}
GPUS_OF_A_NODE = 2

# A wish, the option that is wished otherwise, and what the refusal must name.
REFUSED: list[tuple[str, dict[str, t.Any], str]] = [
    ("gpu-server", {"tensor_parallel_size": 3}, "node 0 has 2 GPUs, 2 free; node 1 has 2 GPUs, 2 free"),
    ("gpu-server", {"tensor_parallel_size": 2, "instances": 3}, "there is room for 2"),
    ("two-sockets", {"device": "gpu"}, "this host has no GPU"),
    ("four-nodes", {"instances": 4}, "node 3 takes no instance (it has memory but no CPUs)"),
    ("four-nodes", {"device": "gpu"}, "this host has no GPU"),
    ("smt-offline", {"instances": 3}, "there is room for 2: node 0 has 1 core for instances"),
    ("sparse", {"instances": 3}, "there is room for 2"),
    ("one-node", {"tensor_parallel_size": 2}, "cannot stay inside one node"),
]


def plan(machine: Observation, **wish: t.Any) -> Facts:
    """The plan for one model."""
    return plan_instances(machine.facts, [{"name": "m", "source": "/m", **wish}], machine.name, "127.0.0.1")


def test_plan(machine: Observation) -> None:
    """One instance on every node that has CPUs and memory, on online CPUs of that node only."""
    if machine.shape is None:
        pytest.skip("nobody knows what is right for the machine that the tests run on")
    instances = plan(machine, tensor_parallel_size=GPUS_OF_A_NODE if machine.facts["gpus"] else 1)["instances"]
    placed = [(one["nodes"][0], one["cpus"], one["housekeeping_cpus"]) for one in instances]
    assert placed == EXPECTED[machine.name]
    offline = numbers(machine.shape.offline_cpus)
    for one in instances:
        (node,) = one["nodes"]
        assert one["memory_nodes"] == [node]
        assert numbers(one["cpus"]) <= numbers(machine.shape.nodes[node].cpus) - offline
        uuids = {gpu["uuid"] for gpu in machine.facts["gpus"] if gpu["node"] == node}
        assert set(one["gpus"]) == uuids


def test_wrong_wishes_are_refused(machine: Observation) -> None:
    """With what there is, and what would help."""
    wishes = [(wish, named) for shape, wish, named in REFUSED if shape == machine.name]
    if machine.shape is None:
        pytest.skip("nobody knows what is wrong for the machine that the tests run on")
    assert wishes
    for wish, named in wishes:
        with pytest.raises(AnsibleFilterError) as error:
            plan(machine, **wish)
        assert named in str(error.value)


def test_every_booted_shape_has_an_expectation() -> None:
    """A new shape is not forgotten."""
    assert set(EXPECTED) == {shape for shape, _wish, _named in REFUSED}
    assert set(EXPECTED) <= set(shapes.names())

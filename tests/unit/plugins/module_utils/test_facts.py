# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which parts are read, which overrides are taken, and that the facts have the shape of docs/architecture.md."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._facts import (
    PARTS,
    GatherError,
    OverrideError,
    gather,
    parse_overrides,
    wanted_parts,
)
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import eight_gpus_double

if t.TYPE_CHECKING:
    from pathlib import Path

EVERYTHING = frozenset(PARTS)
KEYS = [
    "gathered",
    "nodes",
    "cpus",
    "packages",
    "allowed_cpus",
    "offline_nodes",
    "offline_cpus",
    "llc_domains",
    "gpus",
    "nics",
    "nvme",
    "infiniband",
    "gpu_nic_pairs",
    "kernel",
    "warnings",
]


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (["all"], EVERYTHING),
        (["!links"], EVERYTHING - {"links"}),
        (["all", "!cpus", "!kernel"], EVERYTHING - {"cpus", "kernel"}),
        (["all", "gpus"], EVERYTHING),
        (["cpus", "gpus"], {"cpus", "gpus"}),
        (["links"], {"links", "gpus"}),
        (["!gpus"], EVERYTHING - {"gpus", "links"}),
        (["gpus", "!links"], {"gpus"}),
    ],
)
def test_wanted_parts(asked: list[str], parts: set[str]) -> None:
    assert wanted_parts(asked) == parts


def test_warnings_of_all_readers(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.overlapping_nodes())
    trees.write(root / "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    trees.write(root / "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    trees.write(root / "sys/bus/pci/devices/0000:01:00.0/numa_node", "9\n")
    facts = gather(Host(str(root)), EVERYTHING, {}, GpuSources())
    assert facts["gpus"][0]["node"] is None
    assert facts["warnings"][0].startswith("nodes 0 and 1 both list")
    assert [warning for warning in facts["warnings"] if "0000:01:00.0" in warning and "node 9" in warning]
    assert len(facts["warnings"]) == len(set(facts["warnings"]))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["cpu"], "gather has 'cpu'; it can have all, cpus, memory"),
        (["!all"], "gather has '!all'"),
        ([], "gather is empty: give all, or the parts to read (cpus, memory"),
        (["gpus", "!gpus"], "both asks for gpus and excludes it"),
        (["links", "!gpus"], "both asks for gpus and excludes it"),
    ],
)
def test_parts_that_cannot_be(asked: list[str], message: str) -> None:
    with pytest.raises(GatherError) as caught:
        wanted_parts(asked)
    assert message in str(caught.value)


def test_overrides() -> None:
    given = {"00000000:AA:00.0": 1, "0000:17:00.0": "0", "GPU-6a1ad42c-9d43-4aab-8ab9-8f2c1b8d4a01": 3}
    assert parse_overrides(given) == {
        "0000:aa:00.0": 1,
        "0000:17:00.0": 0,
        "GPU-6a1ad42c-9d43-4aab-8ab9-8f2c1b8d4a01": 3,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"0": 1}, "has the key '0', which is neither a PCI address such as 0000:17:00.0 nor a UUID"),
        # YAML takes 17:00 without quotes for a number to the base of 60.
        ({1020: 1}, "has the key '1020'"),
        ({"0000:17:00.0": -1}, "puts 0000:17:00.0 on node -1: give the number of a NUMA node"),
        ({"0000:17:00.0": None}, "puts 0000:17:00.0 on node None"),
        ({"0000:17:00.0": True}, "puts 0000:17:00.0 on node True"),
        ({"0000:17:00.0": 0, "00000000:17:00.0": 1}, "names 0000:17:00.0 twice, with the nodes 0 and 1"),
    ],
)
def test_overrides_that_cannot_be(given: dict[t.Any, t.Any], message: str) -> None:
    with pytest.raises(OverrideError) as caught:
        parse_overrides(given)
    assert message in str(caught.value)


def facts_of(
    root: Path, machine: trees.Machine, parts: frozenset[str] = EVERYTHING, overrides: dict[str, int] | None = None
) -> dict[str, t.Any]:
    sources = GpuSources(nvml=eight_gpus_double)
    return gather(Host(str(trees.lay_out(root, machine))), parts, overrides or {}, sources)


def test_everything(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, trees.eight_gpus())
    assert sorted(facts) == sorted(KEYS)
    assert facts["gathered"] == list(PARTS)
    assert json.loads(json.dumps(facts)) == facts, "lists and dictionaries only"
    assert facts["gpus"][4]["uuid"] == "GPU-00000004-1111-2222-3333-444444444444"
    assert (facts["gpus"][4]["node"], facts["gpus"][4]["node_source"]) == (1, "nvml")
    assert len(facts["gpus"][4]["links"]) == 7


def test_nothing_but_nodes(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, trees.eight_gpus(), frozenset())
    assert sorted(facts) == sorted(KEYS)
    assert facts["gathered"] == []
    always = {"gathered", "nodes", "allowed_cpus", "offline_cpus", "offline_nodes", "warnings"}
    assert {key for key in KEYS if facts[key] is not None} == always
    assert [(node["cpus"], node["package_ids"], node["hugepages"], node["numastat"]) for node in facts["nodes"]] == [
        ("0-3", None, None, None),
        ("4-7", None, None, None),
    ]


def test_gpus_without_links(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, trees.eight_gpus(), frozenset({"gpus"}))
    assert len(facts["gpus"]) == 8
    assert {json.dumps(gpu["links"]) for gpu in facts["gpus"]} == {"null"}
    assert facts["gpu_nic_pairs"] is None


def test_an_override_without_gpus_is_said_to_have_no_effect(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, trees.eight_gpus(), frozenset({"cpus"}), {"0000:17:00.0": 1})
    (warning,) = facts["warnings"]
    assert warning.startswith("the nodes of GPUs are given by hand for 0000:17:00.0, and gpus are not among the parts")


def test_an_override_wins_and_counts_everywhere(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, trees.eight_gpus(), overrides={"0000:17:00.0": 1})
    gpu = facts["gpus"][0]
    assert (gpu["node"], gpu["node_source"], gpu["cpus"]) == (1, "override", "4-7")


def test_an_override_to_a_node_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NumapinError, match=r"0000:17:00\.0.*node 7.*0-1"):
        facts_of(tmp_path, trees.eight_gpus(), overrides={"0000:17:00.0": 7})

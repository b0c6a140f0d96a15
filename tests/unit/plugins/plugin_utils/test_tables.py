# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tables line up, and the topology is shown as it is, unknown as -."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.modules.numa_facts import gather
from ansible_collections.numapin.inference.plugins.plugin_utils._tables import TableError, format_table, topology_table
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import eight_gpus_double


def facts(root: Path, machine: trees.Machine, get_nvml: t.Callable[[], t.Any] | None = None) -> dict[str, t.Any]:
    return gather(Host(str(trees.lay_out(root, machine))), get_nvml)


def test_columns_line_up() -> None:
    table = format_table(["node", "CPUs", "free MiB"], [[0, "0-3", 5], [10, "", None], [2, "a\n b", 1000]])
    assert table.splitlines() == [
        "node  CPUs  free MiB",
        "----  ----  --------",
        "   0  0-3          5",
        "  10  -            -",
        "   2  a b       1000",
    ]


def test_mixed_columns_are_text_and_lines_have_no_trailing_blanks() -> None:
    assert format_table(["a", "b"], [[1, None], ["x", True], [None, ""]]).splitlines() == [
        "a  b",
        "-  ----",
        "1  -",
        "x  True",
        "-  -",
    ]


def test_without_rows_the_headers_stay() -> None:
    assert format_table(["a", "bc"], []) == "a  bc\n-  --"


def test_a_row_of_the_wrong_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the table has 2 columns"):
        format_table(["a", "b"], [[1]])


def test_topology_of_a_gpu_server(tmp_path: Path) -> None:
    machine = trees.eight_gpus()
    lines = topology_table(facts(tmp_path, machine, eight_gpus_double)).splitlines()
    assert lines[:10] == [
        "node  kind            packages  CPUs  CPU list  memory MiB  free MiB  GPUs",
        "----  --------------  --------  ----  --------  ----------  --------  ----",
        "   0  cpu and memory  0            4  0-3            65536     61440     4",
        "   1  cpu and memory  1            4  4-7            32768     31744     4",
        "",
        "node distances",
        "node   0   1",
        "----  --  --",
        "   0  10  21",
        "   1  21  10",
    ]
    assert lines[11].split() == ["GPU", "node", "said", "by", "memory", "MiB", "name", "UUID"]
    assert lines[13] == (
        "0000:17:00.0     0  nvml          81559  NVIDIA H100 80GB HBM3  GPU-00000000-1111-2222-3333-444444444444"
    )
    assert len(lines) == 21


def test_unknown_is_a_dash_and_warnings_are_shown(tmp_path: Path) -> None:
    machine = trees.eight_gpus()
    assert machine.nodes
    nodes = {**machine.nodes, 1: trees.NodeSpec("4-7", None, "21 10")}
    pci = {"0000:e0:00.0": trees.NVIDIA_3D}
    machine = trees.Machine("0-7", "0-7", machine.cpus, nodes, "0-1", pci=pci)
    lines = topology_table(facts(tmp_path, machine)).splitlines()
    assert lines[3].split() == ["1", "cpu", "only", "1", "4", "4-7", "-", "-", "0"]
    assert lines[13].split() == ["0000:e0:00.0", "-", "-", "-", "nvidia", "(name", "unknown)", "-"]
    assert lines[-2:] == [
        "warnings",
        "- /sys/devices/system/node/node1/meminfo does not tell MemTotal: the memory there is unknown",
    ]


def test_sparse_and_asymmetric_distances(tmp_path: Path) -> None:
    table = topology_table(facts(tmp_path, trees.sparse_with_memory_only()))
    assert "node   0   8  250  252\n" in table
    assert "   8  41  10   80   80\n" in table


def test_a_machine_without_numa_has_no_distances(tmp_path: Path) -> None:
    table = topology_table(facts(tmp_path, trees.no_numa()))
    assert "node distances" not in table
    assert "- /sys/devices/system/node names no NUMA node" in table


@pytest.mark.parametrize("value", [None, "x", [], {}, {"nodes": "x"}, {"numa": {"nodes": []}}])
def test_what_are_no_facts(value: object) -> None:
    with pytest.raises(TableError, match=r"give it ansible_facts\['numa'\]"):
        topology_table(value)


@pytest.mark.parametrize("value", [{"nodes": []}, {"nodes": [{"id": 0}], "gpus": []}, {"nodes": ["x"], "gpus": []}])
def test_facts_of_another_version(value: object) -> None:
    with pytest.raises(TableError, match=r"gather them with the module numapin\.inference\.numa_facts"):
        topology_table(value)

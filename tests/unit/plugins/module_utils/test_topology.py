# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every shape of machine in ``trees`` is read right; what is damaged or missing is None or empty, with a warning."""

from __future__ import annotations

import shutil
import typing as t
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._topology import (
    Cpu,
    Distance,
    Hugepages,
    LlcDomain,
    Node,
    Numastat,
    Package,
    Topology,
    TopologyError,
    read_topology,
    to_plain,
)
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path


def read(root: Path, machine: trees.Machine) -> Topology:
    return read_topology(Host(str(trees.lay_out(root, machine))))


def cpus_of(topology: Topology) -> tuple[Cpu, ...]:
    assert topology.cpus is not None
    return topology.cpus


COUNTERS = Numastat(171717, 3, 5, 1900, 171000, 720)
POOLS = (Hugepages(2048, 8, 6, 2), Hugepages(1048576, 0, 0, None))


def test_two_sockets(tmp_path: Path) -> None:
    topology = read(tmp_path, trees.two_sockets())
    first, second = (Distance(0, 10), Distance(1, 21)), (Distance(0, 21), Distance(1, 10))
    assert topology.nodes == (
        Node(0, "0-3", 4, 65536, 61440, first, (0,), "cpu_and_memory", POOLS, COUNTERS),
        Node(1, "4-7", 4, 32768, 31744, second, (1,), "cpu_and_memory", POOLS, None),
    )
    assert cpus_of(topology)[0] == Cpu(0, 0, 0, 0, "0", "0-3", online=True)
    assert cpus_of(topology)[5] == Cpu(5, 1, 1, 1, "5", "4-7", online=True)
    assert [cpu.id for cpu in cpus_of(topology)] == list(range(8))
    assert topology.packages == (Package(0, "0-3", (0,)), Package(1, "4-7", (1,)))
    assert topology.llc_domains == (LlcDomain("0-3", 3, 32768, (0,)), LlcDomain("4-7", 3, 32768, (1,)))
    assert (topology.offline_nodes, topology.offline_cpus) == ("", "")
    assert topology.allowed_cpus == "0-6"
    assert topology.warnings == ()


def test_smt_with_an_offline_cpu(tmp_path: Path) -> None:
    topology = read(tmp_path, trees.two_sockets_smt_offline())
    assert [node.cpus for node in topology.nodes] == ["0-1,4", "2-3,6-7"]
    assert [node.cpu_count for node in topology.nodes] == [3, 4]
    assert cpus_of(topology)[0] == Cpu(0, 0, 0, 0, "0,4", "0-1,4", online=True)
    assert cpus_of(topology)[4] == Cpu(4, 0, 0, 0, "0,4", "0-1,4", online=True)
    assert cpus_of(topology)[1].smt_siblings == "1"
    assert cpus_of(topology)[7] == Cpu(7, 1, 1, 1, "3,7", "2-3,6-7", online=True)
    # Its node stays known through its link; package and core are not told of an offline CPU.
    assert cpus_of(topology)[5] == Cpu(5, 0, None, None, None, None, online=False)
    assert topology.packages == (Package(0, "0-1,4", (0,)), Package(1, "2-3,6-7", (1,)))
    assert topology.llc_domains == (LlcDomain("0-1,4", 3, None, (0,)), LlcDomain("2-3,6-7", 3, None, (1,)))
    assert topology.offline_cpus == "5"
    assert topology.allowed_cpus == "0-4,6-7"
    assert topology.warnings == ()


def test_sparse_ids_and_nodes_without_cpus_or_memory(tmp_path: Path) -> None:
    topology = read(tmp_path, trees.sparse_with_memory_only())
    assert [(n.id, n.cpus, n.kind, n.memory_total_mib) for n in topology.nodes] == [
        (0, "0-1", "cpu_and_memory", 16384),
        (8, "64", "cpu_and_memory", 16384),
        (250, "", "memory_only", 65536),
        (252, "65", "cpu_only", 0),
    ]
    # The n-th number of a distance file belongs to the n-th online node, not to node n.
    assert topology.nodes[0].distances == (Distance(0, 10), Distance(8, 40), Distance(250, 80), Distance(252, 80))
    assert topology.nodes[1].distances[0] == Distance(0, 41)
    assert topology.nodes[2].package_ids == ()
    assert topology.nodes[3].hugepages == ()
    assert topology.packages == (Package(0, "0-1", (0,)), Package(8, "64-65", (8, 252)))
    assert cpus_of(topology)[-1].node == 252
    assert topology.warnings == ()


def test_no_numa_is_one_node_with_a_warning(tmp_path: Path) -> None:
    topology = read(tmp_path, trees.no_numa())
    pools = (Hugepages(2048, 0, 0, 0),)
    assert topology.nodes == (Node(0, "0-1", 2, 8192, 4096, (), (0,), "cpu_and_memory", pools, None),)
    assert [cpu.node for cpu in cpus_of(topology)] == [0, 0]
    (warning,) = topology.warnings
    assert "names no NUMA node" in warning
    assert "all online CPUs are taken as node 0" in warning


def test_an_empty_node_directory_is_one_node_too(tmp_path: Path) -> None:
    machine = replace(trees.no_numa(), nodes={}, online_nodes="")
    topology = read(tmp_path, machine)
    assert [(node.id, node.cpus) for node in topology.nodes] == [(0, "0-1")]
    assert len(topology.warnings) == 1


def test_nodes_that_are_possible_but_not_online(tmp_path: Path) -> None:
    machine = replace(trees.two_sockets(), possible_nodes="0-3,9")
    assert read(tmp_path, machine).offline_nodes == "2-3,9"
    assert read_topology(Host(str(tmp_path)), {"memory"}).offline_nodes == "2-3,9"
    (tmp_path / "sys/devices/system/node/possible").unlink()
    assert read_topology(Host(str(tmp_path))).offline_nodes is None


def test_only_the_parts_that_are_asked_for(tmp_path: Path) -> None:
    whole = read(tmp_path, trees.two_sockets())
    host = Host(str(tmp_path))
    without_cpus = read_topology(host, {"memory"})
    assert (without_cpus.cpus, without_cpus.packages, without_cpus.llc_domains) == (None, None, None)
    assert without_cpus.nodes == tuple(node._replace(package_ids=None) for node in whole.nodes)
    assert without_cpus.allowed_cpus == "0-6"
    without_memory = read_topology(host, {"cpus"})
    assert without_memory.nodes == tuple(node._replace(hugepages=None, numastat=None) for node in whole.nodes)
    assert without_memory.cpus == whole.cpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numa_hit 5\nlocal_node x\nother_node -1\n", Numastat(5, None, None, None, None, None)),
        (
            "numa_hit 5\nnuma_hit_more 6\n\nother_node 18446744073709551615\n",
            Numastat(5, None, None, None, None, 2**64 - 1),
        ),
        ("", None),
        ("\x00\xff numa_hit", None),
        ("something 5\n", None),
    ],
)
def test_counters_that_are_not_there_are_null(tmp_path: Path, text: str, expected: Numastat | None) -> None:
    machine = trees.two_sockets()
    assert machine.nodes
    nodes = {**machine.nodes, 0: replace(machine.nodes[0], numastat=text)}
    topology = read(tmp_path, replace(machine, nodes=nodes))
    assert topology.nodes[0].numastat == expected
    assert topology.warnings == ()


@pytest.mark.parametrize(("size", "kib"), [("0K", None), ("1024K\n", 1024), ("32M", None), ("-1K", None), ("", None)])
def test_the_size_of_a_cache(tmp_path: Path, size: str, kib: int | None) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    trees.write(root / "sys/devices/system/cpu/cpu0/cache/index2/size", size)
    domains = read_topology(Host(str(root))).llc_domains
    assert domains
    assert [domain.size_kib for domain in domains] == [kib, 32768]


def test_a_cache_that_two_sets_of_cpus_claim(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    trees.write(root / "sys/devices/system/cpu/cpu0/cache/index2/shared_cpu_list", "0-1\n")
    topology = read_topology(Host(str(root)))
    assert "CPU 0 shares its last-level cache with two sets of CPUs, one of them CPU 2's" in topology.warnings


def test_overlapping_nodes_leave_the_node_of_their_cpus_unknown(tmp_path: Path) -> None:
    topology = read(tmp_path, trees.overlapping_nodes())
    assert [node.cpus for node in topology.nodes] == ["0-3", "0-3"]
    assert {cpu.node for cpu in cpus_of(topology)} == {None}
    assert topology.packages == (Package(0, "0-4", ()),)
    overlap, homeless = topology.warnings
    assert overlap.startswith("nodes 0 and 1 both list the CPUs 0-3, which cannot be")
    assert homeless == "the online CPUs 4 belong to no NUMA node"


def test_allowed_cpus_are_online(tmp_path: Path) -> None:
    machine = replace(trees.two_sockets(), allowed="2-300")
    assert read(tmp_path, machine).allowed_cpus == "2-7"


def test_allowed_cpus_of_this_process_where_init_is_hidden(tmp_path: Path) -> None:
    machine = replace(
        trees.two_sockets(), allowed=None, files={"proc/123/status": "Name:\tx\nCpus_allowed_list:\t1,3\n"}
    )
    root = trees.lay_out(tmp_path, machine)
    (root / "proc/self").symlink_to("123")
    assert read_topology(Host(str(root))).allowed_cpus == "1,3"


EFFECTIVE = "sys/fs/cgroup/cpuset.cpus.effective"
UNIFIED = {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu\n", EFFECTIVE: "0-7\n"}
VERSION_1 = {
    "sys/fs/cgroup/cpuset/release_agent": "\n",
    "sys/fs/cgroup/cpuset/cpuset.effective_cpus": "0-6\n",
    "sys/fs/cgroup/cpuset/cpuset.cpus": "0-7\n",
}
PODMAN = {"run/.containerenv": ""}
ISOLATED = {"sys/devices/system/cpu/isolated": "6-7\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # CPUAffinity= in system.conf leaves the first process CPUs 0 and 1.
        pytest.param(UNIFIED, "0-7", id="host"),
        pytest.param(VERSION_1, "0-6", id="host, version 1"),
        pytest.param(UNIFIED | ISOLATED, "0-5", id="isolcpus"),
        pytest.param({**UNIFIED, EFFECTIVE: "0-3\n"}, "0-3", id="partition"),
        pytest.param(
            {**UNIFIED, **PODMAN, "sys/fs/cgroup/cgroup.type": "domain\n", EFFECTIVE: "0-2\n"},
            "0-2",
            id="container",
        ),
        pytest.param(PODMAN | {"sys/fs/cgroup/cpuset/cpuset.cpus": "0-2\n"}, "0-2", id="container, version 1"),
        pytest.param(UNIFIED | PODMAN, "0-1", id="container with the host's tree"),
        pytest.param(VERSION_1 | PODMAN, "0-1", id="container with the host's tree, version 1"),
        pytest.param({"sys/fs/cgroup/cgroup.controllers": "cpu\n"}, "0-1", id="no cpuset"),
    ],
)
def test_allowed_cpus_are_those_of_services(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    topology = read(tmp_path, replace(trees.two_sockets(), allowed="0-1", files=files))
    assert (topology.allowed_cpus, topology.warnings) == (expected, ())


def test_a_damaged_cpuset_is_a_warning(tmp_path: Path) -> None:
    files = {**UNIFIED, EFFECTIVE: "0-x\n"}
    topology = read(tmp_path, replace(trees.two_sockets(), allowed="0-1", files=files))
    assert topology.allowed_cpus == "0-1"
    (warning,) = topology.warnings
    assert warning.startswith("/sys/fs/cgroup/cpuset.cpus.effective: '0-x'")


@pytest.mark.parametrize("allowed", [None, "8-9"])
def test_allowed_cpus_default_to_the_online_ones(tmp_path: Path, allowed: str | None) -> None:
    assert read(tmp_path, replace(trees.two_sockets(), allowed=allowed)).allowed_cpus == "0-7"


def test_masks_of_older_kernels(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.sparse_with_memory_only())
    node = root / "sys/devices/system/node"
    (node / "node0/cpulist").unlink()
    trees.write(node / "node0/cpumap", "00000000,00000003\n")
    # No list and no mask, but the links to its CPUs.
    (node / "node8/cpulist").unlink()
    (node / "node8/cpu64").symlink_to("../../cpu/cpu64")
    topology = root / "sys/devices/system/cpu/cpu64/topology"
    (topology / "thread_siblings_list").unlink()
    trees.write(topology / "thread_siblings", "1,00000000,00000000\n")
    cache = root / "sys/devices/system/cpu/cpu64/cache/index2"
    (cache / "shared_cpu_list").unlink()
    trees.write(cache / "shared_cpu_map", "3,00000000,00000000\n")
    result = read_topology(Host(str(root)))
    assert [n.cpus for n in result.nodes] == ["0-1", "64", "", "65"]
    assert cpus_of(result)[2] == Cpu(64, 8, 8, 0, "64", "64-65", online=True)
    assert result.warnings == ()


def test_without_the_lists_directories_count(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets_smt_offline())
    for path in ("cpu/online", "cpu/present", "node/online"):
        (root / "sys/devices/system" / path).unlink()
    trees.write(root / "sys/devices/system/cpu/cpu5/online", "0\n")
    trees.write(root / "sys/devices/system/cpu/cpu6/online", "1\n")
    topology = read_topology(Host(str(root)))
    assert [cpu.id for cpu in cpus_of(topology) if cpu.online] == [0, 1, 2, 3, 4, 6, 7]
    assert [cpu.id for cpu in cpus_of(topology) if not cpu.online] == [5]
    assert [node.id for node in topology.nodes] == [0, 1]
    assert topology.warnings == ()


def test_listed_but_not_described(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    trees.write(root / "sys/devices/system/cpu/online", "0-9\n")
    trees.write(root / "sys/devices/system/node/online", "0-2\n")
    topology = read_topology(Host(str(root)))
    assert cpus_of(topology)[9] == Cpu(9, None, None, None, None, None, online=True)
    assert [node.id for node in topology.nodes] == [0, 1]
    assert topology.nodes[0].distances == ()
    assert topology.warnings[:3] == (
        "the online CPUs 8-9 have no directory in /sys/devices/system/cpu",
        "the online nodes 2 have no directory in /sys/devices/system/node",
        "the online CPUs 8-9 belong to no NUMA node",
    )
    assert "says '10 21' and not one distance for each of the nodes 0-2" in topology.warnings[3]


def test_ids_the_kernel_does_not_have(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    for number in range(8):
        trees.write(root / f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id", "-1\n")
        trees.write(root / f"sys/devices/system/cpu/cpu{number}/topology/core_id", "65535\n")
    topology = read_topology(Host(str(root)))
    assert {(cpu.package, cpu.core) for cpu in cpus_of(topology)} == {(None, None)}
    assert topology.packages == (Package(None, "0-3", (0,)), Package(None, "4-7", (1,)))
    assert topology.nodes[0].package_ids == ()


def test_packages_are_sets_and_their_ids_need_not_differ(tmp_path: Path) -> None:
    # s390 and ia64 number the packages of every board from 0.
    root = trees.lay_out(tmp_path, trees.two_sockets())
    for number in range(8):
        trees.write(root / f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id", "0\n")
    topology = read_topology(Host(str(root)))
    assert topology.packages == (Package(0, "0-3", (0,)), Package(0, "4-7", (1,)))
    assert [node.package_ids for node in topology.nodes] == [(0,), (0,)]
    assert topology.warnings == ()


@pytest.mark.parametrize("names", ["core_siblings", "core_siblings_list", "package_cpus", "package_cpus_list", None])
def test_packages_by_every_file_that_tells_them(tmp_path: Path, names: str | None) -> None:
    machine = trees.two_sockets()
    root = trees.lay_out(tmp_path, machine)
    for number, spec in machine.cpus.items():
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        (topology / "core_siblings_list").unlink()
        if names:
            texts = ("0-3\n", "4-7\n") if names.endswith("list") else ("0f\n", "f0\n")
            trees.write(topology / names, texts[spec.package])
            trees.write(topology / "physical_package_id", "-1\n")
    packages = read_topology(Host(str(root))).packages
    ids = (None, None) if names else (0, 1)
    assert packages == (Package(ids[0], "0-3", (0,)), Package(ids[1], "4-7", (1,)))


def test_packages_that_overlap(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    for number, text in ((0, "0-5"), (6, "5-7"), (7, "1")):
        trees.write(root / f"sys/devices/system/cpu/cpu{number}/topology/core_siblings_list", f"{text}\n")
    topology = read_topology(Host(str(root)))
    assert topology.packages == (Package(0, "0-5", (0, 1)), Package(1, "6-7", (1,)))
    assert topology.warnings == ("CPU 6 shares its package with CPUs that belong to another one",)


@pytest.mark.parametrize(("family", "siblings", "ids"), [(21, ["0", "1"], [0, 1]), (25, ["0-1", "0-1"], [0, 0])])
def test_compute_units_are_two_cores(tmp_path: Path, family: int, siblings: list[str], ids: list[int]) -> None:
    # AMD's Bulldozer: two cores with an id each, which the kernel lists as SMT siblings.
    cpus = {n: trees.CpuSpec(0, n, "0-1" if n < 2 else "2-3", "0-3") for n in range(4)}
    node = trees.NodeSpec("0-3", trees.GIB_KIB, "10")
    text = f"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: 1\n"
    machine = trees.Machine("0-3", "0-3", cpus, {0: node}, "0", files={"proc/cpuinfo": text})
    topology = read(tmp_path, machine)
    assert [cpu.smt_siblings for cpu in cpus_of(topology)[:2]] == siblings
    assert [cpu.core for cpu in cpus_of(topology)[:2]] == ids
    assert topology.warnings == ()


def test_unknown_memory_is_null_and_said(tmp_path: Path) -> None:
    machine = trees.two_sockets()
    assert machine.nodes
    nodes = {0: replace(machine.nodes[0], memory_kib=None), 1: replace(machine.nodes[1], memory_kib=None)}
    files = {"sys/devices/system/node/has_memory": "1\n"}
    topology = read(tmp_path, replace(machine, nodes=nodes, files=files))
    assert [(n.memory_total_mib, n.memory_free_mib, n.kind) for n in topology.nodes] == [
        (None, None, "cpu_only"),
        (None, None, "cpu_and_memory"),
    ]
    assert topology.warnings[0] == (
        "/sys/devices/system/node/node0/meminfo does not tell MemTotal: the memory there is unknown"
    )


@pytest.mark.parametrize(
    ("path", "content", "warning"),
    [
        ("node/node1/cpulist", "4-x\n", "node1/cpulist: '4-x' in the CPU list"),
        ("node/node0/distance", "10\n", "node0/distance says '10' and not one distance for each of the nodes 0-1"),
        ("node/node0/distance", "10 far\n", "node0/distance says '10 far'"),
        ("node/online", "\x00\n", "node/online: '\\x00'"),
        ("cpu/cpu2/topology/thread_siblings_list", "7\n", "CPU 2 is not among its own SMT siblings"),
        ("cpu/cpu2/topology/thread_siblings_list", "1-2\n", "CPU 1 is an SMT sibling in two cores"),
        ("cpu/cpu0/cache/index2/shared_cpu_list", "5\n", "CPU 0 is not among the CPUs in"),
        ("cpu/present", "all\n", "cpu/present: 'all' in the CPU list"),
    ],
)
def test_damage_is_named(tmp_path: Path, path: str, content: str, warning: str) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    trees.write(root / "sys/devices/system" / path, content)
    topology = read_topology(Host(str(root)))
    assert any(warning in text for text in topology.warnings), topology.warnings


def test_warnings_are_bounded(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.no_numa())
    trees.write(root / "sys/devices/system/cpu/online", "0-99\n")
    for number in range(100):
        trees.write(root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", "x\n")
    topology = read_topology(Host(str(root)))
    assert len(topology.warnings) == 41
    assert topology.warnings[-1] == "61 more warnings of this kind are left out"


def test_no_cpu_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        read_topology(Host(str(tmp_path)))
    assert f"below the root '{tmp_path}'" in str(caught.value)
    assert "give as root the directory" in str(caught.value)


def test_each_file_is_read_once_and_few_per_cpu(tmp_path: Path) -> None:
    class CountingHost(Host):
        reads: t.ClassVar[list[str]] = []

        def read_text(self, path: str, limit_bytes: int = 4096) -> str | None:
            self.reads.append(path)
            return super().read_text(path, limit_bytes)

    cpus = {n: trees.CpuSpec(n % 2, n % 64, f"{n % 64},{n % 64 + 64}", "0-127") for n in range(128)}
    node = trees.NodeSpec("0-127", 1024, "10")
    machine = trees.Machine("0-127", "0-127", cpus, {0: node}, "0")
    host = CountingHost(str(trees.lay_out(tmp_path, machine)))
    assert cpus_of(read_topology(host))[127].smt_siblings == "63,127"
    assert len(host.reads) == len(set(host.reads))
    # Two for each of the 64 cores; packages and caches once for all of their CPUs.
    assert len(host.reads) < 64 * 2 + 50


def test_to_plain_has_the_shape_of_the_contract(tmp_path: Path) -> None:
    plain = to_plain(read(tmp_path, trees.two_sockets()))
    assert plain["nodes"][1] == {
        "id": 1,
        "cpus": "4-7",
        "cpu_count": 4,
        "memory_total_mib": 32768,
        "memory_free_mib": 31744,
        "distances": [{"node": 0, "distance": 21}, {"node": 1, "distance": 10}],
        "package_ids": [1],
        "kind": "cpu_and_memory",
        "hugepages": [
            {"size_kib": 2048, "total": 8, "free": 6, "surplus": 2},
            {"size_kib": 1048576, "total": 0, "free": 0, "surplus": None},
        ],
        "numastat": None,
    }
    assert plain["cpus"][7] == {
        "id": 7,
        "node": 1,
        "package": 1,
        "core": 3,
        "smt_siblings": "7",
        "llc_domain": "4-7",
        "online": True,
    }
    assert plain["packages"] == [{"id": 0, "cpus": "0-3", "nodes": [0]}, {"id": 1, "cpus": "4-7", "nodes": [1]}]
    assert plain["nodes"][0]["numastat"] == {
        "hit": 171717,
        "miss": 3,
        "foreign": 5,
        "interleave_hit": 1900,
        "local": 171000,
        "other": 720,
    }
    assert plain["llc_domains"][1] == {"cpus": "4-7", "level": 3, "size_kib": 32768, "nodes": [1]}
    assert sorted(plain) == [
        "allowed_cpus",
        "cpus",
        "llc_domains",
        "nodes",
        "offline_cpus",
        "offline_nodes",
        "packages",
        "warnings",
    ]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_a_result_or_a_typed_error(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    trees.lay_out(root, trees.two_sockets_smt_offline())
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=12, unique=True)):
        damage = data.draw(st.sampled_from(["missing", "binary", "list", "loop", "directory"]))
        path.unlink()
        if damage == "binary":
            path.write_bytes(data.draw(st.binary(max_size=50)))
        elif damage == "list":
            path.write_text(data.draw(st.text("0123456789-,:/ \n", max_size=20)), encoding="ascii")
        elif damage == "loop":
            path.symlink_to(path.name)
        elif damage == "directory":
            path.mkdir()
    try:
        topology = read_topology(Host(str(root)))
    except TopologyError:
        return
    assert topology.nodes
    assert topology.cpus

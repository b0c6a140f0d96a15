# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which CPUs rules give to which vectors, and what is said of rules that cannot be meant."""

from __future__ import annotations

import typing as t
from collections import Counter

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import Machine
from ansible_collections.numapin.inference.plugins.module_utils._irq_rules import Spreader, parse_options, plan
from ansible_collections.numapin.inference.plugins.module_utils._irqs import IrqError
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import device_trees, irq_trees, trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.irq_trees import ETH0, GPU0, GPU0_UUID

if t.TYPE_CHECKING:
    from pathlib import Path


def wanted(root: Path, *rules: dict[str, t.Any], **options: t.Any) -> dict[int, list[int]]:
    """The CPUs of each vector, by number."""
    machine = Machine(Host(str(root)))
    result = plan(parse_options({"rules": list(rules), **options}), machine)
    return {one.vector.number: sorted(one.cpus) for one in result.vectors}


def fault(root: Path, *rules: dict[str, t.Any], **options: t.Any) -> str:
    """What is said of rules that are refused."""
    with pytest.raises(IrqError) as refused:
        wanted(root, *rules, **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ({"node": 0, "kinds": ["nic"]}, {30: [0], 31: [1], 32: [2]}),
        ({"node": 0}, {30: [0], 31: [1], 32: [2], 60: [3]}),
        ({"node": 1, "kinds": ["nvme"]}, {50: [4], 51: [5]}),
        ({"netdev": "eth1"}, {40: [4], 41: [5]}),
        ({"pci_address": "00000000:C1:00.0"}, {40: [4], 41: [5]}),
        ({"nvme": "nvme0"}, {50: [4], 51: [5]}),
        ({"infiniband": "mlx5_0"}, {30: [0], 31: [1], 32: [2]}),
        ({"driver": "mlx5_core"}, {30: [0], 31: [1], 32: [2], 40: [4], 41: [5]}),
        ({"gpu": GPU0_UUID}, {60: [0]}),
        ({"gpu": GPU0}, {60: [0]}),
        ({"action": "0000:c1:*-1"}, {41: [4]}),
    ],
)
def test_devices(tmp_path: Path, devices: dict[str, t.Any], expected: dict[int, list[int]]) -> None:
    assert wanted(irq_trees.lay_out(tmp_path), {"devices": devices}) == expected


def test_targets(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    eth0 = {"devices": {"netdev": "eth0"}}
    assert wanted(root, {**eth0, "target": {"node": 1}}) == {30: [4], 31: [5], 32: [6]}
    assert wanted(root, {**eth0, "target": {"node": "1"}, "policy": "all"}) == {
        number: [4, 5, 6, 7] for number in (30, 31, 32)
    }
    assert wanted(root, {**eth0, "cpus": "2,6"}) == {30: [2], 31: [6], 32: [2]}
    assert wanted(root, eth0, exclude_cpus="0-2") == {number: [3] for number in (30, 31, 32)}
    assert wanted(root, {"devices": {"action": "ttyS0"}, "cpus": "5"}) == {irq_trees.SERIAL: [5]}


def test_spread_takes_cores_in_turns_and_siblings_last(tmp_path: Path) -> None:
    # CPUs 0 and 2 are one core, 1 and 3 the other.
    root = irq_trees.smt(tmp_path)
    assert [cpus for _number, cpus in sorted(wanted(root, {"devices": {"netdev": "eth0"}}).items())] == [
        [0], [1], [2], [3], [0]
    ]  # fmt: skip


def test_spread_counts_over_rules(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    both = wanted(root, {"devices": {"gpu": GPU0}}, {"devices": {"netdev": "eth0"}})
    assert both == {60: [0], 30: [1], 31: [2], 32: [3]}


def test_spread_is_balanced_whatever_the_pools() -> None:
    spreader = Spreader(lambda cpu: frozenset({cpu % 384, cpu % 384 + 384}))
    small, large = frozenset(range(8)), frozenset(range(768))
    load = Counter(spreader.take(small) for _each in range(80))
    assert set(load.values()) == {10}
    rest = Counter(spreader.take(large) for _each in range(2 * 760))
    # What the small pool already carries is not added to while others have less.
    assert max((load + rest).values()) <= 10
    assert all(not rest[cpu] and not rest[cpu + 384] for cpu in small)


def test_rules_that_agree_are_one(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    rules = [{"devices": {"netdev": "eth0"}}, {"devices": {"driver": "mlx5_core"}}]
    assert wanted(root, *rules) == {30: [0], 31: [1], 32: [2], 40: [4], 41: [5]}


def test_offline_cpus_are_left_out(tmp_path: Path) -> None:
    # CPU 5 is switched off.
    root = irq_trees.lay_out(tmp_path, trees.two_sockets_smt_offline())
    machine = Machine(Host(str(root)))
    options = parse_options({"rules": [{"name": "disk", "devices": {"nvme": "nvme0"}, "cpus": "5-6", "policy": "all"}]})
    result = plan(options, machine)
    assert [sorted(one.cpus) for one in result.vectors] == [[6], [6]]
    assert result.warnings == ("rule 1 (disk): the CPUs 5 are offline and left out",)


def test_a_device_without_vectors(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    device_trees.add_pci(root, "pci0000:40/0000:40:03.1/0000:48:00.0")
    result = plan(parse_options({"rules": [{"devices": {"pci_address": "0000:48:00.0"}}]}), Machine(Host(str(root))))
    assert result.vectors == ()
    assert result.idle == ("rule 1: 0000:48:00.0 has no interrupt vectors now: there is nothing to place",)


def test_cpus_above_64(tmp_path: Path) -> None:
    # The node with CPU 64 has the number 8.
    root = trees.lay_out(tmp_path, trees.sparse_with_memory_only())
    device_trees.add_pci(root, f"pci0000:40/0000:40:01.1/{ETH0}", numa_node=8, irqs=[30])
    irq_trees.add_vector(root, 30, "eth0", "0-65")
    assert wanted(root, {"devices": {"pci_address": ETH0}}) == {30: [64]}
    assert wanted(root, {"devices": {"pci_address": ETH0}, "cpus": "64-65", "policy": "all"}) == {30: [64, 65]}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"devices": {"netdev": "eth9"}}, "rule 1: there is no netdev eth9; this host has eth0, eth1"),
        ({"devices": {"driver": "ixgbe"}}, "rule 1: there is no driver ixgbe; this host has mlx5_core, nvidia, nvme"),
        ({"devices": {"nvme": "nvme7"}}, "rule 1: there is no nvme nvme7; this host has nvme0"),
        ({"devices": {"infiniband": "mlx5_7"}}, "rule 1: there is no infiniband mlx5_7; this host has mlx5_0"),
        ({"devices": {"gpu": "GPU-1"}}, f"no GPU with the UUID GPU-1; it has {GPU0_UUID}"),
        ({"devices": {"gpu": "0000:41:00.0"}}, "0000:41:00.0 is no GPU of this host; it has 0000:42:00.0"),
        ({"devices": {"pci_address": "eth0"}}, "'eth0' is no PCI address: write it as 0000:41:00.0"),
        ({"devices": {"pci_address": "0000:99:00.0"}}, "there is no pci_address 0000:99:00.0 on this host"),
        ({"devices": {"action": "mlx4*"}}, "no interrupt has an action whose name matches 'mlx4*'"),
        ({"devices": {"node": 0, "kinds": ["nvme"]}}, "there is no nvme on node 0; a rule that may match nothing says"),
        ({"devices": {"node": 7}}, "there is no node 7: this host has 0-1"),
        ({"devices": {"netdev": "eth0"}, "cpus": "0-3,N"}, "rule 1: 'N' in the CPU list '0-3,N' is wrong"),
        ({"devices": {"netdev": "eth0"}, "cpus": "99"}, "rule 1: cpus: there is no CPU 99; this host has 0-7"),
        ({"devices": {"netdev": "eth0"}, "cpus": ""}, "cpus is empty: name at least one CPU"),
        ({"devices": {"netdev": "eth0"}, "target": {"node": 5}}, "target: there is no node 5; this host has 0-1"),
        ({"devices": {"netdev": "eth0"}, "target": "near"}, "target is 'near'; it may be local, or {node: N}"),
        ({"devices": {"netdev": "eth0"}, "target": "local", "cpus": "1"}, "both target (local) and cpus (1)"),
        ({"devices": {"netdev": "eth0", "driver": "e1000"}}, "devices has driver, netdev; it must have node"),
        ({"devices": {"netdev": "eth0", "node": 0}}, "devices has netdev, node; it must have node with kinds"),
        ({"devices": {}}, "devices has nothing; it must have node with kinds, or exactly one of"),
        ({"devices": {"node": 0, "kinds": ["disk"]}}, "kinds has disk; it may have nic, infiniband, nvme, gpu"),
        ({"devices": {"irq": "30"}}, "devices: irq is unknown"),
        ({"devices": {"netdev": "eth0"}, "cpu": "1"}, "cpu is unknown; a rule may have cpus, devices, name"),
        ({"devices": {"netdev": "eth0"}, "policy": "even"}, "policy is 'even'; it may be spread or all"),
        ({"devices": {"action": "ttyS0"}}, "nothing says on which node ttyS0 is: give target: {node: N} or cpus"),
        ({"devices": {"action": "ttyS0"}, "cpus": "1", "xps": True}, "xps and rps are about network interfaces"),
    ],
)  # fmt: skip
def test_bad_rules(tmp_path: Path, rule: dict[str, t.Any], said: str) -> None:
    message = fault(irq_trees.lay_out(tmp_path), rule)
    assert message.startswith("rule 1: ")
    assert said in message


def test_bad_options(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    rule = {"devices": {"netdev": "eth0"}}
    assert "exclude_cpus: there is no CPU 8-9; this host has 0-7" in fault(root, rule, exclude_cpus="8-9")
    assert "exclude_cpus: 'x' in the CPU list 'x' is wrong" in fault(root, rule, exclude_cpus="x")
    assert "default_smp_affinity: there is no CPU 64" in fault(root, rule, default_smp_affinity="0,64")
    assert fault(root, rule, exclude_cpus="0-3") == (
        "rule 1: no CPU is left for eth0, mlx5_0 (0000:41:00.0): node 0 has 0-3 online, all of them in exclude_cpus"
        " (0-3)"
    )


def pin(root: Path, address: str, number: int, driver: str | None, node: int) -> None:
    """Add a GPU without MSI."""
    place = f"pci0000:{address[5:7]}/{address}"
    device_trees.add_pci(
        root,
        place,
        pci_class=device_trees.GPU,
        vendor="0x10de",
        numa_node=node,
        driver=driver,
        files={"irq": str(number)},
    )


def test_a_pin_that_no_driver_uses_is_no_interrupt_of_the_device(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    irq_trees.add_vector(root, 11, "ehci_hcd", "0-7")
    pin(root, "0000:43:00.0", 11, None, 0)  # what the firmware left there
    pin(root, "0000:44:00.0", 255, "nouveau", 0)  # its driver has not asked for it
    pin(root, "0000:c5:00.0", 11, None, 1)
    rules = [{"devices": {"node": node, "kinds": ["gpu"]}} for node in (0, 1)]
    assert wanted(root, *rules) == {60: [0]}


def test_a_pin_that_two_rules_share_stays_with_the_first(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    irq_trees.add_vector(root, 11, "one,two", "0-7")
    pin(root, "0000:43:00.0", 11, "nouveau", 0)
    pin(root, "0000:c5:00.0", 11, "nouveau", 1)
    rules = [{"devices": {"node": node, "kinds": ["gpu"]}} for node in (0, 1)]
    result = plan(parse_options({"rules": rules}), Machine(Host(str(root))))
    assert {one.vector.number: sorted(one.cpus) for one in result.vectors} == {60: [0], 11: [1]}
    assert [warning.partition(" (one,two) ") for warning in result.warnings] == [
        (
            "rule 2: 0000:c5:00.0 shares its interrupt 11",
            " (one,two) ",
            "with 0000:43:00.0, which rule 1 has placed: it stays there",
        )
    ]


def test_rules_that_disagree(tmp_path: Path) -> None:
    rules = [
        {"name": "near", "devices": {"netdev": "eth0"}},
        {"name": "far", "devices": {"driver": "mlx5_core"}, "target": {"node": 1}},
    ]
    assert fault(irq_trees.lay_out(tmp_path), *rules) == (
        "rule 2 (far): it disagrees with rule 1 (near): both are about eth0, mlx5_0 (0000:41:00.0), interrupt 30"
        " (0000:41:00.0-0), which here goes to 4-7 (spread) and there to 0-3 (spread): let one of them leave the device"
        " out"
    )


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    rules: list[dict[str, t.Any]] = [{"devices": {"netdev": "eth9"}}, {"devices": {"netdev": "eth0"}, "cpus": "99"}]
    assert [line.partition(":")[0] for line in fault(irq_trees.lay_out(tmp_path), *rules).splitlines()] == [
        "rule 1",
        "rule 2",
    ]


def test_what_may_be_missing(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    missing = {"devices": {"netdev": "eth9"}}
    assert wanted(root, {**missing, "optional": True}, {"devices": {"gpu": GPU0}}) == {60: [0]}
    lenient = plan(parse_options({"rules": [missing]}), Machine(Host(str(root))), lenient=True)
    assert (lenient.vectors, lenient.warnings[0][:32]) == ((), "rule 1: there is no netdev eth9;")


def test_an_unknown_node(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    device_trees.add_pci(root, "pci0000:e0/0000:e0:01.1/0000:e1:00.0", numa_node=-1, irqs=[70])
    irq_trees.add_vector(root, 70, "eth7", "0-7")
    rule = {"devices": {"pci_address": "0000:e1:00.0"}}
    assert "nothing says on which node 0000:e1:00.0 is: give target: {node: N} or cpus" in fault(root, rule)
    assert wanted(root, {**rule, "target": {"node": 1}}) == {70: [4]}


def test_virtual_interfaces_are_told_apart(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    (root / "sys/devices/virtual/net/bond0").mkdir(parents=True)
    device_trees.link(root / "sys/class/net/bond0", root / "sys/devices/virtual/net/bond0")
    said = fault(root, {"devices": {"netdev": "bond0"}})
    assert "bond0 has no PCI device of its own (a bridge, bond or VLAN?): name what it is made of" in said

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where interrupts land, by device; what the kernel does not say is null."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._irq_info import read_vectors
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import irq_trees

if t.TYPE_CHECKING:
    from pathlib import Path


def test_every_vector_of_a_device_and_none_without_one(tmp_path: Path) -> None:
    vectors = read_vectors(Host(str(irq_trees.lay_out(tmp_path))))
    assert [(one["device"], one["irq"], one["queue"]) for one in vectors] == [
        (address, number, place)
        for address, numbers in sorted(irq_trees.VECTORS.items())
        for place, number in enumerate(numbers)
    ]
    assert vectors[0] == {
        "irq": 30,
        "device": irq_trees.ETH0,
        "device_names": ["eth0", "mlx5_0"],
        "kinds": ["infiniband", "nic"],
        "node": 0,
        "queue": 0,
        "name": f"{irq_trees.ETH0}-0",
        "requested": "0-7",
        "effective": "0",
    }
    assert {one["device"]: (one["kinds"], one["node"]) for one in vectors} == {
        irq_trees.ETH0: (["infiniband", "nic"], 0),
        irq_trees.GPU0: (["gpu"], 0),
        irq_trees.ETH1: (["nic"], 1),
        irq_trees.NVME0: (["nvme"], 1),
    }


def test_what_a_capture_or_an_old_kernel_does_not_say_is_null(tmp_path: Path) -> None:
    root = irq_trees.lay_out(tmp_path)
    (root / "proc/irq/30/effective_affinity_list").unlink()
    for path in (root / "sys/kernel/irq").glob("30/*"):
        path.unlink()
    first = read_vectors(Host(str(root)))[0]
    assert (first["irq"], first["name"], first["effective"], first["requested"]) == (30, None, None, "0-7")

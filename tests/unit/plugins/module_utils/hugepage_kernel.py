# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel's pools of huge pages over a laid-out tree: it grants what each node has, as ``set_max_huge_pages`` does."""

from __future__ import annotations

import re
import typing as t
from dataclasses import replace

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

POOL = re.compile(r"/sys/devices/system/node/node(\d+)/hugepages/hugepages-(\d+)kB/nr_hugepages")
NODE = "sys/devices/system/node/node{}"
NODE_2M = NODE + "/hugepages/hugepages-2048kB"


class Kernel(Host):
    """Two nodes with CPUs, one of memory alone. ``scattered``: pages had only after the named file is written."""

    def __init__(self, root: Path, grants: dict[int, int], *, gigantic: bool = True) -> None:
        machine = trees.two_sockets()
        nodes = dict(machine.nodes or {}) | {2: trees.NodeSpec("", 64 * trees.GIB_KIB, "30 30 10")}
        nodes[0] = replace(nodes[0], distance="10 21 30")
        nodes[1] = replace(nodes[1], distance="21 10 30")
        trees.lay_out(root, replace(machine, nodes=nodes, online_nodes="0-2"))
        for node in nodes:
            for size in ("2048kB", "1048576kB"):
                for kind in ("nr", "free", "surplus"):
                    trees.write(root / NODE.format(node) / f"hugepages/hugepages-{size}/{kind}_hugepages", "0\n")
            trees.write(root / NODE.format(node) / "compact", "")
        for name in ("drop_caches", "hugetlb_shm_group"):
            trees.write(root / f"proc/sys/vm/{name}", "0\n")
        super().__init__(str(root))
        self.tree = root
        self.grants = grants
        self.gigantic = gigantic
        self.scattered: dict[str, int] = {}
        self.writes: list[str] = []

    def put(self, node: int, *, total: int, free: int, surplus: int = 0) -> None:
        """Lay out a pool of 2 MiB."""
        for kind, count in (("nr", total), ("free", free), ("surplus", surplus)):
            trees.write(self.tree / NODE_2M.format(node) / f"{kind}_hugepages", f"{count}\n")

    def pages(self, node: int) -> int:
        """Pages of 2 MiB of a node, surplus included."""
        return int((self.tree / NODE_2M.format(node) / "nr_hugepages").read_text(encoding="utf-8"))

    def write_text(self, path: str, text: str) -> None:
        """As the kernel takes it: never an error for a short allocation."""
        self.writes.append(f"{path} {text.strip()}")
        match = POOL.fullmatch(path)
        if match is None:
            super().write_text(path, text)
            for file, pages in self.scattered.items():
                if path.endswith(file):
                    self.grants = {node: granted + pages for node, granted in self.grants.items()}
            return
        if match[2] == "1048576" and not self.gigantic:
            raise OSError(22, "Invalid argument", path)
        directory = path.rpartition("/")[0]
        total, free = (int(self.read_text(f"{directory}/{kind}_hugepages") or 0) for kind in ("nr", "free"))
        wanted, used = int(text), total - free
        got = min(wanted, max(self.grants[int(match[1])], used))
        surplus = max(0, used - got)
        for kind, count in (("nr", got + surplus), ("free", got + surplus - used), ("surplus", surplus)):
            trees.write(self.tree / directory[1:] / f"{kind}_hugepages", f"{count}\n")

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines with units, processes and threads as /sys/fs/cgroup and /proc show them, made as a test needs them."""

from __future__ import annotations

import typing as t
from pathlib import Path

from ansible_collections.numapin.inference.plugins.module_utils._commands import Result
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._placement import read_placement

SLICE = "/system.slice/system-vllm.slice"
# Lines as Linux 6.18 and 6.1 print them; the second node is made up.
BOUND = """\
00400000 bind:0 file=/usr/bin/python3.11 mapped=31 mapmax=4 N0=31 kernelpagesize_kB=4
00a8e000 bind:0 heap anon=256 dirty=256 active=0 N0=256 kernelpagesize_kB=4
7f5c00000000 bind:0
7f5c10000000 bind:0 stack anon=5 dirty=5 N0=5 kernelpagesize_kB=4
"""


class Machine:
    """A captured machine that a test makes as it needs it."""

    def __init__(self, root: Path, tree: str = "/sys/fs/cgroup") -> None:
        self.root = root
        self.tree = tree

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def group(self, name: str, *pids: int) -> None:
        # Every group above has the file as well, empty.
        parts = name.strip("/").split("/")
        for depth in range(len(parts)):
            above = f"{self.tree}/{'/'.join(parts[:depth])}/cgroup.procs"
            if not (self.root / above.lstrip("/")).exists():
                self.write(above, "")
        self.write(f"{self.tree}{name}/cgroup.procs", "".join(f"{pid}\n" for pid in pids))

    def thread(
        self,
        pid: int,
        tid: int,
        cpus: str,
        *,
        mems: str = "0",
        comm: str = "python3",
        last_cpu: int = 1,
        state: str = "S",
    ) -> None:
        task = f"/proc/{pid}/task/{tid}"
        self.write(
            f"{task}/status",
            f"Name:\t{comm}\nUmask:\t0022\nState:\t{state} (sleeping)\nTgid:\t{pid}\nCpus_allowed:\t2\n"
            f"Cpus_allowed_list:\t{cpus}\nMems_allowed:\t00000000,00000001\nMems_allowed_list:\t{mems}\n"
            "voluntary_ctxt_switches:\t150\n",
        )
        fields = ["0"] * 52
        fields[0:3] = [str(tid), f"({comm})", state]
        fields[38] = str(last_cpu)
        self.write(f"{task}/stat", " ".join(fields) + "\n")

    def process(self, pid: int, cpus: str, *, threads: int = 1, numa_maps: str | None = BOUND, **more: t.Any) -> None:
        for tid in range(pid, pid + threads):
            self.thread(pid, tid, cpus, **more)
        if numa_maps is not None:
            self.write(f"/proc/{pid}/numa_maps", numa_maps)

    def read(self, *entries: dict[str, t.Any], minimum: float = 99) -> dict[str, t.Any]:
        return read_placement(Host(str(self.root)), entries, minimum, refuse_to_run)


def refuse_to_run(argv: t.Sequence[str], timeout_seconds: float) -> Result:
    raise AssertionError(f"a captured machine has no systemd to ask, but this was run: {argv}")


def entry(name: str = "tiny-n0", cpus: str = "1", **more: t.Any) -> dict[str, t.Any]:
    return {
        "name": name,
        "unit": f"vllm@{name}.service",
        "cpus": cpus,
        "memory_nodes": [0],
        "memory_policy": "bind",
        "port": 8000,
        **more,
    }

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The machines themselves: that they have what tests of tuning need, and that a reset one is clean."""

from __future__ import annotations

import collections.abc as c
import time

from machines.booted import Booted

QUEUES = 4
# Each vector of a device as "NUMBER NAME EFFECT", where EFFECT is what became of an affinity to CPU 3 alone.
MOVE = r"""
for path in /sys/class/$1/*/device/msi_irqs/* /sys/block/$1/device/../msi_irqs/*; do
    number=${path##*/}
    name=$(sed -n "s/^ *$number:.* //p" /proc/interrupts)
    [ -n "$name" ] || continue
    if said=$({ echo 3 >"/proc/irq/$number/smp_affinity_list"; } 2>&1); then
        echo "$name $(cat "/proc/irq/$number/smp_affinity_list")"
    else
        echo "$name ${said##*: }"
    fi
done
"""


def test_vectors_that_can_be_moved_and_managed_ones(boot: c.Callable[[str], Booted]) -> None:
    """A network card on node 1 with a queue for each CPU; queues of NVMe and of the root disk belong to the kernel."""
    machine = boot("gpu-server")
    net = dict(line.split(" ", 1) for line in machine.run(f"set -- net\n{MOVE}").splitlines())
    queues = {name: effect for name, effect in net.items() if "rxtx" in name}
    assert len(queues) == QUEUES, net
    assert set(queues.values()) == {"3"}
    (card,) = {name.partition("-")[0] for name in queues}
    assert machine.run(f"cat /sys/class/net/{card}/device/numa_node").strip() == "1"
    nvme = dict(line.split(" ", 1) for line in machine.run(f"set -- nvme\n{MOVE}").splitlines())
    managed = {name: effect for name, effect in nvme.items() if not name.endswith("q0")}
    assert len(managed) == QUEUES, nvme
    # EIO, from Linux 6.12 on EPERM.
    assert set(managed.values()) <= {"Input/output error", "Operation not permitted"}
    disk = dict(line.split(" ", 1) for line in machine.run(f"set -- vda\n{MOVE}").splitlines())
    requests = {name: effect for name, effect in disk.items() if "req" in name}
    assert len(requests) == QUEUES, disk
    assert "3" not in requests.values()


def test_a_reset_machine_is_clean(boot: c.Callable[[str], Booted]) -> None:
    """A file and a kernel setting are as they were, and its clock is right."""
    machine = boot("gpu-server")
    before = machine.run("cat /proc/sys/kernel/numa_balancing")
    machine.run("touch /etc/dirty; echo 0 >/proc/sys/kernel/numa_balancing; sync")
    machine.reset()
    assert machine.run("ls /etc/dirty", check=False) == ""
    assert machine.run("cat /proc/sys/kernel/numa_balancing") == before
    assert abs(float(machine.run("date +%s")) - time.time()) < 60
    assert machine.run("ls /sys/class/nvme").split() == ["nvme0"]
    assert len(machine.run("lspci -d 10de:").splitlines()) == 4

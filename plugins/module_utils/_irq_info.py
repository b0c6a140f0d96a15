# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Where the interrupts of a host's devices land: what was requested of each vector, and what the kernel made of it."""

from __future__ import annotations

import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._irq_devices import KINDS, Machine

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host
    from ansible_collections.numapin.inference.plugins.module_utils._irqs import Vector


def read_vectors(host: Host) -> list[dict[str, t.Any]]:
    """Return every vector of a NIC, an RDMA device, an NVMe disk or a GPU, by device and place.

    Shape: RETURN of irq_info.
    """
    machine = Machine(host)
    return [
        _shown(machine, address, vector)
        for address in sorted(host.list_dir("/sys/bus/pci/devices") or ())
        if machine.device(address).kinds & set(KINDS)
        for vector in machine.vectors.of_device(address)
        # Nothing has requested it, so it comes from nowhere and goes nowhere. A captured tree holds no names at all.
        if vector.name or not host.is_running_machine
    ]


def _shown(machine: Machine, address: str, vector: Vector) -> dict[str, t.Any]:
    device = machine.device(address)
    return {
        "irq": vector.number,
        "device": address,
        "device_names": list(device.names),
        "kinds": sorted(device.kinds),
        "node": machine.node_of(address),
        "queue": vector.queue,
        "name": vector.name or None,
        "requested": machine.affinities.request(vector.number),
        "effective": machine.affinities.effective(vector.number),
    }

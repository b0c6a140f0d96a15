# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's command line for a shape."""

from __future__ import annotations

import collections.abc as c
import hashlib
import pathlib

from fleet.cpus import numbers

from machines.image import Image
from machines.shapes import Device, Shape

# The network with this address is the one that carries SSH; image/build-disk gives it its IP address.
MANAGEMENT_MAC = "52:54:00:4c:00:00"
# Root buses of the nodes, as far apart as a bus has room below it.
FIRST_BUS = 0x40
BUS_STEP = 0x10
NVME_MIB = 64

# Emulated code is slow code: nothing that only guards a real machine, nothing that only talks to a console. What the
# collection reads or sets is left as Debian has it.
KERNEL_OPTIONS = [
    "root=LABEL=root",
    "rw",
    "quiet",
    "loglevel=4",
    "console=ttyS0",
    "panic=5",
    "mitigations=off",
    "nokaslr",
    "audit=0",
    "apparmor=0",
    "selinux=0",
    "cryptomgr.notests",
    "no_timer_check",
    "random.trust_cpu=on",
    "tsc=reliable",
    "systemd.show_status=0",
]


def command(
    name: str, shape: Shape, image: Image, directory: pathlib.Path, ssh_port: int, accelerator: str
) -> list[str]:
    """The whole command; its files lie in ``directory``: disk.qcow2, nvmeN.raw, serial.log."""
    accel, model = "kvm", "host"
    if accelerator == "tcg":
        # Page tables of five levels would be walked by the emulator. Linux believes in SMT on Intel's processors only,
        # unless AMD's have a feature that the emulator lacks.
        accel, model = "tcg,thread=multi,tb-size=256", "max,la57=off,vendor=GenuineIntel,family=6,model=85,stepping=4"
    return [
        "qemu-system-x86_64",
        *("-name", name),
        *("-machine", "q35", "-accel", accel, "-cpu", model),
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"),
        *("-serial", f"file:{directory / 'serial.log'}"),
        *("-smp", f"{shape.cpu_count},sockets={shape.sockets},cores={shape.cores},threads={shape.threads}"),
        *("-m", f"{shape.memory_mib}M"),
        *topology(shape),
        *("-drive", f"if=none,id=root,file={directory / 'disk.qcow2'},format=qcow2,cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=root,bus=pcie.0"),
        *devices(shape, directory, ssh_port),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", kernel_command_line(name, shape)),
    ]


def topology(shape: Shape) -> c.Iterator[str]:
    """Nodes and distances; nothing for a machine whose firmware tells none."""
    if not shape.distances:
        return
    for number, node in enumerate(shape.nodes):
        cpus = "".join(f",cpus={part}" for part in node.cpus.split(",") if part)
        yield from ("-object", f"memory-backend-ram,id=memory{number},size={node.memory_mib}M")
        yield from ("-numa", f"node,nodeid={number},memdev=memory{number}{cpus}")
    for here, row in enumerate(shape.distances):
        for there, distance in enumerate(row):
            if here != there:
                yield from ("-numa", f"dist,src={here},dst={there},val={distance}")


def devices(shape: Shape, directory: pathlib.Path, ssh_port: int) -> c.Iterator[str]:
    """A PCI root bus for every node that has devices, and each device in a slot of its own below it."""
    for node in sorted({device.node for device in shape.devices if device.node is not None}):
        bus = f"bus_nr={FIRST_BUS + BUS_STEP * node}"
        yield from ("-device", f"pxb-pcie,id=node{node},bus=pcie.0,numa_node={node},{bus}")
    for number, device in enumerate(shape.devices):
        bus = "pcie.0" if device.node is None else f"node{device.node}"
        yield from ("-device", f"pcie-root-port,id=slot{number},bus={bus},chassis={number + 1}")
        yield from in_slot(number, device, directory, ssh_port)


def in_slot(number: int, device: Device, directory: pathlib.Path, ssh_port: int) -> c.Iterator[str]:
    """One device; the first network forwards a port of this machine's loopback to SSH, others lead nowhere."""
    if device.kind == "nvme":
        yield from ("-drive", f"if=none,id=disk{number},file={directory / f'nvme{number}.raw'},format=raw,cache=unsafe")
        yield from ("-device", f"nvme,drive=disk{number},bus=slot{number},serial=numapin-lab-{number}")
        return
    way = f"hostfwd=tcp:127.0.0.1:{ssh_port}-:22" if number == 0 else "restrict=on"
    network = f"user,id=network{number},{way}"
    if device.queues > 1:
        # QEMU makes the tap and takes it away with itself.
        network = f"tap,id=network{number},script=no,downscript=no,queues={device.queues}"
    mac = MANAGEMENT_MAC if number == 0 else f"{MANAGEMENT_MAC[:-2]}{number:02x}"
    yield from ("-netdev", network)
    vectors = 2 * device.queues + 8
    yield from (
        "-device",
        f"virtio-net-pci,netdev=network{number},bus=slot{number},mac={mac},mq=on,vectors={vectors},romfile=",
    )


def kernel_command_line(name: str, shape: Shape) -> str:
    """The options all machines share, and this one's name, identity and offline CPUs."""
    machine_id = hashlib.sha256(f"numapin lab {name}".encode()).hexdigest()[:32]
    own = [f"systemd.hostname={name}", f"systemd.machine_id={machine_id}"]
    if shape.offline_cpus:
        own.append("lab.offline=" + ",".join(map(str, sorted(numbers(shape.offline_cpus)))))
    return " ".join([*KERNEL_OPTIONS, *own, *shape.kernel_options])

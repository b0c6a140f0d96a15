# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's command line for a shape."""

from __future__ import annotations

import collections.abc as c
import hashlib
import pathlib
import typing as t
import uuid

from fleet.cpus import numbers

from machines import monitor
from machines.image import Image
from machines.places import RUNNING
from machines.shapes import DISKS, NETWORKS, Device, Shape

# The network with this address is the one that carries SSH; image/build-disk gives it its IP address.
MANAGEMENT_MAC = "52:54:00:4c:00:00"
# The network between the machines of a fleet: image/build-disk gives number N of this address 10.77.0.N.
FLEET_MAC = "52:54:00:4c:01:"
FLEET_NUMBERS = range(1, 10)
# Root buses of the nodes, as far apart as a bus has room below it.
FIRST_BUS = 0x40
BUS_STEP = 0x10
NVME_MIB = 64
SSH_PORT, HTTP_PORT = 22, 80

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
    "init_on_alloc=0",
    "no_timer_check",
    "random.trust_cpu=on",
    "tsc=reliable",
    "systemd.show_status=0",
]


class Place(t.NamedTuple):
    """What is this machine's alone: its name, its number in its fleet, its files and its ports on the loopback."""

    purpose: str
    name: str
    number: int
    ssh_port: int
    http_port: int

    @property
    def directory(self) -> pathlib.Path:
        """Where its files lie: disk.qcow2, nvmeN.qcow2, serial.log."""
        return RUNNING / self.purpose / self.name


def command(place: Place, shape: Shape, image: Image, accelerator: str, nvme: bool = True) -> list[str]:
    """The whole command, to be run in the machine's directory.

    Without ``nvme`` those disks are left out, to be plugged in later: QEMU cannot save a machine that has any.
    """
    directory = place.directory
    accel, model = "kvm", "host"
    if accelerator == "tcg":
        # Page tables of five levels would be walked by the emulator. Linux believes in SMT on Intel's processors only,
        # unless AMD's have a feature that the emulator lacks. For AMD's virtualisation udev would load modules.
        # With erms Linux clears and copies memory byte by byte, which emulated takes seven times as long as by words;
        # smap and pku are switched with every system call and every process.
        features = "la57=off,svm=off,erms=off,smap=off,pku=off,vendor=GenuineIntel,family=6,model=85,stepping=4"
        accel, model = "tcg,thread=multi,tb-size=256", f"max,{features}"
    return [
        "qemu-system-x86_64",
        *("-name", place.name),
        *("-machine", "q35", "-accel", accel, "-cpu", model),
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"),
        *("-qmp", f"unix:{monitor.SOCKET},server=on,wait=off"),
        *("-serial", f"file:{directory / 'serial.log'}"),
        *("-smp", f"{shape.cpu_count},sockets={shape.sockets},cores={shape.cores},threads={shape.threads}"),
        *("-m", f"{shape.memory_mib}M"),
        *topology(shape),
        *("-drive", f"if=none,id=root,file={directory / 'disk.qcow2'},format=qcow2,cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=root,bus=pcie.0"),
        *devices(shape, place, nvme),
        *(
            "-kernel",
            str(image.kernel),
            "-initrd",
            str(image.initrd),
            "-append",
            kernel_command_line(place.name, shape),
        ),
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


def devices(shape: Shape, place: Place, nvme: bool) -> c.Iterator[str]:
    """A PCI root bus for every node that has devices, and each device in a slot of its own below it."""
    for node in sorted({device.node for device in shape.devices if device.node is not None}):
        bus = f"bus_nr={FIRST_BUS + BUS_STEP * node}"
        yield from ("-device", f"pxb-pcie,id=node{node},bus=pcie.0,numa_node={node},{bus}")
    networks = 0
    for number, device in enumerate(shape.devices):
        bus = "pcie.0" if device.node is None else f"node{device.node}"
        yield from ("-device", f"pcie-root-port,id=slot{number},bus={bus},chassis={number + 1}")
        if device.kind in NETWORKS:
            yield from network(number, device, networks, place)
            networks += 1
        elif device.kind in DISKS:
            if nvme:
                file = place.directory / f"nvme{number}.raw"
                yield from ("-drive", f"if=none,id=disk{number},file={file},format=raw,cache=unsafe")
                yield from ("-device", f"nvme,drive=disk{number},bus=slot{number},serial={serial(number)}")
        else:
            # A device that no driver wants; the machine itself makes it look like a GPU (see image/gpu).
            yield from ("-device", f"pci-testdev,bus=slot{number},addr=0")


def plug_nvme(directory: pathlib.Path, shape: Shape) -> None:
    """Plug in the disks that were left out of the command."""
    for number, device in enumerate(shape.devices):
        if device.kind in DISKS:
            file = {"driver": "file", "filename": str(directory / f"nvme{number}.raw"), "cache": {"no-flush": True}}
            monitor.execute(directory, "blockdev-add", **{"driver": "raw", "node-name": f"disk{number}", "file": file})
            place = {"bus": f"slot{number}", "drive": f"disk{number}", "serial": serial(number)}
            monitor.execute(directory, "device_add", driver="nvme", id=f"nvme{number}", **place)


def serial(number: int) -> str:
    """A disk's serial number."""
    return f"numapin-lab-{number}"


def network(number: int, device: Device, before: int, place: Place) -> c.Iterator[str]:
    """One network card: the first leads to this machine's loopback, the second to the fleet, others nowhere."""
    mac = f"{MANAGEMENT_MAC[:-2]}{number:02x}"
    way = "user,restrict=on"
    if before == 0:
        mac = MANAGEMENT_MAC
        forwarded = ((place.ssh_port, SSH_PORT), (place.http_port, HTTP_PORT))
        way = "user" + "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in forwarded)
    elif device.queues > 1:
        # QEMU makes the tap and takes it away with itself.
        way = f"tap,script=no,downscript=no,queues={device.queues}"
    elif before == 1:
        mac = f"{FLEET_MAC}{place.number:02x}"
        way = f"socket,mcast={fleet_group(place.purpose)},localaddr=127.0.0.1"
    card = "vmxnet3" if device.kind == "queues" else "virtio-net-pci"
    vectors = "" if device.kind == "queues" else f",mq=on,vectors={2 * device.queues + 8}"
    yield from ("-netdev", f"{way},id=network{number}")
    yield from ("-device", f"{card},netdev=network{number},bus=slot{number},mac={mac}{vectors},romfile=")


def fleet_group(purpose: str) -> str:
    """Group and port of the multicast that is a fleet's wire; it does not leave this machine's loopback.

    Nothing has to be set up for it, and a machine may come and go. Each checkout and purpose has its own.
    """
    digest = hashlib.sha256(f"{RUNNING} {purpose}".encode()).digest()
    return f"239.{digest[0]}.{digest[1]}.{digest[2]}:{20000 + digest[3]}"


def gpu_words(name: str, shape: Shape) -> c.Iterator[str]:
    """A word of the kernel command line for each GPU, in the order of their PCI addresses."""
    found = [(device.node or 0, number, device) for number, device in enumerate(shape.devices) if device.kind == "gpu"]
    for node, number, device in sorted(found, key=lambda one: one[:2]):
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"gpu{number}.{name}.lab.invalid")
        yield f"lab.gpu={node},GPU-{identity},{device.memory_mib},{device.name.replace(' ', '_')}"


def kernel_command_line(name: str, shape: Shape) -> str:
    """The options all machines share, and this one's name, identity, GPUs and offline CPUs."""
    machine_id = hashlib.sha256(f"numapin lab {name}".encode()).hexdigest()[:32]
    own = [f"systemd.hostname={name}", f"systemd.machine_id={machine_id}"]
    if shape.offline_cpus:
        own.append("lab.offline=" + ",".join(map(str, sorted(numbers(shape.offline_cpus)))))
    return " ".join([*KERNEL_OPTIONS, *own, *gpu_words(name, shape), *shape.kernel_options])

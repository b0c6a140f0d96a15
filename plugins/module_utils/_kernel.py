# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The kernel of a Linux host: settings that concern placement, what it runs on, who else moves things, allowed CPUs.

Only files are read, no command is run, and of processes nothing but the CPUs of the first one is looked at.
``/proc/1/environ`` is left alone although container managers leave their name there: it holds secrets too, and what is
read here ends up in captures.

Kernel sources: Documentation/admin-guide/sysctl/kernel.rst (numa_balancing) and vm.rst (zone_reclaim_mode),
Documentation/admin-guide/mm/transhuge.rst, Documentation/ABI/testing/sysfs-devices-system-cpu (isolated, nohz_full),
Documentation/admin-guide/cgroup-v2.rst (cgroup.events). Names and order of the tests for virtual machines and
containers are those of ``systemd-detect-virt`` (src/basic/virt.c in systemd).
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._cpuset import (
    CpusetError,
    format_cpulist,
    parse_cpulist,
)

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

_CPU = "/sys/devices/system/cpu"
_DMI = "/sys/class/dmi/id"
_CGROUP = "/sys/fs/cgroup"
_TREE = "/proc/device-tree"
_NONE = "none"
_ALLOWED_LINE = re.compile(r"^Cpus_allowed_list:[ \t]*(\S*)[ \t]*$", re.MULTILINE)
_CHOSEN = re.compile(r"\[([a-z]+)\]")
_FLAGS = re.compile(r"^flags\t*: (.*)$", re.MULTILINE)
# The first CPU's entry with its flags: /proc/cpuinfo of a large machine takes the kernel a second to write.
_CPUINFO_BYTES = 4096
_XEN_DOM0 = 1 << 11  # XENFEAT_dom0, xen/include/public/features.h
# Where systemd's tree can be: unified hosts; hybrid hosts; hosts with cgroup v1 only.
_CGROUP_TREES = (_CGROUP, f"{_CGROUP}/unified", f"{_CGROUP}/systemd")
_PROFILE_LIMIT = 200

# The product before the vendor, which is the same (QEMU) with and without KVM.
_DMI_FILES = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
_DMI_NAMES = (
    ("KVM", "kvm"),
    ("OpenStack", "kvm"),
    ("KubeVirt", "kvm"),
    ("Amazon EC2", "amazon"),
    ("QEMU", "qemu"),
    ("VMware", "vmware"),
    ("VMW", "vmware"),
    ("innotek GmbH", "oracle"),
    ("VirtualBox", "oracle"),
    ("Oracle Corporation", "oracle"),
    ("Xen", "xen"),
    ("Bochs", "bochs"),
    ("Parallels", "parallels"),
    ("BHYVE", "bhyve"),
    ("Hyper-V", "microsoft"),
    ("Apple Virtualization", "apple"),
    ("Google Compute Engine", "google"),
)
# These say more than the hypervisor's own name: KVM is below some of them.
_DMI_FIRST = frozenset({"oracle", "xen", "amazon", "parallels", "google"})
# Firmware that physical machines of the same vendors have too.
_DMI_OF_METAL_TOO = frozenset({"oracle", "amazon", "google"})

_CONTAINERS = frozenset(
    {"lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "rkt", "wsl", "proot", "pouch", "openvz"}
)
_CONTAINER_OTHER = "container-other"
# Docker comes last: other managers put its file there too.
_CONTAINER_FILES = (("/run/.containerenv", "podman"), ("/.dockerenv", "docker"))


class Irqbalance(t.NamedTuple):
    """Whether the service that moves interrupts runs; ``None`` when systemd's services cannot be seen."""

    active: bool | None


class Tuned(t.NamedTuple):
    """Whether TuneD runs, and the profile that was last chosen (it stays chosen while TuneD is stopped)."""

    active: bool | None
    profile: str | None


class Kernel(t.NamedTuple):
    """``None`` is a kernel without the feature, or what cannot be seen. CPU sets are cpulists, empty for no CPU."""

    release: str | None
    numa_balancing: int | None  # bit mask: 1 balances, 2 tiers memory
    zone_reclaim_mode: int | None  # bit mask
    transparent_hugepage: str | None  # always | madvise | never
    cgroup_version: int | None  # 2: unified; 1: version 1 controllers, hybrid hosts included
    cpuset_enforced: bool | None  # AllowedCPUs= and AllowedMemoryNodes= are a fence: version 2 has the controller
    isolated_cpus: str | None
    nohz_full_cpus: str | None
    virtualization: str | None  # as `systemd-detect-virt --vm` prints it: none | kvm | qemu | vmware | amazon | ...
    container: str | None  # as `systemd-detect-virt --container` prints it: none | docker | podman | ...
    irqbalance: Irqbalance
    tuned: Tuned


def read_kernel(host: Host) -> tuple[Kernel, tuple[str, ...]]:
    """Return the kernel's settings and the warnings about files that hold what a kernel does not write."""
    return _Reader(host).read()


def container_of(host: Host) -> str | None:
    """Return the kind of container that the host is, as ``Kernel.container``."""
    return _Reader(host).container()


def allowed_cpus(host: Host, online: frozenset[int]) -> tuple[frozenset[int], tuple[str, ...]]:
    """Return those of the online CPUs that services of the host may use, and warnings about damaged files.

    They are those of the first process, unless these are fewer than the host has: systemd narrows itself, and nobody
    else for good, with ``CPUAffinity=`` in system.conf, and the kernel leaves isolated CPUs out. What binds everybody
    is the cpuset at the top of the cgroup tree, if that is the tree of this host or container.
    """
    warnings: list[str] = []

    def cpus_in(path: str, text: str | None) -> frozenset[int]:
        try:
            return parse_cpulist(text or "") & online
        except CpusetError as error:
            warnings.append(f"{path}: {error}")
            return frozenset()

    first: frozenset[int] = frozenset()
    for path in ("/proc/1/status", "/proc/self/status"):
        match = _ALLOWED_LINE.search(host.read_text(path) or "")
        first = cpus_in(f"{path}: Cpus_allowed_list", match[1]) if match else first
        if first:
            break
    if not first or first == online:
        return online, tuple(warnings)
    for path in _cpuset_files(host):
        allowed = cpus_in(path, host.read_text(path))
        if allowed:
            isolated = f"{_CPU}/isolated"
            return (allowed - cpus_in(isolated, host.read_text(isolated))) or first, tuple(warnings)
    return first, tuple(warnings)


def _cpuset_files(host: Host) -> list[str]:
    """Return where the cpuset that binds this host or container may be; nothing in a container with the host's tree."""
    if host.exists(f"{_CGROUP}/cgroup.controllers"):
        files = [f"{_CGROUP}/cpuset.cpus.effective"]
        is_its_root = not host.exists(f"{_CGROUP}/cgroup.type")
    else:
        files = [f"{_CGROUP}/cpuset/cpuset.effective_cpus", f"{_CGROUP}/cpuset/cpuset.cpus"]
        # Every tree of version 1 has this file at its root and nowhere else.
        is_its_root = host.exists(f"{_CGROUP}/cpuset/release_agent")
    return [] if is_its_root and container_of(host) not in (None, _NONE) else files


class _Reader:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._warnings: list[str] = []
        self._cgroup_names = frozenset(host.list_dir(_CGROUP) or ())

    def read(self) -> tuple[Kernel, tuple[str, ...]]:
        container = self.container()
        kernel = Kernel(
            release=self._line("/proc/sys/kernel/osrelease"),
            numa_balancing=self._count_in("/proc/sys/kernel/numa_balancing"),
            zone_reclaim_mode=self._count_in("/proc/sys/vm/zone_reclaim_mode"),
            transparent_hugepage=self._chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
            cgroup_version=self._cgroup_version(),
            cpuset_enforced=self._cpuset_enforced(),
            isolated_cpus=self._cpus_in(f"{_CPU}/isolated"),
            nohz_full_cpus=self._cpus_in(f"{_CPU}/nohz_full"),
            virtualization=self._virtualization(),
            container=container,
            irqbalance=Irqbalance(self._is_active("irqbalance.service", container)),
            tuned=Tuned(self._is_active("tuned.service", container), self._tuned_profile()),
        )
        return kernel, tuple(self._warnings)

    # Settings

    def _chosen(self, path: str) -> str | None:
        match = _CHOSEN.search(self._host.read_text(path, 4096) or "")
        return match[1] if match else None

    def _cgroup_version(self) -> int | None:
        if not self._cgroup_names:
            return None
        # The unified hierarchy has its files at the top; v1 and hybrid hosts have a directory for each controller.
        return 2 if "cgroup.controllers" in self._cgroup_names else 1

    def _cpuset_enforced(self) -> bool | None:
        """systemd's cpusets need version 2's controller; a container may have a tree of version 2 without it."""
        version = self._cgroup_version()
        if version != 2:
            return None if version is None else False
        controllers = (self._host.read_text(f"{_CGROUP}/cgroup.controllers", 4096) or "").split()
        if not controllers and not self._host.is_running_machine:
            return None  # older captures know the names of these files only
        return "cpuset" in controllers

    def _cpus_in(self, path: str) -> str | None:
        text = self._host.read_text(path)
        if text is None:
            return None
        # nohz_full on kernels that can, without the boot parameter: there is no mask to print, and some print a NUL.
        text = text.strip("\0 \n")
        if text == "(null)":
            return ""
        try:
            return format_cpulist(parse_cpulist(text))
        except CpusetError as error:
            self._warnings.append(f"{path}: {error}")
            return None

    # What it runs on

    def _virtualization(self) -> str | None:
        """Tell the hypervisor as ``systemd-detect-virt --vm`` does, without the CPUID instruction.

        Instead of the signature in CPUID there is the flag ``hypervisor`` in /proc/cpuinfo, set by every hypervisor
        that does not hide, and the clock that only KVM offers.
        """
        cpuinfo = self._host.read_head("/proc/cpuinfo", _CPUINFO_BYTES)
        flags = _FLAGS.search(cpuinfo or "")
        # None: not an x86 CPU, or nothing to see.
        flagged = "hypervisor" in flags[1].split() if flags else None
        said = {name: self._line(f"{_DMI}/{name}") for name in _DMI_FILES}
        firmware = _name_in_dmi(said)
        if firmware in _DMI_OF_METAL_TOO and (flagged is False or ".metal" in (said["product_name"] or "")):
            firmware = None
        if firmware in _DMI_FIRST:
            return firmware
        if re.search(r"^vendor_id\t*: User Mode Linux", cpuinfo or "", re.MULTILINE):
            return "uml"
        if self._host.exists("/proc/xen") or self._line("/sys/hypervisor/type") == "xen":
            if not self._is_xen_dom0():
                return "xen"
            if not flagged:
                return _NONE
        if "kvm-clock" in self._clocks():
            return "kvm"
        if firmware is not None:
            return firmware
        if self._line("/sys/hypervisor/type") is not None:
            return "vm-other"
        by_device_tree = self._name_in_device_tree()
        if by_device_tree is not None:
            return by_device_tree
        if flagged:
            return "vm-other"
        seen = flags is not None or any(said.values()) or self._host.exists(f"{_TREE}/compatible")
        return _NONE if seen else None

    def _is_xen_dom0(self) -> bool:
        features = self._line("/sys/hypervisor/properties/features")
        if features is not None and re.fullmatch("[0-9a-fA-F]{1,16}", features):
            return bool(int(features, 16) & _XEN_DOM0)
        return "control_d" in (self._line("/proc/xen/capabilities") or "").split(",")

    def _clocks(self) -> list[str]:
        path = "/sys/devices/system/clocksource/clocksource0/available_clocksource"
        return (self._host.read_text(path, 4096) or "").split()

    def _name_in_device_tree(self) -> str | None:
        """Return what the device tree of an ARM, POWER or RISC-V machine says; ``None`` for no hypervisor."""
        names = self._host.list_dir(_TREE)
        if names is None:
            return None
        # Properties are strings that end with a NUL.
        kind = self._host.read_text(f"{_TREE}/hypervisor/compatible", 4096)
        if kind is not None:
            for part, name in (("linux,kvm", "kvm"), ("xen", "xen"), ("vmware", "vmware")):
                if part in kind:
                    return name
            return "vm-other"
        by_hmc = "ibm,partition-name" in names and "hmc-managed?" in names
        if by_hmc and not self._host.exists(f"{_TREE}/chosen/qemu,graphic-width"):
            return "powervm"
        if any("fw-cfg" in name for name in names):
            return "qemu"
        compatible = (self._host.read_text(f"{_TREE}/compatible", 4096) or "").split("\0")
        return "qemu" if compatible[0] == "qemu,pseries" else None

    def container(self) -> str | None:
        if self._host.exists("/proc/vz") and not self._host.exists("/proc/bc"):
            return "openvz"
        if re.search("Microsoft|WSL", self._line("/proc/sys/kernel/osrelease") or ""):
            return "wsl"
        manager = self._line("/run/host/container-manager") or self._line("/run/systemd/container")
        if manager is not None and manager != "oci":
            return manager if manager in _CONTAINERS else _CONTAINER_OTHER
        for path, name in _CONTAINER_FILES:
            if self._host.exists(path):
                return name
        if manager is not None or self._is_below_the_cgroup_root():
            return _CONTAINER_OTHER
        # Without the cgroup tree, too little was seen to say that there is no container.
        return _NONE if self._cgroup_names else None

    def _is_below_the_cgroup_root(self) -> bool:
        """Whether the cgroup tree starts in the middle: a namespace of its own."""
        if "cgroup.controllers" in self._cgroup_names:
            return "cgroup.type" in self._cgroup_names
        if "systemd" not in self._cgroup_names:
            return False
        # Every tree of version 1 has this file at its root and nowhere else.
        return self._host.exists(f"{_CGROUP}/systemd/cgroup.procs") and not self._host.exists(
            f"{_CGROUP}/systemd/release_agent"
        )

    # Who else moves things

    def _is_active(self, unit: str, container: str | None) -> bool | None:
        """Whether a service of systemd has processes, as its cgroup says; ``None`` when that cannot be seen."""
        for tree in _CGROUP_TREES:
            directory = f"{tree}/system.slice"
            if not self._host.exists(directory):
                continue
            events = self._host.read_text(f"{directory}/{unit}/cgroup.events", 4096)
            if events is not None:
                active = "populated 1" in events.splitlines()
            else:
                # Version 1 has no events; systemd removes the cgroup of a service that has ended.
                active = bool((self._host.read_text(f"{directory}/{unit}/cgroup.procs") or "").strip())
            if active:
                return True
            # A container's systemd knows nothing of the host's services, and interrupts are the host's.
            return False if container in (_NONE, None) else None
        return None

    def _tuned_profile(self) -> str | None:
        profile = self._line("/etc/tuned/active_profile")
        return profile if profile and len(profile) <= _PROFILE_LIMIT and profile.isprintable() else None

    # Single files

    def _line(self, path: str) -> str | None:
        """Return the first line of a short file without blanks around it; ``None`` when there is none."""
        lines = (self._host.read_text(path, 4096) or "").splitlines()
        return lines[0].strip("\0 \t") or None if lines else None

    def _count_in(self, path: str) -> int | None:
        value = self._host.read_int(path)
        return None if value is None or value < 0 else value


def _name_in_dmi(said: t.Mapping[str, str | None]) -> str | None:
    """Return the hypervisor whose firmware this is."""
    for text in said.values():
        for start, name in _DMI_NAMES:
            if (text or "").startswith(start):
                return name
    # Hyper-V names itself in the product's version only from 2022 on; Surface devices have the same vendor.
    if said["sys_vendor"] == "Microsoft Corporation" and said["product_name"] == "Virtual Machine":
        return "microsoft"
    return None

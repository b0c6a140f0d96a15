# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel says about itself, what it runs on, and who else moves things: from files alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._kernel import (
    Irqbalance,
    Kernel,
    Tuned,
    read_kernel,
)
from ansible_collections.numapin.inference.plugins.module_utils._topology import to_plain
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import trees

if t.TYPE_CHECKING:
    from pathlib import Path

DMI = "sys/class/dmi/id"
TREE = "proc/device-tree"
CLOCKS = "sys/devices/system/clocksource/clocksource0/available_clocksource"
METAL = {"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme hypervisors\n"}
GUEST = {"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme hypervisor ssse3\n\nprocessor\t: 1\n"}
ARM = {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n"}
# A host's own cgroup trees: unified, hybrid, and version 1 alone.
UNKNOWN = (None, None, None, None, None, None, None, None, None, None)
NOTHING_KNOWN = Kernel(*UNKNOWN, Irqbalance(None), Tuned(None, None))
UNIFIED = {"sys/fs/cgroup/cgroup.controllers": "cpuset cpu\n", "sys/fs/cgroup/system.slice/cgroup.procs": ""}
HYBRID = {
    "sys/fs/cgroup/cpuset/tasks": "1\n",
    "sys/fs/cgroup/systemd/release_agent": "\n",
    "sys/fs/cgroup/unified/system.slice/cgroup.procs": "",
}
VERSION_1 = {
    "sys/fs/cgroup/cpuset/tasks": "1\n",
    "sys/fs/cgroup/systemd/release_agent": "\n",
    "sys/fs/cgroup/systemd/system.slice/cgroup.procs": "",
}


def read(root: Path, files: t.Mapping[str, str]) -> Kernel:
    kernel, warnings = read_with_warnings(root, files)
    assert warnings == ()
    return kernel


def read_with_warnings(root: Path, files: t.Mapping[str, str]) -> tuple[Kernel, tuple[str, ...]]:
    for path, text in files.items():
        trees.write(root / path, text)
    return read_kernel(Host(str(root)))


def dmi(**said: str) -> dict[str, str]:
    return {f"{DMI}/{name}": f"{text}\n" for name, text in said.items()}


def test_everything(tmp_path: Path) -> None:
    kernel = read(
        tmp_path,
        {
            **METAL,
            **UNIFIED,
            **dmi(sys_vendor="Supermicro", product_name="SYS-821GE-TNHR"),
            "proc/sys/kernel/osrelease": "6.1.0-40-amd64\n",
            "proc/sys/kernel/numa_balancing": "1\n",
            "proc/sys/vm/zone_reclaim_mode": "0\n",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            "sys/devices/system/cpu/isolated": "2-3,6\n",
            "sys/devices/system/cpu/nohz_full": "2-3\n",
            "sys/fs/cgroup/system.slice/irqbalance.service/cgroup.events": "populated 1\nfrozen 0\n",
            "etc/tuned/active_profile": "throughput-performance\n",
        },
    )
    assert to_plain(kernel) == {
        "release": "6.1.0-40-amd64",
        "numa_balancing": 1,
        "zone_reclaim_mode": 0,
        "transparent_hugepage": "madvise",
        "cgroup_version": 2,
        "cpuset_enforced": True,
        "isolated_cpus": "2-3,6",
        "nohz_full_cpus": "2-3",
        "virtualization": "none",
        "container": "none",
        "irqbalance": {"active": True},
        "tuned": {"active": False, "profile": "throughput-performance"},
    }


def test_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, {}) == NOTHING_KNOWN


@pytest.mark.parametrize(
    ("text", "expected"),
    # "(null)": a kernel that can, started without the parameter.
    [("\n", ""), ("", ""), (" (null)\n", ""), ("(null)\n", ""), ("\0", ""), ("1,3-5\n", "1,3-5"), ("3,1\n", "1,3")],
)
def test_isolated_cpus(tmp_path: Path, text: str, expected: str) -> None:
    files = {"sys/devices/system/cpu/isolated": text, "sys/devices/system/cpu/nohz_full": text}
    kernel = read(tmp_path, files)
    assert (kernel.isolated_cpus, kernel.nohz_full_cpus) == (expected, expected)


def test_damaged_files(tmp_path: Path) -> None:
    damaged = {
        "proc/sys/kernel/numa_balancing": "-1\n",
        "proc/sys/vm/zone_reclaim_mode": "0x1\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise never\n",
        "sys/devices/system/cpu/isolated": "1-x\n",
        "etc/tuned/active_profile": "a\x00b\n",
        "proc/cpuinfo": "flags",
    }
    kernel, warnings = read_with_warnings(tmp_path, damaged)
    assert kernel == NOTHING_KNOWN
    assert len(warnings) == 1
    assert warnings[0].startswith("/sys/devices/system/cpu/isolated: '1-x' in the CPU list '1-x' is wrong")


def test_binary_files(tmp_path: Path) -> None:
    for path in ("proc/cpuinfo", f"{DMI}/sys_vendor", "etc/tuned/active_profile", "proc/sys/kernel/osrelease"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"\xff\x00\xfe\n" * 1000)
    kernel, warnings = read_kernel(Host(str(tmp_path)))
    assert (kernel.virtualization, kernel.container, warnings) == ("none", None, ())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (METAL, "none"),
        ({**METAL, **dmi(sys_vendor="Dell Inc.", product_name="PowerEdge XE9680")}, "none"),
        # KVM: its clock tells it from QEMU's own emulation, and from whatever the firmware calls itself.
        ({**GUEST, CLOCKS: "kvm-clock tsc acpi_pm\n"}, "kvm"),
        ({**GUEST, CLOCKS: "tsc kvm-clock\n", **dmi(sys_vendor="QEMU", product_name="Standard PC")}, "kvm"),
        ({**GUEST, CLOCKS: "tsc hpet\n", **dmi(sys_vendor="QEMU", product_name="Standard PC")}, "qemu"),
        ({**METAL, **dmi(sys_vendor="QEMU", product_name="Standard PC")}, "qemu"),
        ({**GUEST, **dmi(sys_vendor="Red Hat", product_name="KVM")}, "kvm"),
        ({**GUEST, **dmi(sys_vendor="OpenStack Foundation", product_name="OpenStack Nova")}, "kvm"),
        # What says more than that KVM is below.
        ({**GUEST, CLOCKS: "kvm-clock\n", **dmi(sys_vendor="Amazon EC2", product_name="p5.48xlarge")}, "amazon"),
        ({**GUEST, CLOCKS: "kvm-clock\n", **dmi(sys_vendor="Google", product_name="Google Compute Engine")}, "google"),
        ({**GUEST, **dmi(sys_vendor="innotek GmbH", product_name="VirtualBox")}, "oracle"),
        # The same firmware on the vendor's physical machines.
        ({**METAL, **dmi(sys_vendor="Amazon EC2", product_name="p4d.metal")}, "none"),
        ({**METAL, **dmi(sys_vendor="Oracle Corporation", product_name="ORACLE SERVER X9-2")}, "none"),
        ({**ARM, **dmi(sys_vendor="Amazon EC2", product_name="c7g.metal")}, "none"),
        ({**ARM, **dmi(sys_vendor="Amazon EC2", product_name="c7g.metal-48xl")}, "none"),
        ({**ARM, **dmi(sys_vendor="Amazon EC2", product_name="g5g.xlarge")}, "amazon"),
        ({**GUEST, **dmi(sys_vendor="VMware, Inc.", product_name="VMware20,1")}, "vmware"),
        ({**GUEST, **dmi(sys_vendor="Microsoft Corporation", product_name="Virtual Machine")}, "microsoft"),
        ({**METAL, **dmi(sys_vendor="Microsoft Corporation", product_name="Surface Laptop")}, "none"),
        # Xen: a guest, the first domain (which is not one), and the first domain inside another hypervisor.
        ({**GUEST, **dmi(sys_vendor="Xen", product_name="HVM domU")}, "xen"),
        ({**GUEST, "sys/hypervisor/type": "xen\n", "sys/hypervisor/properties/features": "00002705\n"}, "xen"),
        ({**METAL, "sys/hypervisor/type": "xen\n", "sys/hypervisor/properties/features": "00002f05\n"}, "none"),
        ({**METAL, "proc/xen/capabilities": "control_d\n"}, "none"),
        ({**METAL, "proc/xen/capabilities": ""}, "xen"),
        (
            {
                **GUEST,
                CLOCKS: "kvm-clock\n",
                "sys/hypervisor/type": "xen\n",
                "sys/hypervisor/properties/features": "00002f05\n",
            },
            "kvm",
        ),
        ({**GUEST, "sys/hypervisor/type": "other\n"}, "vm-other"),
        (GUEST, "vm-other"),
        ({"proc/cpuinfo": "processor\t: 0\nvendor_id\t: User Mode Linux\n"}, "uml"),
        # No x86: firmware, then the device tree.
        (ARM, None),
        ({**ARM, **dmi(sys_vendor="NVIDIA", product_name="GH200 P4352")}, "none"),
        ({**ARM, **dmi(sys_vendor="QEMU", product_name="QEMU Virtual Machine")}, "qemu"),
        ({**ARM, f"{TREE}/hypervisor/compatible": "linux,kvm\0"}, "kvm"),
        ({**ARM, f"{TREE}/hypervisor/compatible": "xen,xen-4.17\0xen,xen\0"}, "xen"),
        ({**ARM, f"{TREE}/hypervisor/compatible": "acme\0"}, "vm-other"),
        ({**ARM, f"{TREE}/fw-cfg@9020000/reg": "x"}, "qemu"),
        ({f"{TREE}/compatible": "qemu,pseries\0"}, "qemu"),
        ({f"{TREE}/ibm,partition-name": "lpar1\0", f"{TREE}/hmc-managed?": "\0"}, "powervm"),
        ({f"{TREE}/compatible": "ibm,powernv\0ibm,p9-openbmc\0"}, "none"),
    ],
)
def test_virtualization(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    assert read(tmp_path, files).virtualization == expected


def test_of_a_large_cpuinfo_only_the_beginning_is_read(tmp_path: Path) -> None:
    # 768 CPUs: more than the 1 MiB that a file may have.
    entry = GUEST["proc/cpuinfo"] + "power management:" + " " * 2000 + "\n\n"
    assert read(tmp_path, {"proc/cpuinfo": entry * 768}).virtualization == "vm-other"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (UNIFIED, "none"),
        (HYBRID, "none"),
        (VERSION_1, "none"),
        ({}, None),
        ({**UNIFIED, "run/systemd/container": "podman\n"}, "podman"),
        ({**UNIFIED, "run/systemd/container": "acme\n"}, "container-other"),
        ({**UNIFIED, "run/systemd/container": "lxc"}, "lxc"),
        ({**UNIFIED, "run/host/container-manager": "systemd-nspawn\n", "run/systemd/container": "x"}, "systemd-nspawn"),
        # The word of the OCI runtime: the manager's file says more.
        ({**UNIFIED, "run/systemd/container": "oci\n", "run/.containerenv": ""}, "podman"),
        ({**UNIFIED, "run/systemd/container": "oci\n"}, "container-other"),
        ({"run/.containerenv": 'engine="podman-5"\n', ".dockerenv": ""}, "podman"),
        ({".dockerenv": ""}, "docker"),
        ({**UNIFIED, "proc/vz/version": ""}, "openvz"),
        ({**UNIFIED, "proc/vz/version": "", "proc/bc/0": ""}, "none"),
        ({"proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2\n"}, "wsl"),
        # A cgroup namespace gives away what left no file.
        ({**UNIFIED, "sys/fs/cgroup/cgroup.type": "domain\n"}, "container-other"),
        ({"sys/fs/cgroup/cpuset/tasks": "1\n", "sys/fs/cgroup/systemd/cgroup.procs": "1\n"}, "container-other"),
    ],
)
def test_containers(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    assert read(tmp_path, files).container == expected


@pytest.mark.parametrize(
    ("files", "version"),
    [(UNIFIED, 2), (HYBRID, 1), (VERSION_1, 1), ({}, None)],
)
def test_cgroup_versions(tmp_path: Path, files: dict[str, str], version: int | None) -> None:
    assert read(tmp_path, files).cgroup_version == version


@pytest.mark.parametrize(
    ("files", "enforced"),
    [
        ({**UNIFIED, "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io\n"}, True),
        # A container on a hybrid host: a tree of version 2, while version 1 has the controller.
        ({**UNIFIED, "sys/fs/cgroup/cgroup.controllers": "hugetlb\n"}, False),
        # A capture of an earlier release.
        ({**UNIFIED, "sys/fs/cgroup/cgroup.controllers": ""}, None),
        (HYBRID, False),
        (VERSION_1, False),
        ({}, None),
    ],
)
def test_cpusets_are_enforced_by_version_2_with_its_controller(
    tmp_path: Path, files: dict[str, str], enforced: bool | None
) -> None:
    assert read(tmp_path, files).cpuset_enforced is enforced


@pytest.mark.parametrize(
    ("tree", "directory"),
    [
        (UNIFIED, "sys/fs/cgroup/system.slice"),
        (HYBRID, "sys/fs/cgroup/unified/system.slice"),
        (VERSION_1, "sys/fs/cgroup/systemd/system.slice"),
    ],
)
@pytest.mark.parametrize(
    ("unit_files", "active"),
    [
        ({}, False),
        ({"cgroup.procs": "812\n"}, True),
        ({"cgroup.procs": ""}, False),
        ({"cgroup.events": "populated 1\nfrozen 0\n", "cgroup.procs": ""}, True),
        ({"cgroup.events": "populated 0\nfrozen 0\n", "cgroup.procs": ""}, False),
    ],
)
def test_services(
    tmp_path: Path, tree: dict[str, str], directory: str, unit_files: dict[str, str], active: bool
) -> None:
    unit = {f"{directory}/irqbalance.service/{name}": text for name, text in unit_files.items()}
    kernel = read(tmp_path, {**tree, **unit})
    assert (kernel.irqbalance.active, kernel.tuned.active) == (active, False)


def test_a_container_does_not_see_the_services_of_its_host(tmp_path: Path) -> None:
    running = {"sys/fs/cgroup/system.slice/tuned.service/cgroup.events": "populated 1\n"}
    kernel = read(tmp_path, {**UNIFIED, "run/systemd/container": "podman\n", **running})
    assert kernel.irqbalance == Irqbalance(None)
    assert kernel.tuned == Tuned(active=True, profile=None)


def test_without_systemd_nothing_is_known_of_services(tmp_path: Path) -> None:
    kernel = read(tmp_path, {"sys/fs/cgroup/cgroup.controllers": "cpuset\n", "etc/tuned/active_profile": "a b\n"})
    assert kernel.irqbalance == Irqbalance(None)
    assert kernel.tuned == Tuned(active=None, profile="a b")


@pytest.mark.skipif(shutil.which("systemd-detect-virt") is None, reason="systemd-detect-virt is not installed")
@pytest.mark.parametrize("kind", ["vm", "container"])
def test_the_running_machine(kind: str) -> None:
    said = subprocess.run(
        ["systemd-detect-virt", f"--{kind}"], capture_output=True, text=True, timeout=20, check=False
    ).stdout.strip()
    kernel, warnings = read_kernel(Host("/"))
    assert (kernel.virtualization if kind == "vm" else kernel.container) == said
    assert kernel.release == os.uname().release
    assert warnings == ()

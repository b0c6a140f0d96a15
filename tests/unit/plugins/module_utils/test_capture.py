# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A capture reads back as the machine it was made of, and holds nothing that tells whose it is."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import stat
import tarfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.numapin.inference.plugins.module_utils import _archive, _capture
from ansible_collections.numapin.inference.plugins.module_utils._archive import (
    CaptureError,
    confined_target,
    opened_root,
    recorded_answers,
)
from ansible_collections.numapin.inference.plugins.module_utils._capture import (
    Capture,
    take_capture,
    write_archive,
)
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._facts import PARTS, gather
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._recording import Entry, RecordingHost
from ansible_collections.numapin.inference.plugins.module_utils._scrubber import Scrubber
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils import device_trees, trees
from ansible_collections.numapin.inference.tests.unit.plugins.module_utils.nvml_double import eight_gpus_double

Facts = dict[str, t.Any]
NO_SOURCES = GpuSources(nvml=None, nvidia_smi=None, recorded=None)
MACHINES = [
    trees.two_sockets,
    trees.two_sockets_smt_offline,
    trees.sparse_with_memory_only,
    trees.no_numa,
    trees.overlapping_nodes,
    trees.eight_gpus,
]
MAC = "0c:42:a1:65:1a:2b"
INTERFACE = "enx0c42a1651a2b"
INFINIBAND = "ibx0c42a10300651a2b"
UUID = "GPU-6a1ad42c-9d43-4aab-8ab9-8f2c1b8d4a01"


def facts_of(host: Host, sources: GpuSources = NO_SOURCES) -> Facts:
    return gather(host, frozenset(PARTS), {}, sources)


def read_back(capture: Capture, directory: Path) -> Facts:
    """Return the facts that the archive gives."""
    directory.mkdir(exist_ok=True)
    path = write_archive(str(directory / "machine.tar.gz"), capture.archive())
    with opened_root(path, str(directory)) as root:
        host = Host(root)
        return facts_of(host, NO_SOURCES._replace(recorded=recorded_answers(host)))


def members(capture: Capture) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Return what a stranger's tar finds in the archive."""
    with tarfile.open(fileobj=io.BytesIO(capture.archive()), mode="r:gz") as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            found[member.name] = (member, file.read() if file else b"")
        return found


def capture_of(root: Path, identifiers: bool = False) -> Capture:
    return take_capture(RecordingHost(str(root)), NO_SOURCES, identifiers)


def telling_machine(root: Path) -> Path:
    """A machine that tells in many places whose it is."""
    trees.lay_out(root, trees.two_sockets())
    device_trees.add_server(root)
    place = f"{device_trees.UPSTREAM}/0000:42:01.0/0000:44:00.0"
    device_trees.add_class_device(root, "net", place, INTERFACE, {"speed": "100000", "address": MAC})
    device_trees.add_class_device(root, "infiniband", "pci0000:60/0000:60:01.1/0000:61:00.0", INFINIBAND)
    trees.write(root / "proc/sys/kernel/hostname", "hopper17.example.com\n")
    trees.write(root / "proc/interrupts", f"     CPU0\n 42:    7  PCI-MSIX-0000:44:00.0  0-edge  {INTERFACE}-TxRx-0\n")
    trees.write(
        root / "proc/cmdline",
        f"BOOT_IMAGE=/vmlinuz root=UUID={UUID[4:]} ip=192.0.2.17 ds=nocloud;h=hopper17 secret=swordfish isolcpus=2-3"
        " numa_balancing=disable hugepagesz=1G hugepages=0:8,1:8\n",
    )
    trees.write(root / "etc/tuned/active_profile", f"for-hopper17-at-192.0.2.17-{MAC}\n")
    return root


@pytest.mark.parametrize("machine", MACHINES)
def test_facts_of_the_archive_are_those_of_the_machine(tmp_path: Path, machine: t.Callable[[], trees.Machine]) -> None:
    root = trees.lay_out(tmp_path / "machine", machine())
    capture = capture_of(root)
    assert read_back(capture, tmp_path / "archive") == capture.facts == facts_of(Host(str(root)))


def test_devices_read_back(tmp_path: Path) -> None:
    root = telling_machine(tmp_path / "machine")
    facts = read_back(capture_of(root, identifiers=True), tmp_path / "archive")
    assert facts == facts_of(Host(str(root)))
    assert [nic["name"] for nic in facts["nics"] if nic["pci_address"] == "0000:44:00.0"] == [INTERFACE]


def test_nvml_answers_read_back(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.eight_gpus())
    sources = NO_SOURCES._replace(nvml=eight_gpus_double)
    wanted = facts_of(Host(str(root)), sources)
    capture = take_capture(RecordingHost(str(root)), sources)
    facts = read_back(capture, tmp_path / "archive")

    stand_ins = [gpu["uuid"] for gpu in facts["gpus"]]
    assert stand_ins == [f"GPU-{number:08x}-0000-0000-0000-000000000000" for number in range(1, 9)]
    real = [gpu["uuid"] for gpu in wanted["gpus"]]
    text = json.dumps(wanted)
    for uuid, stand_in in zip(real, stand_ins):
        text = text.replace(uuid, stand_in)
    assert json.loads(text) == facts
    everything = b"".join(content for _member, content in members(capture).values())
    assert not [uuid for uuid in real if uuid.encode() in everything]
    assert [(r.kind, r.count) for r in capture.redactions] == [("uuid", 8)]


def test_the_running_machine_reads_back(tmp_path: Path) -> None:
    capture = take_capture(RecordingHost(), GpuSources(this_machine=True), identifiers=True)
    facts = read_back(capture, tmp_path / "archive")
    assert facts == capture.facts
    now = facts_of(Host(), GpuSources(this_machine=True))
    for node in (*facts["nodes"], *now["nodes"]):
        del node["memory_free_mib"], node["numastat"]
    assert facts == now
    assert len(capture.archive()) < 300 * 1024


def test_nothing_tells_whose_it_is(tmp_path: Path) -> None:
    root = telling_machine(tmp_path / "machine")
    capture = capture_of(root)
    found = members(capture)
    everything = "\n".join(f"{name} {m.linkname} {content.decode()}" for name, (m, content) in found.items())
    for secret in (MAC, "0c42a1", "hopper17", "192.0.2", "swordfish", "vmlinuz", "nocloud", UUID[4:]):
        assert secret not in everything, secret
    assert found["proc/cmdline"][1] == b"isolcpus=2-3 numa_balancing=disable hugepagesz=1G hugepages=0:8,1:8\n"
    assert found["proc/interrupts"][1].split()[-1] == b"enx1-TxRx-0"
    assert found["etc/tuned/active_profile"][1] == b"for-host-1-at-ip-1-mac-1\n"
    facts = read_back(capture, tmp_path / "archive")
    assert [nic["name"] for nic in facts["nics"] if nic["pci_address"] == "0000:44:00.0"] == ["enx1"]
    assert [device["name"] for device in facts["infiniband"]] == ["ibx2"]
    counts = {redaction.kind: redaction.count for redaction in capture.redactions}
    assert counts == {"interface_name": 2, "host_name": 1, "ip_address": 1, "mac_address": 1}
    told = json.loads(found["numapin/capture.json"][1])
    assert told["format"] == 1
    assert told["kernel_release"] == "6.1.0-40-amd64"
    assert {r["kind"] for r in told["redactions"]} == counts.keys()


def test_identifiers_stay_when_asked_for_and_secrets_do_not(tmp_path: Path) -> None:
    capture = capture_of(telling_machine(tmp_path / "machine"), identifiers=True)
    found = members(capture)
    assert f"sys/class/net/{INTERFACE}" in found
    assert found["etc/tuned/active_profile"][1].decode() == f"for-hopper17-at-192.0.2.17-{MAC}\n"
    assert b"swordfish" not in found["proc/cmdline"][1]
    assert capture.redactions == ()


def test_a_host_called_like_a_node(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    trees.write(root / "proc/sys/kernel/hostname", "node1\n")
    capture = capture_of(root)
    assert read_back(capture, tmp_path / "archive") == capture.facts
    assert capture.warnings == (
        "the host's name is also a word of its kernel, firmware or GPUs: it was not looked for",
    )


@pytest.mark.parametrize("name", ["numa", "Cache", "pci0000", "mlx5"])
def test_a_host_called_like_a_part_of_a_file_name(tmp_path: Path, name: str) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    device_trees.add_server(root)
    trees.write(root / "proc/sys/kernel/hostname", f"{name}\n")
    capture = capture_of(root)
    assert read_back(capture, tmp_path / "archive") == capture.facts
    assert [nic["node"] for nic in capture.facts["nics"]] == [nic["node"] for nic in facts_of(Host(str(root)))["nics"]]
    assert "sys/devices/pci0000:c0/0000:c0:01.1/0000:c1:00.0/class" in members(capture)
    (warning,) = capture.warnings
    assert warning.endswith("it was not looked for")


def test_a_host_called_like_its_interfaces(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    device_trees.add_server(root)
    device_trees.add_class_device(root, "net", "pci0000:c0/0000:c0:01.1/0000:c1:00.0", "hopper-ib0")
    trees.write(root / "proc/sys/kernel/hostname", "hopper\n")
    capture = capture_of(root)
    assert [nic["name"] for nic in read_back(capture, tmp_path / "archive")["nics"]] == ["host-1-ib0"]
    assert capture.warnings == ()


def test_a_name_that_would_change_the_facts_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.eight_gpus())
    trees.write(root / "proc/sys/kernel/hostname", "numa\n")
    monkeypatch.setattr(_capture, "_words", lambda *_given: set())
    capture = capture_of(root)
    assert read_back(capture, tmp_path / "archive") == capture.facts
    assert (capture.redactions, len(capture.warnings)) == ((), 1)


def test_an_archive_of_another_machine_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    monkeypatch.setattr(_capture, "_kept", lambda path, text: "" if path.endswith("/meminfo") else text)
    with pytest.raises(CaptureError, match=r"so none is made: nodes, warnings of its facts differ\. Please report"):
        capture_of(root)


def test_the_archive_is_the_same_for_the_same_machine(tmp_path: Path) -> None:
    first = telling_machine(tmp_path / "first")
    second = telling_machine(tmp_path / "second")
    assert capture_of(first).archive() == capture_of(second).archive()
    archived = [member for member, _content in members(capture_of(first)).values()]
    assert [member.name for member in archived] == sorted((m.name for m in archived), key=lambda name: f"/{name}")
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in archived} == {(0, 0, 0, "", "")}


def test_only_what_is_read_is_taken(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    trees.write(root / "etc/shadow", "root:x\n")
    trees.write(root / "sys/class/net/lo/address", MAC)
    trees.write(root / "sys/fs/cgroup/cpu.stat", "usage_usec 5\n")
    found = members(capture_of(root))
    assert not [name for name in found if name.startswith("etc") or name.endswith("address")]
    # The directory was listed: the name is known, and nobody asked for the content.
    assert found["sys/fs/cgroup/cpu.stat"][1] == b""


@pytest.mark.parametrize(
    ("top", "kept"),
    [
        ("cgroup.controllers", ["cgroup.controllers", "cpu.stat"]),
        ("systemd/release_agent", ["cpu,cpuacct", "cpu.stat", "cpuset", "systemd", "systemd/release_agent"]),
    ],
)
def test_the_cgroups_of_others_are_not_named(tmp_path: Path, top: str, kept: list[str]) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    cgroup = root / "sys/fs/cgroup"
    (cgroup / "cgroup.controllers").unlink()
    trees.write(cgroup / top, "cpuset cpu\n")
    trees.write(cgroup / "cpu.stat", "usage_usec 5\n")
    theirs = ["lxc.payload.acme-payroll", "machine.slice/acme", "user.slice", "acme"]
    mine = ["systemd", "cpuset", "cpu,cpuacct"] if top.startswith("systemd") else []
    for name in (*theirs, *mine):
        trees.write(cgroup / name / "cgroup.procs", "1\n")
    capture = capture_of(root)
    assert read_back(capture, tmp_path / "archive") == facts_of(Host(str(root)))
    below = [name[len("sys/fs/cgroup/") :] for name in members(capture) if name.startswith("sys/fs/cgroup/")]
    assert sorted(below) == sorted([*kept, *(["systemd/cgroup.procs"] if mine else [])])


def test_of_cpuinfo_the_kind_of_processor_is_kept(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets())
    text = (
        "vendor_id       : IBM/S390\n# processors    : 2\nfeatures\t: esan3 zarch\n"
        "processor 0: version = FF,  identification = 0133E8,  machine = 2964\n"
        "\ncpu number      : 0\nversion         : FF\nidentification  : 0133E8\nident           : 0133E8\n"
        "Serial\t\t: 00000000deadbeef\ncpu MHz\t\t: 5200\nflags\t\t: fpu hypervisor"
    )
    trees.write(root / "proc/cpuinfo", text)
    for identifiers in (False, True):
        kept = members(capture_of(root, identifiers))["proc/cpuinfo"][1].decode()
        assert [line.partition(":")[0].strip() for line in kept.splitlines() if line] == [
            "vendor_id",
            "# processors",
            "features",
            "flags",
        ]


def test_what_is_left_out_although_it_was_read(tmp_path: Path) -> None:
    root = telling_machine(tmp_path / "machine")
    serial = f"sys/class/net/{INTERFACE}/serial"
    trees.write(root / serial, "S6XNNA0R\n")
    trees.write(root / "proc/1/environ", "TOKEN=swordfish\0")
    # A name that was listed is no identifier.
    trees.write(root / "sys/devices/system/cpu/cpu0/topology/serial", "")
    for identifiers in (False, True):
        host = RecordingHost(str(root))
        assert host.read_text(f"/{serial}")
        assert host.read_text("/proc/1/environ")
        capture = take_capture(host, NO_SOURCES, identifiers)
        everything = b"".join(content for _member, content in members(capture).values())
        assert b"swordfish" not in everything
        assert (b"S6XNNA0R" in everything) == identifiers
        left_out = ["/proc/1/environ: it can hold secrets"]
        if not identifiers:
            place = f"/sys/devices/{device_trees.UPSTREAM}/0000:42:01.0/0000:44:00.0/net/enx1/serial"
            left_out.append(f"{place}: it holds nothing but an identifier")
        assert list(capture.left_out) == left_out
        assert "sys/devices/system/cpu/cpu0/topology/serial" in members(capture)


def test_interfaces_without_hardware_are_left_out(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    trees.write(root / "sys/devices/virtual/net/veth1234567/operstate", "up\n")
    (root / "sys/class/net").mkdir(parents=True)
    (root / "sys/class/net/veth1234567").symlink_to("../../devices/virtual/net/veth1234567")
    (root / "sys/class/net/eth0").symlink_to("../../devices/pci0000:00/0000:00:03.0/net/eth0")
    capture = capture_of(root)
    assert [path for path in capture.entries if "/net/" in path] == ["/sys/class/net/eth0"]
    assert read_back(capture, tmp_path / "archive") == capture.facts


def test_interrupts_and_their_modes(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    for number, mode in ((41, 0o444), (42, 0o644)):
        trees.write(root / f"proc/irq/{number}/smp_affinity_list", "0-3\n")
        (root / f"proc/irq/{number}/smp_affinity_list").chmod(mode)
    path = write_archive(str(tmp_path / "machine.tar.gz"), capture_of(root).archive())
    with opened_root(path, str(tmp_path)) as directory:
        managed, free = (Path(directory, f"proc/irq/{number}/smp_affinity_list") for number in (41, 42))
        assert managed.read_text(encoding="utf-8") == "0-3\n"
        assert stat.S_IMODE(managed.stat().st_mode) & 0o222 == 0
        assert stat.S_IMODE(free.stat().st_mode) & 0o200


def test_a_file_that_is_there_and_cannot_be_read(tmp_path: Path) -> None:
    trees.lay_out(tmp_path / "machine", trees.two_sockets())
    os.mkfifo(tmp_path / "machine/sys/pipe")
    trees.write(tmp_path / "machine/proc/mine", "seen\n")
    host = RecordingHost(str(tmp_path / "machine"))
    assert host.exists("/sys/pipe")
    assert host.exists("/proc/mine")
    assert not host.exists("/proc/nothing")
    recorded = host.recorded()
    assert recorded["/sys/pipe"] == Entry("directory")
    assert recorded["/proc/mine"].text == "seen\n"
    assert "/proc/nothing" not in recorded


def test_links_and_what_they_lead_to(tmp_path: Path) -> None:
    root = tmp_path / "machine"
    trees.write(root / "sys/real/place/file", "7\n")
    (root / "sys/bus").mkdir()
    (root / "sys/bus/near").symlink_to("../real/place")
    (root / "sys/bus/absolute").symlink_to("/sys/real")
    (root / "sys/bus/out").symlink_to("../../../../../../../../etc")
    (root / "sys/bus/round").symlink_to("round")
    host = RecordingHost(str(root))
    assert host.read_int("/sys/bus/near/file") == 7
    assert host.read_text("/sys/bus/absolute/place/file") == "7\n"
    assert host.read_text("/sys/bus/round/file") is None
    assert host.list_dir("/sys/bus") == ["absolute", "near", "out", "round"]
    recorded = host.recorded()
    links = {path: entry.text for path, entry in recorded.items() if entry.kind == "link"}
    assert links == {
        "/sys/bus/near": "../real/place",
        "/sys/bus/absolute": "../real",
        "/sys/bus/out": "../../etc",
        "/sys/bus/round": "round",
    }
    assert recorded["/sys/real/place/file"].text == "7\n"


@pytest.mark.parametrize(
    ("path", "target", "wanted"),
    [
        ("/sys/a", "../../x", "../x"),
        ("/sys/a/b/c", "/etc/passwd", "../../../etc/passwd"),
        ("/a", "b/../../../c", "c"),
        ("/sys/class/net/eth0", "../../devices/pci0000:00/eth0", "../../devices/pci0000:00/eth0"),
        ("/sys/a", "", "."),
    ],
)
def test_confined_target(path: str, target: str, wanted: str) -> None:
    assert confined_target(path, target) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"address {MAC}", "address mac-1"),
        (f"{MAC.upper()} {MAC} 0c-42-a1-65-1a-2b", "mac-1 mac-1 mac-2"),
        (f"80:00:02:08:fe:80:00:00:00:00:00:00:{MAC}:01:02", "mac-1"),
        ("node_guid 0c42:a103:0065:1a2b", "node_guid guid-1"),
        ("gid fe80:0000:0000:0000:0c42:a103:0065:1a2b", "gid ip-1"),
        ("2001:db8::17 and 2001:db8:0::17", "ip-1 and ip-1"),
        ("ip=192.0.2.17::192.0.2.1", "ip=ip-1::ip-2"),
        ("from 10.0.0.1:80.", "from ip-1:80."),
        ("1:2:3:4:5:6:7:8", "ip-1"),
        (
            f"{UUID} MIG-{UUID}/1/0",
            "GPU-00000001-0000-0000-0000-000000000000 MIG-GPU-00000001-0000-0000-0000-000000000000/1/0",
        ),
        ("GPU-9f3c2a1b00112233", "GPU-0000000000000001"),
        (f"{INTERFACE} rocex0c42a10300651a2b wlx0c42a1651a2b", "enx1 rocex2 wlx3"),
        ("Hopper17 hopper17.example.com hopper170", "host-1 host-2 hopper170"),
    ],
)
def test_identifiers_are_replaced(text: str, wanted: str) -> None:
    scrubber = Scrubber(["hopper17.example.com", "hopper17"])
    assert scrubber.text(text, "/proc/x") == wanted
    assert Scrubber(["hopper17.example.com", "hopper17"]).text(wanted, "/proc/x") == wanted
    assert scrubber.redactions()


@pytest.mark.parametrize(
    "text",
    [
        "0000:17:00.0",
        "../../../devices/pci0000:40/0000:40:01.1/0000:41:00.0/0000:42:00.0",
        "ffffffff,ffffffff,00000000,0000ffff",
        "0-31,64-95",
        "00-11-22",
        "12:34:56",
        "::1 127.0.0.1 0.0.0.0",
        "00:00:00:00:00:00 ff:ff:ff:ff:ff:ff 0000:0000:0000:0000",
        "6.1.0-40-amd64 4.18.0-513.5.1.el8_9.x86_64",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15",
        " 42:    7  PCI-MSIX-0000:44:00.0  0-edge  mlx5_comp0@pci:0000:44:00.0",
        "Node 0 MemTotal:  123456789012 kB",
        "cpu:type:x86,ven0000fam0006mod006A:feature:,0000,0001,0002",
    ],
)
def test_what_is_no_identifier_stays(text: str) -> None:
    scrubber = Scrubber(["hopper17"])
    assert scrubber.text(text, "/proc/x") == text
    assert scrubber.redactions() == ()


def test_a_release_that_looks_like_an_address(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path / "machine", trees.two_sockets())
    release = "5.15.153.1-microsoft-standard-WSL2"
    trees.write(root / "proc/sys/kernel/osrelease", f"{release}\n")
    capture = capture_of(root)
    assert read_back(capture, tmp_path / "archive")["kernel"]["release"] == release


def test_a_stand_in_never_takes_a_name_that_is_there() -> None:
    assert Scrubber(taken={"enx1", "eth0"}).text(INTERFACE, "/x") == "enx2"


def test_what_the_last_look_finds_is_an_error() -> None:
    entries = {"/sys/x": Entry("file", f"{MAC}\n"), f"/sys/{INTERFACE}": Entry("directory")}
    with pytest.raises(
        CaptureError, match=r"so none is made: interface name \(names of files\), mac address \(/sys/x\)"
    ):
        _capture._refuse_identifiers(entries, [])


def test_files_of_nothing_but_an_identifier(tmp_path: Path) -> None:
    assert _capture._why_not("/sys/class/nvme/nvme0/serial", Entry("file", "S6XNNA0R\n"), False) is not None
    assert _capture._why_not("/sys/class/nvme/nvme0/serial", Entry("file", "S6XNNA0R\n"), True) is None
    assert _capture._why_not("/proc/1/environ", Entry("file", "A=b"), True) == "it can hold secrets"
    assert _capture._why_not("/sys/class/nvme/nvme0/model", Entry("file", "X\n"), False) is None


def test_the_version_is_the_collections() -> None:
    top = Path(_capture.__file__).parents[2]
    if (top / "MANIFEST.json").exists():
        version = json.loads((top / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]["version"]
    else:
        version = re.findall(r"^version: (\S+)$", (top / "galaxy.yml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert version == _capture.COLLECTION_VERSION


# Writing


def test_write_archive(tmp_path: Path) -> None:
    path = tmp_path / "machine.tar.gz"
    path.write_bytes(b"old")
    assert write_archive(str(path), b"new") == str(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["machine.tar.gz"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("machine.tar.gz", "is not absolute"),
        ("{}/missing/machine.tar.gz", "directory .*/missing does not exist: make it"),
        ("{}", "is no regular file"),
        ("/dev/null", "is no regular file"),
        ("/proc/machine.tar.gz", "of 1 bytes cannot be written to /proc/machine.tar.gz: .*; give another path"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        write_archive(path.format(tmp_path), b"x")


# Reading archives of strangers


def made(path: Path, *given: tuple[str, t.Any]) -> Path:
    """Write a tar.gz: content for a file, None for a directory, a (type, link name) for anything else."""
    with tarfile.open(path, "w:gz") as archive:
        for name, what in given:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
                archive.addfile(member, io.BytesIO(what))
                continue
            member.type, member.linkname = (tarfile.DIRTYPE, "") if what is None else what
            archive.addfile(member)
    return path


def test_a_directory_is_its_own_root(tmp_path: Path) -> None:
    with opened_root(str(tmp_path)) as root:
        assert root == str(tmp_path)
    with opened_root(str(tmp_path / "missing")) as root:
        assert root == str(tmp_path / "missing")


@pytest.mark.parametrize("top", ["", "./", "gpu1/"])
def test_archives_packed_by_people(tmp_path: Path, top: str) -> None:
    link = (tarfile.SYMTYPE, "../../../../../etc")
    path = made(tmp_path / "a.tar.gz", (f"{top}sys/a", b"1\n"), (f"{top}sys/out", link), (f"{top}proc/b", b"2\n"))
    with opened_root(str(path), str(tmp_path)) as root:
        assert Path(root, "sys/a").read_text(encoding="utf-8") == "1\n"
        assert Path(root, "proc/b").read_text(encoding="utf-8") == "2\n"
        assert Path(root, "sys/out").readlink() == Path("../etc" if top != "gpu1/" else "../../etc")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("/etc/x", b"1")], "'/etc/x' leads out of the archive"),
        ([("sys/../../x", b"1")], r"'sys/\.\./\.\./x' leads out of the archive"),
        ([("sys/null", (tarfile.CHRTYPE, ""))], "neither a file nor a directory nor a symbolic link"),
        ([("sys/pipe", (tarfile.FIFOTYPE, ""))], "neither a file nor a directory nor a symbolic link"),
        ([("sys/a", b"1"), ("sys/b", (tarfile.LNKTYPE, "sys/a"))], "'sys/b' is neither"),
        ([("sys/a", b"1"), ("sys/a", b"2")], "File exists"),
        ([("sys/l", (tarfile.SYMTYPE, "/etc")), ("sys/l/x", b"1")], "File exists"),
        ([("sys/a", b"1"), ("sys/a/b", b"1")], "Not a directory|File exists"),
        ([("a/" * 1500 + "b", b"1")], "its member 'a/a/a/.*/'... lies in 1500 directories, more than 64"),
    ],
)
def test_archives_that_are_no_capture(tmp_path: Path, given: list[tuple[str, t.Any]], message: str) -> None:
    path = made(tmp_path / "a.tar.gz", *given)
    with pytest.raises(CaptureError, match=message) as raised, opened_root(str(path), str(tmp_path)):
        pass
    assert "give a tar.gz made by numapin.inference.host_capture" in str(raised.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        gzip.compress(b"neither is this"),
        gzip.compress(os.urandom(4096)),
        gzip.compress(tarfile.TarInfo("sys/a").tobuf())[:40],
    ],
    ids=["empty", "text", "compressed text", "noise", "cut short"],
)
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with (
        pytest.raises(CaptureError, match="not an archive that can be read as a captured machine"),
        opened_root(str(path), str(tmp_path)),
    ):
        pass


def test_archives_that_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "UNPACKED_LIMIT_BYTES", 4 * 1024 * 1024)
    monkeypatch.setattr(_archive, "MEMBER_LIMIT", 100)
    bomb = made(tmp_path / "a.tar.gz", ("sys/a", bytes(5 * 1024 * 1024)))
    with pytest.raises(CaptureError, match="unpacks to more than 4 MiB"), opened_root(str(bomb), str(tmp_path)):
        pass
    many = made(tmp_path / "b.tar.gz", *((f"sys/{number}", b"") for number in range(101)))
    with pytest.raises(CaptureError, match="more than 100 members"), opened_root(str(many), str(tmp_path)):
        pass


def test_a_header_of_megabytes(tmp_path: Path) -> None:
    member = tarfile.TarInfo("sys/a")
    member.pax_headers = {"comment": "x" * 3 * 1024 * 1024}
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)))
    with pytest.raises(CaptureError, match="has a header of 3"), opened_root(str(path), str(tmp_path)):
        pass


def test_a_sparse_file_of_terabytes(tmp_path: Path) -> None:
    member = tarfile.TarInfo("sys/a")
    member.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "sys/a",
        "GNU.sparse.size": str(1 << 42),
        "GNU.sparse.map": f"{1 << 42},0",
    }
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)))
    with pytest.raises(CaptureError, match="neither a file"), opened_root(str(path), str(tmp_path)):
        pass


# Recorded answers


def test_no_answers(tmp_path: Path) -> None:
    assert recorded_answers(Host(str(tmp_path))) is None
    assert recorded_answers(Host("/")) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gpu_answers.json", "{", "gpu_answers.json in the capture .* is not JSON"),
        ("gpu_answers.json", "[]", "stored GPU answers"),
        ("capture.json", '{"format": 2}', "has format 2, this version of the collection reads 1: update"),
        ("capture.json", "[" * 100_000, "is not JSON"),
    ],
)
def test_answers_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    trees.write(tmp_path / "numapin" / name, content)
    with pytest.raises(NumapinError, match=message):
        recorded_answers(Host(str(tmp_path)))


def test_what_a_directory_holds_besides_stays_there(tmp_path: Path) -> None:
    root = trees.lay_out(tmp_path, trees.two_sockets_smt_offline())
    # A processor's serial number, and an address of the kernel's.
    trees.write(root / "sys/devices/system/cpu/cpu0/topology/ppin", "0x2b5f00d1ce000001\n")
    trees.write(root / "sys/devices/system/cpu/cpu5/crash_notes", "2b5f00d1ce00\n")
    trees.write(root / "sys/devices/system/cpu/cpu5/online", "0\n")
    host = RecordingHost(str(root))
    gather(host, frozenset(PARTS), {}, GpuSources())
    recorded = host.recorded()
    assert not [path for path, entry in recorded.items() if "2b5f00d1ce" in entry.text]
    assert recorded["/sys/devices/system/cpu/cpu5/online"].text == "0\n"

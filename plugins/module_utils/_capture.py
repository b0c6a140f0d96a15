# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A machine in a small archive: what ``numa_facts`` reads of it, to be read back with its option ``root``.

What is taken is what was read: the facts are gathered through a ``RecordingHost`` that notes every file, link and
directory, so that the facts of the archive are those of the machine. A few files are taken besides, for planning
interrupts and huge pages and for bug reports. Serial numbers are never read; MAC and IP addresses, GUIDs, the host's
name and the UUIDs of GPUs are replaced by stand-ins, the same one for the same value, unless they are asked for.

The archive is a tar.gz with ``sys/`` and ``proc/`` as below ``/``, ``numapin/gpu_answers.json`` (what NVML and
nvidia-smi said) and ``numapin/capture.json`` (format, version, what was replaced and left out). The same machine in the
same state gives the same bytes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import tarfile
import tempfile
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.numapin.inference.plugins.module_utils._archive import (
    ANSWERS_PATH,
    DESCRIPTION_PATH,
    FILE_LIMIT_BYTES,
    FORMAT,
    CaptureError,
    opened_root,
    recorded_answers,
    scratch,
)
from ansible_collections.numapin.inference.plugins.module_utils._facts import PARTS, gather
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._gpus import collect_answers
from ansible_collections.numapin.inference.plugins.module_utils._host import Host
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree
from ansible_collections.numapin.inference.plugins.module_utils._recording import Entry, RecordingHost
from ansible_collections.numapin.inference.plugins.module_utils._scrubber import (
    NAMES,
    RELEASE_PATH,
    Redaction,
    Scrubber,
)
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology

COLLECTION_VERSION = "0.1.0"


# What is taken besides


def _read_besides(host: Host) -> list[str]:
    """Read what the facts do not need but planning interrupts and huge pages will; return what is too large."""
    left_out = [
        f"{path}: larger than {FILE_LIMIT_BYTES // 1024**2} MiB, or not readable"
        for path in ("/proc/interrupts", "/proc/meminfo", "/proc/buddyinfo", "/proc/cmdline", RELEASE_PATH)
        if host.read_text(path, FILE_LIMIT_BYTES) is None and Host(host.root).exists(path)
    ]
    host.read_text("/proc/irq/default_smp_affinity")
    for number in _decimal(host.list_dir("/proc/irq")):
        for name in ("smp_affinity_list", "effective_affinity_list", "node"):
            host.read_text(f"/proc/irq/{number}/{name}", 4096)
    for name in ("nr_hugepages", "nr_overcommit_hugepages", "min_free_kbytes"):
        host.read_text(f"/proc/sys/vm/{name}", 4096)
    pools = "/sys/kernel/mm/hugepages"
    for pool in host.list_dir(pools) or ():
        for name in ("nr", "free", "resv", "surplus", "nr_overcommit"):
            host.read_text(f"{pools}/{pool}/{name}_hugepages", 4096)
    host.read_text("/sys/kernel/mm/transparent_hugepage/defrag", 4096)
    for name in ("possible", "has_cpu", "has_memory", "has_normal_memory"):
        host.read_text(f"/sys/devices/system/node/{name}", 4096)
    return left_out


def _decimal(names: t.Iterable[str] | None) -> list[str]:
    return [name for name in names or () if name.isascii() and name.isdigit()]


# What is kept of files that hold more than the topology

_PARAMETER = re.compile(
    r"(?:numa\w*|isolcpus|nohz|nohz_full|rcu_nocbs|rcu_nocb_poll|irqaffinity|kthread_cpus|managed_irq"
    r"|maxcpus|nr_cpus|possible_cpus|nosmt"
    r"|default_hugepagesz|hugepagesz|hugepages|hugetlb\w*|transparent_hugepage|movable_node|movablecore|kernelcore|mem"
    r"|cgroup\w*|systemd\.(?:unified_cgroup_hierarchy|legacy_systemd_cgroup_controller)"
    r"|iommu\w*(?:\.\w+)?|intel_iommu|amd_iommu|pci|pcie_aspm|intel_idle\.max_cstate|processor\.max_cstate|skew_tick)"
    r"(?:=[A-Za-z0-9,:._/@+-]{0,200})?"
)
# What kind of processor it is. Some tell their serial number too (Serial on ARM, identification on s390).
_CPUINFO_KEPT = re.compile(
    r"^(?:(?:processor|vendor_id|cpu family|model|model name|stepping|microcode|cpu cores|siblings|physical id|core id"
    r"|apicid|initial apicid|flags|CPU (?:implementer|architecture|variant|part|revision)|[Ff]eatures|# processors"
    r"|cpu|machine|platform|isa|mmu|uarch)[ \t]*:.*)?\n?",
    re.MULTILINE,
)
_STATUS_KEPT = re.compile(
    r"^(?:Name|Cpus_allowed|Cpus_allowed_list|Mems_allowed|Mems_allowed_list):.*\n?", re.MULTILINE
)
# Nothing here reads these today; should a reader begin to, its capture must not hold them.
_SECRET_PATH = re.compile(
    r"/proc/[^/]+/(?:environ|cmdline|mounts|mountinfo|mountstats|maps|net/.*)|/proc/net/.*|/root/.*|/home/.*"
)
_IDENTIFYING_NAME = re.compile(
    r".*serial.*|product_uuid|.*asset_tag|wwid|wwn|nguid|eui|unique_id|vpd|host(?:name|nqn|id)|subsysnqn|machine-id"
    r"|phys_switch_id"
)


def _kept(path: str, text: str) -> str:
    """Return what is kept of a file that can hold secrets, or that changes without the topology changing."""
    if path == "/proc/cmdline":
        return " ".join(word for word in text.split() if _PARAMETER.fullmatch(word)) + "\n"
    if path == "/proc/cpuinfo":
        return "".join(_CPUINFO_KEPT.findall(text))
    if path.startswith("/proc/") and path.endswith("/status"):
        return "".join(_STATUS_KEPT.findall(text))
    return text


def _why_not(path: str, entry: Entry, identifiers: bool) -> str | None:
    """Return why something that was read is not taken."""
    if _SECRET_PATH.fullmatch(path):
        return "it can hold secrets"
    if identifiers or entry.kind != "file" or not entry.text:
        return None
    identifying = _IDENTIFYING_NAME.fullmatch(path.rpartition("/")[2])
    return "it holds nothing but an identifier" if identifying else None


def _is_virtual_interface(path: str, entry: Entry) -> bool:
    """Whether it belongs to a network interface without hardware: of no use here, and containers come and go."""
    if path.startswith("/sys/class/net/") and entry.kind == "link":
        return "/devices/virtual/net/" in entry.text
    return path.startswith("/sys/devices/virtual/net/")


# The machine's own name

_SHORTEST_HOST_NAME = 4
_FIRMWARE_WORDS = frozenset(
    {
        *("qemu", "vmware", "virtualbox", "oracle", "bochs", "parallels", "bhyve", "apple", "amazon", "google"),
        *("microsoft", "openstack", "kubevirt", "intel", "nvidia", "hypervisor", "populated", "madvise", "always"),
        *("never", "data", "instruction", "unified", "infiniband", "ethernet", "active", "down", "normal"),
    }
)


# Interfaces and InfiniBand devices are called as people like.
_PEOPLES_NAME = re.compile(r"(?<=/net/)[^/]+|(?<=/infiniband/)[^/]+")


def _host_names(host: Host) -> list[str]:
    """Return the names of the captured machine, longest first: a tree's own, else that of the running machine."""
    said = [host.read_text("/proc/sys/kernel/hostname", 4096), host.read_text("/etc/hostname", 4096)]
    names = {name.strip() for name in said if name}
    names |= {name.partition(".")[0] for name in names}
    return sorted((n for n in names if len(n) >= _SHORTEST_HOST_NAME and n != "localhost"), key=lambda n: (-len(n), n))


def _words(entries: t.Mapping[str, Entry], facts: dict[str, t.Any]) -> set[str]:
    """Return words that mean something in a tree; a host can be called like one of them (node1, numa, qemu, h100)."""
    texts = [*entries, *(entry.text for entry in entries.values() if entry.kind == "link")]
    texts = [_PEOPLES_NAME.sub("", text) for text in texts]
    texts += [gpu["name"] or "" for gpu in facts["gpus"] or ()]
    words = {part for text in texts for part in text.lower().split("/")}
    words.update(part for text in texts for part in re.split(r"[^0-9a-z]+", text.lower()))
    return words | _FIRMWARE_WORDS


# The capture


@dataclass(frozen=True)
class Capture:
    """The content of an archive by path as on the machine, and what was done to it."""

    entries: dict[str, Entry]
    redactions: tuple[Redaction, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: dict[str, t.Any] = field(repr=False)

    @property
    def file_count(self) -> int:
        return sum(entry.kind == "file" for entry in self.entries.values())

    def archive(self) -> bytes:
        """Return the archive: sorted, without times and owners."""
        content = io.BytesIO()
        compressed = gzip.GzipFile(filename="", mode="wb", fileobj=content, mtime=0, compresslevel=9)
        with compressed, tarfile.open(mode="w", fileobj=compressed, format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.entries):
                _add(archive, path, self.entries[path])
        return content.getvalue()


def _add(archive: tarfile.TarFile, path: str, entry: Entry) -> None:
    member = tarfile.TarInfo(path.lstrip("/"))
    if entry.kind == "file":
        data = entry.text.encode("utf-8", "surrogateescape")
        member.size, member.mode = len(data), entry.mode
        archive.addfile(member, io.BytesIO(data))
        return
    member.type = tarfile.SYMTYPE if entry.kind == "link" else tarfile.DIRTYPE
    member.linkname = entry.text if entry.kind == "link" else ""
    member.mode = 0o777 if entry.kind == "link" else 0o755
    archive.addfile(member)


def take_capture(
    host: RecordingHost, sources: GpuSources, identifiers: bool = False, scratch_directory: str | None = None
) -> Capture:
    """Read the machine and return its capture; ``identifiers`` leaves names, addresses and UUIDs as they are.

    The archive is read back below ``scratch_directory`` before it is handed out. Raises ``NumapinError`` when there is
    no topology to read, and ``CaptureError`` when the archive would hold what it must not, or would not read back as
    this machine.
    """
    unrecorded = Host(host.root)
    left_out = _read_besides(host)
    answers = collect_answers(host, PciTree(host, read_topology(host, frozenset()).nodes), sources)
    # Last, so that of a file that changes while this runs what the facts were made from is kept.
    facts = gather(host, frozenset(PARTS), {}, GpuSources(nvml=None, nvidia_smi=None, recorded=answers))

    entries: dict[str, Entry] = {}
    for path, entry in sorted(host.recorded().items()):
        if _is_virtual_interface(path, entry):
            continue
        reason = _why_not(path, entry, identifiers)
        if reason is not None:
            left_out.append(f"{path}: {reason}")
            continue
        if entry.kind == "file":
            entry = Entry("file", _kept(path, entry.text), entry.mode)
        entries[path] = entry
    if answers is not None:
        entries[ANSWERS_PATH] = Entry("file", _json(answers.to_plain()))
    if identifiers:
        return _read_back(_described(entries, facts, None, left_out), facts, scratch_directory)

    every_name = _host_names(unrecorded)
    words = _words(entries, facts)
    host_names = [name for name in every_name if name.lower() not in words]
    components = {component for path in entries for component in path.split("/")}
    try:
        scrubber = Scrubber(host_names, components)
        capture = _described(_scrubbed(entries, scrubber), facts, scrubber, left_out)
        capture = _read_back(capture, _stood_in(facts, scrubber), scratch_directory)
    except NotThisMachineError:
        if not host_names:
            raise
        # It is a word that the facts are made from: better it stays than that they change.
        host_names = []
        scrubber = Scrubber((), components)
        capture = _described(_scrubbed(entries, scrubber), facts, scrubber, left_out)
        capture = _read_back(capture, _stood_in(facts, scrubber), scratch_directory)
    _refuse_identifiers(capture.entries, host_names)
    if len(host_names) != len(every_name):
        said = "the host's name is also a word of its kernel, firmware or GPUs: it was not looked for"
        capture = replace(capture, warnings=(said,))
    return capture


def _described(
    entries: dict[str, Entry], facts: dict[str, t.Any], scrubber: Scrubber | None, left_out: t.Sequence[str]
) -> Capture:
    """Return the capture with its own description in it; without a scrubber identifiers stayed."""
    if scrubber:
        left_out = [scrubber.text(text, NAMES) for text in left_out]
    redactions = scrubber.redactions() if scrubber else ()
    release = entries.get(RELEASE_PATH)
    described = {
        "format": FORMAT,
        "collection_version": COLLECTION_VERSION,
        "kernel_release": release.text.strip() if release else None,
        "identifiers": scrubber is None,
        "redactions": [vars(redaction) for redaction in redactions],
        "left_out": list(left_out),
    }
    whole = _with_parents({**entries, DESCRIPTION_PATH: Entry("file", _json(described))})
    return Capture(whole, redactions, tuple(left_out), (), facts)


# Reading it back


class NotThisMachineError(CaptureError):
    """The archive gives other facts than the machine."""


def _read_back(capture: Capture, expected: dict[str, t.Any], scratch_directory: str | None) -> Capture:
    """Return the capture; raises ``NotThisMachineError`` when its archive does not give the expected facts."""
    with scratch("numapin-capture-", scratch_directory) as directory:
        path = write_archive(f"{directory}/capture.tar.gz", capture.archive())
        with opened_root(path, directory) as root:
            host = Host(root)
            sources = GpuSources(nvml=None, nvidia_smi=None, recorded=recorded_answers(host))
            facts = gather(host, frozenset(PARTS), {}, sources)
    different = [key for key in expected if _in_any_order(facts[key]) != _in_any_order(expected[key])]
    if different:
        raise NotThisMachineError(
            f"the archive would read back as another machine, so none is made: {', '.join(different)} of its facts"
            " differ. Please report this"
        )
    return capture


def _stood_in(facts: dict[str, t.Any], scrubber: Scrubber) -> dict[str, t.Any]:
    """Return the facts with the stand-ins that the files have."""

    def clean(value: t.Any) -> t.Any:
        if isinstance(value, str):
            return scrubber.text(value, NAMES)
        if isinstance(value, dict):
            return {key: clean(each) for key, each in value.items()}
        return [clean(each) for each in value] if isinstance(value, list) else value

    release = scrubber.text(facts["kernel"]["release"] or "", RELEASE_PATH) or None
    cleaned: dict[str, t.Any] = clean(facts)
    cleaned["kernel"]["release"] = release
    return cleaned


def _in_any_order(value: t.Any) -> t.Any:
    """Return what two values have in common that differ only in the order of lists: stand-ins sort differently."""
    if isinstance(value, dict):
        return {key: _in_any_order(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_in_any_order(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
    return value


# Its parts


def _json(value: t.Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _scrubbed(entries: dict[str, Entry], scrubber: Scrubber) -> dict[str, Entry]:
    clean: dict[str, Entry] = {}
    # What NVML said comes first: it numbers the GPUs by their address.
    for path in sorted(entries, key=lambda path: (path != ANSWERS_PATH, path)):
        entry = entries[path]
        new_path = scrubber.text(path, NAMES)
        clean[new_path] = Entry(entry.kind, scrubber.text(entry.text, new_path), entry.mode)
    return clean


def _refuse_identifiers(entries: dict[str, Entry], host_names: t.Collection[str]) -> None:
    """Look through everything that will be written once more, with eyes that have seen none of it."""
    check = Scrubber(host_names)
    for path, entry in entries.items():
        # Its kernel's release is that file's.
        where = RELEASE_PATH if path == DESCRIPTION_PATH else path
        check.text(path, NAMES)
        check.text(entry.text, where)
    found = check.redactions()
    if found:
        kinds = ", ".join(f"{r.kind.replace('_', ' ')} ({', '.join(r.where)})" for r in found)
        raise CaptureError(
            f"the archive would still hold what identifies the machine, so none is made: {kinds}. Please report this;"
            " with identifiers: true an archive for your own use can be made"
        )


def _with_parents(entries: dict[str, Entry]) -> dict[str, Entry]:
    whole = dict(entries)
    for path in entries:
        parent = path.rpartition("/")[0]
        while parent and parent not in whole:
            whole[parent] = Entry("directory")
            parent = parent.rpartition("/")[0]
    return whole


def write_archive(path: str | None, content: bytes) -> str:
    """Write the archive at ``path``, or under a new name in the directory for temporary files; return where it is.

    Only its owner may read it. Raises ``CaptureError`` when it cannot be written; what was there stays then.
    """
    if path is not None:
        refuse_path(path)
    temporary = None
    try:
        if path is None:
            descriptor, temporary = tempfile.mkstemp(prefix="numapin-capture-", suffix=".tar.gz")
            path = temporary
        else:
            descriptor, temporary = tempfile.mkstemp(prefix=".numapin-", suffix=".tmp", dir=os.path.dirname(path))
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise CaptureError(
            f"the archive of {len(content)} bytes cannot be written to"
            f" {path or 'a file in the directory for temporary files'}: {error.strerror or error}; give another path"
        ) from error
    return path


def refuse_path(path: str) -> None:
    """Raise ``CaptureError`` when an archive cannot be put at ``path``."""
    directory = os.path.dirname(path)
    if not os.path.isabs(path):
        raise CaptureError(f"path {path!r} is not absolute: it must begin with /")
    if not os.path.isdir(directory):
        raise CaptureError(f"path {path!r}: the directory {directory} does not exist: make it, or give another path")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise CaptureError(
            f"path {path!r} is no regular file: give the name of a file, such as {directory}/host.tar.gz"
        )

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
import stat
import tarfile
import tempfile
import typing as t
from dataclasses import dataclass, field

from ansible_collections.numapin.inference.plugins.module_utils._archive import (
    ANSWERS_PATH,
    DESCRIPTION_PATH,
    FILE_LIMIT_BYTES,
    FORMAT,
    CaptureError,
    confined_target,
    opened_root,
    recorded_answers,
)
from ansible_collections.numapin.inference.plugins.module_utils._facts import PARTS, gather
from ansible_collections.numapin.inference.plugins.module_utils._gpu_sources import GpuSources
from ansible_collections.numapin.inference.plugins.module_utils._gpus import collect_answers
from ansible_collections.numapin.inference.plugins.module_utils._host import READ_LIMIT_BYTES, Host
from ansible_collections.numapin.inference.plugins.module_utils._pci import PciTree
from ansible_collections.numapin.inference.plugins.module_utils._scrubber import (
    NAMES,
    RELEASE_PATH,
    Redaction,
    Scrubber,
)
from ansible_collections.numapin.inference.plugins.module_utils._topology import read_topology

__all__ = (
    "Capture",
    "CaptureError",
    "RecordingHost",
    "opened_root",
    "recorded_answers",
    "take_capture",
    "write_archive",
)

COLLECTION_VERSION = "0.1.0"

_LINK_LIMIT = 40
# ppin is the processor's serial number (drivers/base/topology.c): only its name is taken.
_LISTED_AND_READ = re.compile(r"^/sys/devices/system/(?!.*/ppin$)|/msi_irqs/[0-9]+$")


# What is read


class RecordingHost(Host):
    """A host that remembers what was read of it, by the path that was asked for."""

    def __init__(self, root: str = "/") -> None:
        super().__init__(root)
        self._texts: dict[str, str] = {}
        self._listings: dict[str, list[str]] = {}
        self._present: set[str] = set()

    def read_text(self, path: str, limit_bytes: int = READ_LIMIT_BYTES) -> str | None:
        return self._noted(path, super().read_text(path, limit_bytes))

    def read_head(self, path: str, limit_bytes: int) -> str | None:
        text = super().read_head(path, limit_bytes)
        # The whole file serves a reader of its beginning too.
        if len(self._texts.get(path, "")) <= len(text or ""):
            self._noted(path, text)
        return text

    def read_int(self, path: str) -> int | None:
        value = super().read_int(path)
        if path not in self._texts:
            self.read_text(path, 4096)
        return value

    def list_dir(self, path: str) -> list[str] | None:
        names = super().list_dir(path)
        if names is not None:
            self._listings[path] = names
        return names

    def list_directories(self, path: str) -> list[str] | None:
        names = super().list_directories(path)
        if names is not None:
            self._listings.setdefault(path, names)
        return names

    def exists(self, path: str) -> bool:
        there = super().exists(path)
        if there:
            self._present.add(path)
        return there

    def readlink(self, path: str) -> str | None:
        target = super().readlink(path)
        if target is not None:
            # That the link is there; where it leads need not exist.
            self._present.add(path)
        return target

    def real_path(self, path: str) -> str | None:
        real = super().real_path(path)
        if real is not None:
            self._present.add(path)
        return real

    def _noted(self, path: str, text: str | None) -> str | None:
        if text is not None:
            self._texts[path] = text
        return text

    def recorded(self) -> dict[str, Entry]:
        """Return what was read, by its real path: files, the links that led there, and directories."""
        return _Tree(Host(self.root), self._texts, self._listings, self._present).entries


@dataclass(frozen=True)
class Entry:
    """One path of the machine; ``text`` is what a file holds or where a link leads."""

    kind: str  # file | link | directory
    text: str = ""
    mode: int = 0o444


class _Tree:
    """Turns paths as they were asked for into a tree in which each of them leads to the same thing."""

    def __init__(
        self, host: Host, texts: dict[str, str], listings: dict[str, list[str]], present: t.Collection[str]
    ) -> None:
        self._host = host
        self._prefix = "" if host.is_running_machine else host.root
        self._real: dict[str, str | None] = {"": "", "/": ""}
        self.entries: dict[str, Entry] = {}
        for path, text in texts.items():
            real = self._walk(path)
            if real is not None:
                self._put(real, Entry("file", text, self._mode(real)))
        for path, names in listings.items():
            real = self._walk(path)
            if real is not None:
                self._put(real, Entry("directory"))
                for name in names:
                    self._listed(real, name)
        for path in present:
            real = self._walk(path)
            if real is not None and real not in self.entries and os.path.lexists(self._prefix + real):
                self._put(real, self._unread(real))

    def _put(self, real: str, entry: Entry) -> None:
        if real and (entry.kind != "directory" or real not in self.entries):
            self.entries[real] = entry

    def _walk(self, path: str) -> str | None:
        """Return the real path of a path, and take every link on the way into the tree; ``None`` for a cycle."""
        if path in self._real:
            return self._real[path]
        directory, _slash, name = path.rpartition("/")
        start = self._walk(directory)
        real = None if start is None else self._follow(start, [name])
        self._real[path] = real
        return real

    def _follow(self, here: str, pending: list[str]) -> str | None:
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            step = f"{here}/{part}"
            target = self._link(step)
            if target is None:
                here = step
                continue
            links += 1
            if links > _LINK_LIMIT:
                return None
            if target.startswith("/"):
                here = ""
            pending.extend(target.split("/")[::-1])
        return here

    def _link(self, real: str) -> str | None:
        # /proc/self is another one in every process: what was read below it stays there.
        if real == "/proc/self":
            return None
        target = self._host.readlink(real)
        if target is not None:
            self._put(real, Entry("link", confined_target(real, target)))
        return target

    def _listed(self, directory: str, name: str) -> None:
        """Take one name of a listed directory. A file that nobody read stays empty: reading some has an effect."""
        real = f"{directory}/{name}"
        if real in self.entries or (directory == "/proc" and name.isdigit()):
            # Processes come and go; those of which something was read are taken with it.
            return
        if self._link(real) is not None:
            return
        with contextlib.suppress(OSError):
            mode = os.lstat(self._prefix + real).st_mode
            if stat.S_ISDIR(mode):
                self._put(real, Entry("directory"))
            elif stat.S_ISREG(mode):
                # The name can be what was asked for: a vector in msi_irqs, a file that only some kernels have.
                text = self._host.read_text(real, 4096) if _LISTED_AND_READ.search(real) else None
                self._put(real, Entry("file", text or "", self._mode(real)))

    def _unread(self, real: str) -> Entry:
        """Return what stands for something that was only found to be there."""
        if os.path.isfile(self._prefix + real):
            # Elsewhere than in /sys and /proc its content is nobody's business.
            text = self._host.read_text(real) if real.startswith(("/sys/", "/proc/")) else ""
            if text is not None:
                return Entry("file", text, self._mode(real))
        # A file that cannot be read: a directory is there and cannot be read either.
        return Entry("directory")

    def _mode(self, real: str) -> int:
        """Return the mode: from Linux 6.12 it tells interrupts that cannot be moved."""
        try:
            return stat.S_IMODE(os.stat(self._prefix + real).st_mode) & 0o777
        except OSError:
            return 0o444


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
_CPUINFO_DROPPED = re.compile(r"^(?:Serial|cpu MHz)\s*:.*\n?", re.MULTILINE)
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
        return _CPUINFO_DROPPED.sub("", text)
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


def _host_names(host: Host) -> list[str]:
    """Return the names of the captured machine, longest first: a tree's own, else that of the running machine."""
    said = [host.read_text("/proc/sys/kernel/hostname", 4096), host.read_text("/etc/hostname", 4096)]
    names = {name.strip() for name in said if name}
    names |= {name.partition(".")[0] for name in names}
    return sorted((n for n in names if len(n) >= _SHORTEST_HOST_NAME and n != "localhost"), key=lambda n: (-len(n), n))


def _words(components: t.Collection[str], facts: dict[str, t.Any]) -> set[str]:
    """Return words that mean something in a tree; a host can be called like one of them (node1, qemu, h100)."""
    words = {component.lower() for component in components} | _FIRMWARE_WORDS
    for gpu in facts["gpus"] or ():
        words.update(re.split(r"[^0-9a-z-]+", (gpu["name"] or "").lower()))
    return words


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


def take_capture(host: RecordingHost, sources: GpuSources, identifiers: bool = False) -> Capture:
    """Read the machine and return its capture; ``identifiers`` leaves names, addresses and UUIDs as they are.

    Raises ``NumapinError`` when there is no topology to read, and ``CaptureError`` when the archive would hold what it
    must not.
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

    warnings = []
    redactions: tuple[Redaction, ...] = ()
    host_names: list[str] = []
    if not identifiers:
        components = {component for path in entries for component in path.split("/")}
        words = _words(components, facts)
        host_names = [name for name in _host_names(unrecorded) if name.lower() not in words]
        if len(host_names) != len(_host_names(unrecorded)):
            warnings.append("the host's name is also a word of its kernel, firmware or GPUs: it was not looked for")
        scrubber = Scrubber(host_names, components)
        entries = _scrubbed(entries, scrubber)
        left_out = [scrubber.text(text, NAMES) for text in left_out]
        redactions = scrubber.redactions()
    release = entries.get(RELEASE_PATH)
    entries[DESCRIPTION_PATH] = Entry(
        "file",
        _json(
            {
                "format": FORMAT,
                "collection_version": COLLECTION_VERSION,
                "kernel_release": release.text.strip() if release else None,
                "identifiers": identifiers,
                "redactions": [vars(redaction) for redaction in redactions],
                "left_out": left_out,
            }
        ),
    )
    if not identifiers:
        _refuse_identifiers(entries, host_names)
    return Capture(_with_parents(entries), redactions, tuple(left_out), tuple(warnings), facts)


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
    if path is None:
        descriptor, temporary = tempfile.mkstemp(prefix="numapin-capture-", suffix=".tar.gz")
        path = temporary
    else:
        refuse_path(path)
        descriptor, temporary = tempfile.mkstemp(prefix=".numapin-", suffix=".tmp", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise CaptureError(
            f"the archive of {len(content)} bytes cannot be written to {path}: {error.strerror}; give another path"
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

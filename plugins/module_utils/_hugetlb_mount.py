# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""File systems of huge pages (hugetlbfs), as mount units of systemd.

Kernel sources: Documentation/admin-guide/mm/hugetlbpage.rst, fs/hugetlbfs/inode.c (``hugetlbfs_show_options``): /proc
shows a page size of 1 GiB as ``pagesize=1024M`` and leaves out uid, gid and mode where they are the defaults; the
options of a mount cannot be changed without unmounting it.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils._hugetlb import HugetlbError, parse_size, size_text

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

UNIT_DIRECTORY = "/etc/systemd/system"
MANAGED = "# Managed by numapin.inference (module hugepages): changes made here are lost."
_MOUNTINFO = "/proc/self/mountinfo"
_ESCAPED = re.compile(r"\\([0-7]{3})")
_DEFAULT_MODE = 0o755
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")


class Mount(t.NamedTuple):
    """One hugetlbfs: where, its page size, the most it may hold (``None``: the whole pool), and whose its root is."""

    path: str
    size_kib: int
    limit_bytes: int | None
    uid: int
    gid: int
    mode: int

    @property
    def unit(self) -> str:
        """The name systemd wants for the unit of this path."""
        return unit_name(self.path)

    def options(self) -> str:
        """As mount(8) takes them."""
        limit = [] if self.limit_bytes is None else [f"size={self.limit_bytes}"]
        owner = [f"uid={self.uid}", f"gid={self.gid}", f"mode={self.mode:04o}"]
        return ",".join([f"pagesize={size_text(self.size_kib)}", *limit, *owner, "nosuid", "nodev"])

    def text(self) -> str:
        """For the diff: what there is at the path."""
        limit = "" if self.limit_bytes is None else f", at most {self.limit_bytes} bytes"
        return f"pages of {size_text(self.size_kib)}{limit}, {self.uid}:{self.gid} {self.mode:04o}"


class Mounted(t.NamedTuple):
    """What is mounted at a path; ``mount`` is ``None`` for another file system."""

    kind: str
    mount: Mount | None


def unit_name(path: str) -> str:
    """The unit that systemd has for what is mounted at ``path``."""
    return f"{escape_path(path)}.mount"


def escape_path(path: str) -> str:
    """As ``systemd-escape --path``."""
    name = path.strip("/")
    escaped = "".join(
        "-" if sign == "/" else sign if re.fullmatch("[A-Za-z0-9:_.]", sign) else f"\\x{ord(sign):02x}" for sign in name
    )
    return f"\\x2e{escaped[1:]}" if escaped.startswith(".") else escaped


def read_mounts(host: Host) -> dict[str, Mounted]:
    """What is mounted where; of several on one path the uppermost."""
    found: dict[str, Mounted] = {}
    for line in (host.read_text(_MOUNTINFO) or "").splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 6 or len(right) < 3:
            continue
        path = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), left[4])
        kind = right[0]
        found[path] = Mounted(kind, _hugetlbfs(path, right[2]) if kind == "hugetlbfs" else None)
    return found


def _hugetlbfs(path: str, options: str) -> Mount:
    values = dict(option.partition("=")[::2] for option in options.split(","))

    def size(name: str) -> int | None:
        return parse_size(values[name], name) if name in values else None

    return Mount(
        path=path,
        size_kib=(size("pagesize") or 0) // 1024,
        limit_bytes=size("size"),
        uid=int(values.get("uid", "0")),
        gid=int(values.get("gid", "0")),
        mode=int(values.get("mode", f"{_DEFAULT_MODE:o}"), 8),
    )


def refuse_what_cannot_be(wanted: Mount, mounted: t.Mapping[str, Mounted], ours: bool, pool_sizes: set[int]) -> None:
    """Raise HugetlbError where a mount would meet somebody else's, or what it is to show does not exist."""
    if not _PLAIN_PATH.fullmatch(wanted.path) or "/." in wanted.path:
        raise HugetlbError(f"mount {wanted.path!r}: give a plain absolute path (letters, digits, '.', '_' and '-')")
    if wanted.size_kib not in pool_sizes:
        offered = ", ".join(map(size_text, sorted(pool_sizes)))
        raise HugetlbError(
            f"mount {wanted.path}: this kernel has no huge pages of {size_text(wanted.size_kib)}; it offers {offered}"
        )
    if wanted.limit_bytes is not None and wanted.limit_bytes % (wanted.size_kib * 1024):
        raise HugetlbError(
            f"mount {wanted.path}: its limit of {wanted.limit_bytes} bytes is no multiple of the page size"
            f" {size_text(wanted.size_kib)}"
        )
    there = mounted.get(wanted.path)
    if there is None or there.mount == wanted or ours:
        return
    if there.mount is None:
        raise HugetlbError(
            f"mount {wanted.path}: a file system of type {there.kind} is mounted there: give another path or unmount it"
        )
    hint = " (it is systemd's own, dev-hugepages.mount)" if wanted.path == "/dev/hugepages" else ""
    raise HugetlbError(
        f"mount {wanted.path}: somebody else mounted huge pages there{hint}, with {there.mount.text()}, and asked for"
        f" is {wanted.text()}: give another path"
    )


def unit_text(mount: Mount) -> str:
    """The mount unit: early, after the pools, and before anything that may want the pages."""
    return f"""{MANAGED}
[Unit]
Description=Huge pages of {size_text(mount.size_kib)} at {mount.path}
Documentation=https://www.kernel.org/doc/html/latest/admin-guide/mm/hugetlbpage.html
DefaultDependencies=no
After=numapin-hugepages.service
Before=sysinit.target vllm.target umount.target
Conflicts=umount.target

[Mount]
What=hugetlbfs
Where={mount.path}
Type=hugetlbfs
Options={mount.options()}

[Install]
WantedBy=sysinit.target
"""

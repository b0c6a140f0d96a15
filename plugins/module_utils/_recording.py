# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A host that remembers what was read of it, as a tree of files, links and directories."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.numapin.inference.plugins.module_utils._archive import confined_target
from ansible_collections.numapin.inference.plugins.module_utils._host import READ_LIMIT_BYTES, Host

_LINK_LIMIT = 40
# Files that only some kernels have, so that their names were listed to know what to ask for. Others beside them, such
# as ppin (the processor's serial number) and crash_notes (an address of the kernel's), keep their names alone.
_LISTED_AND_READ = re.compile(
    r"/sys/devices/system/cpu/cpu[0-9]+/(?:online|topology/\w+_(?:id|(?:cpus|siblings)(?:_list)?))|.*/msi_irqs/[0-9]+"
)
# The directories at the top of the cgroup tree that are not people's slices and containers.
_CGROUP = "/sys/fs/cgroup"
_HIERARCHIES = re.compile(
    r"unified|systemd|blkio|cpu|cpuacct|cpu,cpuacct|cpuset|debug|devices|freezer|hugetlb|memory|misc|net_cls|net_prio"
    r"|net_cls,net_prio|perf_event|pids|rdma"
)


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
        if directory == _CGROUP and not (_HIERARCHIES.fullmatch(name) or os.path.isfile(self._prefix + real)):
            return
        if self._link(real) is not None:
            return
        with contextlib.suppress(OSError):
            mode = os.lstat(self._prefix + real).st_mode
            if stat.S_ISDIR(mode):
                self._put(real, Entry("directory"))
            elif stat.S_ISREG(mode):
                # The name can be what was asked for: a vector in msi_irqs, a file that only some kernels have.
                text = self._host.read_text(real, 4096) if _LISTED_AND_READ.fullmatch(real) else None
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

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The only door to ``/sys`` and ``/proc``: the running machine, or a tree that was captured from one."""

from __future__ import annotations

import os
import re
import stat

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

READ_LIMIT_BYTES = 1024 * 1024
# As many links as Linux itself follows in one path (MAXSYMLINKS, include/linux/namei.h).
_LINK_LIMIT = 40
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


class HostError(NumapinError):
    """The root that was given cannot be read as a host."""


class Host:
    """Reads files below a root; a link never leads out of it, an absolute one starts at the root again.

    Paths are given as on the machine itself (``/sys/devices/system/cpu/online``). What cannot be read – missing,
    forbidden, no regular file, larger than the limit – is ``None``: the reader above knows whether that matters.
    """

    def __init__(self, root: str = "/") -> None:
        real_root = os.path.realpath(root)
        if not os.path.isdir(real_root):
            raise HostError(
                f"the root {root!r} is not a directory: give the directory that holds the sys and proc of a captured"
                " machine, or / for the running one"
            )
        self.root = real_root
        self.is_running_machine = real_root == "/"
        self._prefix = "" if self.is_running_machine else real_root
        self._directories: dict[str, str | None] = {}

    def read_text(self, path: str, limit_bytes: int = READ_LIMIT_BYTES) -> str | None:
        """Return what a regular file holds; bytes that are no UTF-8 become U+FFFD for the parser to complain about."""
        real = self._locate(path)
        if real is None:
            return None
        try:
            # O_NONBLOCK: a FIFO or a device in a captured tree must not make the reader wait.
            descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            content = b""
            while len(content) <= limit_bytes:
                block = os.read(descriptor, 65536)
                if not block:
                    return content.decode("utf-8", "replace")
                content += block
            return None
        except OSError:
            # A driver may refuse the read itself (EIO, EINVAL) although the file opens.
            return None
        finally:
            os.close(descriptor)

    def read_int(self, path: str) -> int | None:
        """Return the one decimal number that a file holds; ``None`` also when it holds something else."""
        text = self.read_text(path, 4096)
        if text is None:
            return None
        text = text.strip()
        return int(text) if _INTEGER.fullmatch(text) else None

    def list_dir(self, path: str) -> list[str] | None:
        """Return the names in a directory, sorted."""
        real = self._locate(path)
        if real is None:
            return None
        try:
            return sorted(os.listdir(real))
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Say whether something is there, links followed."""
        real = self._locate(path)
        return real is not None and os.path.lexists(real)

    def readlink(self, path: str) -> str | None:
        """Return where a link points, as it is written there."""
        directory, _slash, name = path.rpartition("/")
        real = self._locate(directory)
        if real is None:
            return None
        try:
            return os.readlink(f"{real}/{name}")
        except OSError:
            return None

    def _locate(self, path: str) -> str | None:
        """Return the real path of a path below the root with all links followed; ``None`` for a cycle of links."""
        if self.is_running_machine:
            return path
        directory, _slash, name = path.rpartition("/")
        if directory not in self._directories:
            # Thousands of files lie in few directories, and every step of a path costs a system call.
            self._directories[directory] = self._follow("", directory)
        start = self._directories[directory]
        if start is None:
            return None
        below = self._follow(start, name)
        return None if below is None else self._prefix + below

    def _follow(self, start: str, rest: str) -> str | None:
        """Walk ``rest`` from ``start``, which is below the root and free of links; the result is both again."""
        here = start
        pending = rest.split("/")[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            try:
                target = os.readlink(f"{self._prefix}{here}/{part}")
            except OSError:
                # No link, or not there at all: opening it will tell.
                here = f"{here}/{part}"
                continue
            links += 1
            if links > _LINK_LIMIT:
                return None
            if target.startswith("/"):
                here = ""
            pending.extend(target.split("/")[::-1])
        return here

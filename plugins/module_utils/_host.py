# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""The only door to ``/sys`` and ``/proc``: the running machine, or a tree that was captured from one.

Readers forgive: what cannot be read is ``None``. Writers do not: a refused write is the kernel's ``OSError``,
and the caller knows what its number means there.
"""

from __future__ import annotations

import errno
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
        # No path has a NUL, and os.path takes offence at one.
        real_root = "" if "\0" in root else os.path.realpath(root)
        if not os.path.isdir(real_root):
            raise HostError(
                f"the root {root!r} is not a directory: give the directory that holds the sys and proc of a captured"
                " machine, or / for the running one"
            )
        self.root = real_root
        self.is_running_machine = real_root == "/"
        self._prefix = "" if self.is_running_machine else real_root
        # Where a path really is below the root; None for a cycle of links. Thousands of files lie in few directories.
        self._resolved: dict[str, str | None] = {"": ""}

    def read_text(self, path: str, limit_bytes: int = READ_LIMIT_BYTES) -> str | None:
        """Return what a regular file holds; bytes that are no UTF-8 become U+FFFD for the parser to complain about.

        One NUL at the end is left out: some kernels end CPU masks and lists with it (bitmap_print_to_buf in
        lib/bitmap.c when it was new, in Linux 5.16-rc), or lists of nodes (drivers/base/node.c in Linux 2.6).
        """
        content = self._read(path, limit_bytes, or_nothing=True)
        return None if content is None else content.removesuffix(b"\0").decode("utf-8", "replace")

    def read_head(self, path: str, limit_bytes: int) -> str | None:
        """Return the first ``limit_bytes`` of a regular file, however large it is."""
        content = self._read(path, limit_bytes, or_nothing=False)
        return None if content is None else content.decode("utf-8", "replace")

    def read_int(self, path: str) -> int | None:
        """Return the one decimal number that a file holds; ``None`` also when it holds something else."""
        text = self.read_text(path, 4096)
        if text is None:
            return None
        text = text.strip()
        return int(text) if _INTEGER.fullmatch(text) else None

    def write_text(self, path: str, text: str) -> None:
        """Write ``text`` to a file that is there, in one write(2), as files of /sys and /proc want it.

        Raises ``OSError`` with the kernel's number when it refuses or takes only a part (EIO, with both sizes).
        """
        content = text.encode()
        # O_TRUNC means nothing to the kernel's own files; in a laid-out tree the old text must not show behind the new.
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if self.is_running_machine:
            descriptor = os.open(path, flags)
        else:
            real = self._resolve(path)
            if real is None:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            descriptor = os.open(f"{self._prefix}{real}", flags | os.O_NOFOLLOW)
        try:
            written = os.write(descriptor, content)
        finally:
            os.close(descriptor)
        if written != len(content):
            raise OSError(errno.EIO, f"{written} of {len(content)} bytes were taken", path)

    def mode(self, path: str) -> int | None:
        """Return the permission bits of what is there: a kernel file without write bits cannot be changed."""
        real = self._locate(path)
        if real is None:
            return None
        try:
            return stat.S_IMODE(os.stat(real).st_mode)
        except (OSError, ValueError):
            return None

    def list_dir(self, path: str) -> list[str] | None:
        """Return the names in a directory, sorted."""
        real = self._locate(path)
        if real is None:
            return None
        try:
            return sorted(os.listdir(real))
        except (OSError, ValueError):
            return None

    def exists(self, path: str) -> bool:
        """Say whether something is there, links followed."""
        real = self._locate(path)
        return real is not None and os.path.exists(real)

    def readlink(self, path: str) -> str | None:
        """Return where a link points, as it is written there."""
        directory, _slash, name = path.rpartition("/")
        real = self._locate(directory)
        if real is None:
            return None
        try:
            return os.readlink(f"{real}/{name}")
        except (OSError, ValueError):
            return None

    def real_path(self, path: str) -> str | None:
        """Return the path with all links followed, as the machine itself writes it; ``None`` for what is not there."""
        if not self.exists(path):
            return None
        return os.path.realpath(path) if self.is_running_machine else self._resolve(path) or "/"

    def list_directories(self, path: str) -> list[str] | None:
        """Return the names of the directories in a directory, sorted; links to directories are not among them."""
        real = "" if self.is_running_machine else self._resolve(path)
        if real is None:
            return None
        try:
            with os.scandir(path if self.is_running_machine else self._prefix + real) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (OSError, ValueError):
            return None
        if not self.is_running_machine:
            # What is no link needs no look at where it leads.
            self._resolved.update((f"{path}/{name}", f"{real}/{name}") for name in names)
        return names

    def _read(self, path: str, limit_bytes: int, *, or_nothing: bool) -> bytes | None:
        """Return the first ``limit_bytes`` of a regular file, or of a larger one ``None`` instead (``or_nothing``)."""
        descriptor = self._open(path)
        if descriptor is None:
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            # A disk says the true size, /proc says 0, and sysfs the most there could be.
            if or_nothing and status.st_size > limit_bytes:
                return None
            left = limit_bytes + or_nothing
            blocks: list[bytes] = []
            while left:
                block = os.read(descriptor, min(65536, left))
                left -= len(block)
                blocks.append(block)
                # The size saves the last, empty read on a disk.
                if not block or limit_bytes + or_nothing - left == status.st_size:
                    break
            return None if or_nothing and not left else b"".join(blocks)
        except OSError:
            # A driver may refuse the read itself (EIO, EINVAL) although the file opens.
            return None
        finally:
            os.close(descriptor)

    def _open(self, path: str) -> int | None:
        # O_NONBLOCK: a FIFO or a device in a captured tree must not make the reader wait.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            if self.is_running_machine:
                return os.open(path, flags)
            directory, _slash, name = path.rpartition("/")
            real_directory = self._resolved.get(directory) or self._resolve(directory)
            if real_directory is None or name == "..":
                return None
            try:
                return os.open(f"{self._prefix}{real_directory}/{name}", flags | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    return None
            # Few files are links: only these cost a look at where they lead.
            real = self._resolve(path)
            return None if real is None else os.open(f"{self._prefix}{real}", flags | os.O_NOFOLLOW)
        except (OSError, ValueError):
            return None

    def _locate(self, path: str) -> str | None:
        """Return the path to hand to the operating system, free of links; ``None`` for a cycle of links."""
        if self.is_running_machine:
            return path
        real = self._resolve(path)
        return None if real is None else self._prefix + real

    def _resolve(self, path: str) -> str | None:
        """Return the real path of a path, both below the root, with all links followed."""
        known, pending = path, []
        while known not in self._resolved:
            known, _slash, name = known.rpartition("/")
            pending.append(name)
        real = self._resolved[known]
        while pending:
            name = pending.pop()
            known = f"{known}/{name}"
            real = None if real is None else self._follow(real, name)
            self._resolved[known] = real
        return real

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
            step = f"{here}/{part}"
            if step in self._resolved:
                known = self._resolved[step]
                if known is None:
                    return None
                here = known
                continue
            try:
                target = os.readlink(self._prefix + step)
            except (OSError, ValueError):
                # No link, or not there at all: opening it will tell.
                here = self._resolved[step] = step
                continue
            links += 1
            if links > _LINK_LIMIT:
                return None
            if target.startswith("/"):
                here = ""
            pending.extend(target.split("/")[::-1])
        return here

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""Kernel parameters for the next boot, through what the distribution offers for that.

Debian and its relatives source ``/etc/default/grub.d/*.cfg`` when ``update-grub`` writes GRUB's configuration; Fedora,
RHEL and theirs keep an entry for each kernel (BLS), which ``grubby`` edits. Nothing here boots a host.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._changes import Changes
from ansible_collections.numapin.inference.plugins.module_utils._done import Done
from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import WantedFile, directory_as_it_is
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan
from ansible_collections.numapin.inference.plugins.module_utils._files import FileSet
from ansible_collections.numapin.inference.plugins.module_utils._snapshot import Snapshot

if t.TYPE_CHECKING:
    from ansible_collections.numapin.inference.plugins.module_utils._host import Host

NAME = "boot_parameters"
GRUB_FILE = "/etc/default/grub.d/90-numapin.cfg"
# No blank, quote, dollar or backslash: GRUB's file is read by a shell.
_PARAMETER = re.compile(r"[A-Za-z0-9_.,:=/@%+-]+")
_ARGS = re.compile(r'^args="(.*)"$', re.MULTILINE)
_SECONDS = 180.0
_HUGE = "hugepages"
# Kept from before the file is written until GRUB's configuration is made from it.
_NOT_MADE = "configuration of GRUB"


class BootParametersError(NumapinError):
    """Parameters that cannot be, or a boot loader that did not take them."""


def _key(parameter: str) -> str:
    """What a boot loader has once: the name before the value. Sizes and numbers of huge pages are one group."""
    name = parameter.partition("=")[0]
    return _HUGE if name in ("hugepagesz", "hugepages") else name


class BootParameters:
    """One run over one host."""

    def __init__(self, host: Host, run: _commands.Runner = _commands.run, *, check_mode: bool = False) -> None:
        self._host = host
        self._run = run
        self._check_mode = check_mode
        self._snapshot = Snapshot(NAME)
        self._files = FileSet(NAME)

    def converge(self, parameters: t.Sequence[str]) -> Done:
        """Make the boot loader give exactly these of ours; none: what earlier runs gave goes. Raises NumapinError."""
        for parameter in parameters:
            if not _PARAMETER.fullmatch(parameter):
                raise BootParametersError(
                    f"the parameter {parameter!r} is not one word of letters, digits and _.,:=/@%+-: give one at a time"
                )
            if parameters.count(parameter) > 1 and not parameter.startswith("hugepage"):
                raise BootParametersError(f"the parameter {parameter!r} is given twice: give it once")
        kept = self._snapshot.read()
        not_made = kept.pop(_NOT_MADE, None) is not None
        loader = self._loader(bool(parameters), bool(kept))
        grub_text = (
            "# Managed by numapin.inference (module boot_parameters): changes made here are lost.\n"
            f'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {" ".join(parameters)}"\n'
        )
        on_grub = loader == "grub" and bool(parameters)
        wanted = [WantedFile(GRUB_FILE, grub_text.encode(), 0o644)] if on_grub else []
        directories = [directory_as_it_is(os.path.dirname(GRUB_FILE), 0o755)] if on_grub else []
        files = self._files.plan(wanted, directories, check_mode=self._check_mode)
        changes = Changes()
        if loader == "grubby":
            self._grubby(parameters, kept, changes)
        elif loader == "grub" and (files.changed or not_made):
            if not_made:
                changes.record(_NOT_MADE, "older than its files", "made from them")
            if not self._check_mode:
                self._grub(files, not_made)
        running = (self._host.read_text("/proc/cmdline") or "").split()
        result = {"loader": loader, "not_yet": [parameter for parameter in parameters if parameter not in running]}
        return Done(changes, files, result, list(files.warnings))

    def _loader(self, wanted: bool, kept: bool) -> str | None:
        if self._host.exists("/usr/sbin/grubby"):
            return "grubby" if wanted or kept else None
        if self._host.exists("/usr/sbin/update-grub"):
            return "grub"
        if wanted:
            raise BootParametersError(
                "neither update-grub nor grubby is on this host: give its boot loader the parameters yourself, and"
                " leave them out here"
            )
        return None

    def _grub(self, files: Plan, not_made: bool) -> None:
        self._snapshot.keep({_NOT_MADE: "older than its files"})
        self._files.apply(files)
        try:
            self._call("update-grub")
        except NumapinError:
            # GRUB's own configuration is as it was: so shall be what it is made from.
            self._files.undo(files)
            if not not_made:
                self._snapshot.forget([_NOT_MADE])
            raise
        self._snapshot.forget([_NOT_MADE])

    def _grubby(self, parameters: t.Sequence[str], kept: t.Mapping[str, str], changes: Changes) -> None:
        kernels = [args.split() for args in _ARGS.findall(self._call("grubby", "--info=ALL"))]
        if not kernels:
            raise BootParametersError("grubby --info=ALL names no kernel: is this host booted by its boot loader?")
        self._refuse_to_replace(parameters, kept, kernels)
        missing = [parameter for parameter in parameters if any(parameter not in kernel for kernel in kernels)]
        stale = [parameter for parameter in kept if parameter not in parameters]
        huge = [parameter for parameter in parameters if _key(parameter) == _HUGE]
        if any(_key(parameter) == _HUGE for parameter in (*missing, *stale)):
            # A number of pages belongs to the size before it: all of them go and come, in their order.
            stale += [parameter for parameter in kept if _key(parameter) == _HUGE and parameter not in stale]
            missing = [parameter for parameter in missing if _key(parameter) != _HUGE] + huge
        for parameter in dict.fromkeys(missing):
            changes.record(f"parameter {parameter}", "every kernel" if parameter in stale else None, "every kernel")
        for parameter in stale:
            if parameter not in missing:
                changes.record(f"parameter {parameter}", "every kernel", None)
        if self._check_mode or not changes.changed:
            return
        self._snapshot.keep(dict.fromkeys(missing, "absent"))
        if stale:
            self._call("grubby", "--update-kernel=ALL", f"--remove-args={' '.join(stale)}")
        if missing:
            self._call("grubby", "--update-kernel=ALL", f"--args={' '.join(missing)}")
        self._snapshot.forget([parameter for parameter in stale if parameter not in missing])

    def _refuse_to_replace(
        self, parameters: t.Sequence[str], kept: t.Mapping[str, str], kernels: t.Sequence[t.Sequence[str]]
    ) -> None:
        keys = {_key(parameter) for parameter in parameters}
        foreign = sorted(
            {
                word
                for kernel in kernels
                for word in kernel
                if _key(word) in keys and word not in parameters and word not in kept
            }
        )
        if foreign:
            raise BootParametersError(
                f"a kernel of this host has {', '.join(foreign)} already, which is not ours and would be replaced: take"
                " it away with grubby --remove-args first, or leave the parameter out here"
            )

    def _call(self, *argv: str) -> str:
        result = self._run(argv, _SECONDS)
        if result.rc != 0:
            said = result.stderr.strip() or result.stdout.strip() or f"exit status {result.rc}"
            raise BootParametersError(f"{' '.join(argv)} failed: {said}")
        return result.stdout

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the lab keeps things, and what a run can be told through the environment."""

from __future__ import annotations

import os
import pathlib

from fleet.console import FleetError
from fleet.settings import BUILD, REPOSITORY

LAB = REPOSITORY / "tests" / "lab"
CACHE = REPOSITORY / ".cache" / "lab"
RUNNING = BUILD / "lab"

# Machines of one purpose never disturb those of another: a person's, those of numa_facts' tests, molecule's. Other
# tests have a purpose for each shape.
PURPOSES = ("lab", "facts", "molecule")
# An emulated machine keeps two cores busy: its CPUs wait for one another, and on a crowded machine they wait for ever.
CORES_OF_ONE = 2
MOST_AT_ONCE = 4

ACCELERATORS = ("kvm", "tcg")


def purposes() -> list[str]:
    """Those there are, with those of which there were machines."""
    return sorted({*PURPOSES, *(path.parents[1].name for path in RUNNING.glob("*/*/machine.json"))})


def suite() -> str:
    """NUMAPIN_SUITE: the Debian suite of the image."""
    return os.environ.get("NUMAPIN_SUITE") or "bookworm"


def accelerator() -> str:
    """``kvm`` where this machine's processor and kernel offer it, else ``tcg`` (emulation).

    A /dev/kvm without vmx or svm exists too: it runs kernels made for it, and Debian's is none. NUMAPIN_LAB_ACCELERATOR
    decides otherwise.
    """
    asked = os.environ.get("NUMAPIN_LAB_ACCELERATOR") or ""
    if asked:
        if asked not in ACCELERATORS:
            raise FleetError(f"NUMAPIN_LAB_ACCELERATOR is {asked!r}; it may be {' or '.join(ACCELERATORS)}.")
        return asked
    flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in flags or "svm" in flags)
    return "kvm" if usable else "tcg"


def at_once() -> int:
    """NUMAPIN_LAB_AT_ONCE: how many machines boot, or are observed, at a time."""
    fitting = max(1, min(len(os.sched_getaffinity(0)) // CORES_OF_ONE, MOST_AT_ONCE))
    text = os.environ.get("NUMAPIN_LAB_AT_ONCE") or str(fitting)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 16:
        raise FleetError(f"NUMAPIN_LAB_AT_ONCE is {text!r}; it may be 1 to 16.")
    return int(text)

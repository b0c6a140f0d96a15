# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inside the lab's machines: Python code that comes in an archive is compiled once per boot.

Ansible sends the sources of each task as an archive, and Python keeps no bytecode of those. Emulated, compiling them is
most of what a task costs, and most of them are the same for every task. Python imports this when it starts, as
``lab_bytecode.pth`` tells it; it imports nothing itself that costs time. For root alone: who can write code that is
kept can have it run.
"""

from __future__ import annotations

import _imp
import marshal
import os
import types
import zipimport

PLACE = "/run/lab-bytecode"
compile_source = vars(zipimport)["_compile_source"]


def compiled(path: str, source: bytes) -> types.CodeType:
    """The code of a source, from the last time if there was one; tracebacks then show the path that it had there."""
    name = f"{PLACE}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(name, "rb") as kept:
            code: types.CodeType = marshal.load(kept)
            return code
    except (OSError, EOFError, ValueError, TypeError):
        return keep(name, compile_source(path, source))


def keep(name: str, code: types.CodeType) -> types.CodeType:
    """Write it down whole, where that is possible."""
    part = f"{name}.{os.getpid()}"
    try:
        os.makedirs(PLACE, mode=0o755, exist_ok=True)
        with open(part, "wb") as kept:
            marshal.dump(code, kept)
        os.rename(part, name)
    except OSError:
        return code
    return code


if os.geteuid() == 0:
    vars(zipimport)["_compile_source"] = compiled

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines in the shape of vLLM's log, which ``journalctl`` and our readiness module read."""

from __future__ import annotations

import os
import time

PREFIX = "({process} pid={pid}) "


def log(process: str, level: str, where: str, message: str) -> None:
    """One message of one process; every line of it gets the prefix, as vLLM's formatter does."""
    prefix = f"({process} pid={os.getpid()}) {level} {time.strftime('%m-%d %H:%M:%S')} [{where}] "
    write("".join(f"{prefix}{line}\n" for line in message.split("\n")))


def write(text: str) -> None:
    """To standard output in one piece: several processes and threads log at once."""
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:  # nobody reads it any more
        pass

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Six threads and 16 MiB of memory, for at most ten minutes."""

from __future__ import annotations

import threading
import time

memory = bytearray(16 * 1024 * 1024)
for offset in range(0, len(memory), 4096):
    memory[offset] = 1
for _number in range(5):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
time.sleep(600)

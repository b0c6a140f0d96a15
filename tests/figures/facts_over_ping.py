# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much longer than ansible.builtin.ping does numa_facts take, end to end, on this machine?

The two take turns, so that what else the machine does hits both alike; each round's order is the other way around. The
value is the ratio of the medians. One round before the counted ones fills the caches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
PING = "ansible.builtin.ping"
FACTS = "numapin.inference.numa_facts"
# A call that hangs is a fault of its own, not a slow one.
CALL_LIMIT_SECONDS = 60


def wall_seconds(module: str) -> float:
    """Return how long one ad-hoc call of ``module`` on this machine takes; exit with its output when it fails."""
    command = [
        str(Path(sys.executable).parent / "ansible"),
        "localhost",
        "--inventory",
        "localhost,",
        "--connection",
        "local",
        "--module-name",
        module,
        "--extra-vars",
        json.dumps({"ansible_python_interpreter": sys.executable}),
    ]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "dev")}
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CALL_LIMIT_SECONDS,
        check=False,
    )
    took = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"ansible -m {module} failed with exit status {done.returncode}:\n{done.stdout}{done.stderr}")
    return took


def main() -> None:
    """Print the figure's JSON line."""
    parser = argparse.ArgumentParser(description="Wall time of numa_facts over that of ping.")
    parser.add_argument("--rounds", type=int, default=8, help="counted calls of each (default: 8)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds is {rounds}; it must be at least 1")

    seconds: dict[str, list[float]] = {PING: [], FACTS: []}
    for number in range(rounds + 1):
        for module in (PING, FACTS) if number % 2 else (FACTS, PING):
            took = wall_seconds(module)
            if number > 0:
                seconds[module].append(took)
    detail = "; ".join(
        f"{module} median {median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})"
        for module, taken in seconds.items()
    )
    value = round(median(seconds[FACTS]) / median(seconds[PING]), 3)
    print(json.dumps({"value": value, "detail": f"{rounds} rounds: {detail}"}))


if __name__ == "__main__":
    main()

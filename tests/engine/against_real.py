# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the double against the real vLLM of tests/containers: one container, on CPU, removed at the end.

Run as ``tests/engine/against-real``. Needs what ``python3 tests/containers prepare`` builds (image, vLLM and model in
.cache/containers; what is missing is built now, which takes minutes). The real one's answers stay in
build/engine/vllm-answers.json; kept as tests/engine/contract/vllm-answers.json they are compared with on every machine.
Some minutes: vLLM is started ten times, five of them only to refuse.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "containers"))

# Importable only now (E402): a script finds what lies beside it through the path that was just set.
from fleet import hosts, vllm  # noqa: E402
from fleet.console import FleetError, as_root, say, show, step  # noqa: E402
from fleet.podman import cgroups  # noqa: E402
from fleet.settings import BUILD, MODEL_SOURCE, REPOSITORY, VLLM_PYTHON, Settings  # noqa: E402

# The container is numapin-engine-real.
PURPOSE, NAME, NUMBER = "engine", "real", 41
ANSWERS = BUILD / "engine" / "vllm-answers.json"
LIMIT_SECONDS = 2400


def main() -> int:
    """The exit status of the comparison; 1 when there was none."""
    try:
        ask_real_vllm(Settings.from_environment())
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 1
    return compare()


def ask_real_vllm(settings: Settings) -> None:
    """Write the real one's answers; the container is removed however this ends."""
    shared = vllm.ready(settings)
    ANSWERS.parent.mkdir(parents=True, exist_ok=True)
    ANSWERS.unlink(missing_ok=True)
    mounts = (*shared.mounts(), f"{HERE}:/engine:ro", f"{ANSWERS.parent}:/answers:rw")
    try:
        container = hosts.up(PURPOSE, [hosts.Host(NAME, "engines", NUMBER, mounts)], settings)[0]
        with step("Asking vLLM (it is started ten times)"):
            show(command_in(container.container_id), timeout_seconds=LIMIT_SECONDS)
    finally:
        hosts.down(PURPOSE)


def command_in(container_id: str) -> list[str]:
    """The contract inside the container, around the real vLLM."""
    environment = [f"--env={name}={value}" for name, value in variables().items()]
    runtime = ["--runtime", "runc"] if cgroups().hybrid else []
    contract = [
        "/usr/bin/python3",
        "/engine/contract",
        f"--model={MODEL_SOURCE}",
        f"--out=/answers/{ANSWERS.name}",
        "--",
    ]
    engine = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server"]
    return as_root(["podman", *runtime, "exec", *environment, container_id, *contract, *engine])


def variables() -> dict[str, str]:
    """As roles/vllm sets them; threads on one CPU, which leaves the others to whoever asks."""
    return {
        "CPU_VISIBLE_MEMORY_NODES": "0",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SPT_NOENV": "1",
        "VLLM_CACHE_ROOT": "/tmp/vllm-cache",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(max(os.sched_getaffinity(0))),
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "120",
        "VLLM_NO_USAGE_STATS": "1",
    }


def compare() -> int:
    """pytest, with the answers."""
    say(f"Comparing with {ANSWERS}")
    beside = REPOSITORY / ".venv" / "bin" / "python"
    python = str(beside) if beside.exists() else sys.executable
    environment = {**os.environ, "NUMAPIN_REAL_VLLM_ANSWERS": str(ANSWERS)}
    command = [python, "-m", "pytest", "-q", str(HERE / "test_contract.py")]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, timeout=600).returncode


if __name__ == "__main__":
    sys.exit(main())

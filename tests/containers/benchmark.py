# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""playbooks/benchmark.yml from end to end in a container, with the real vLLM on this machine's CPUs.

The collection deploys two instances, a core each. While they serve, the benchmark has to refuse the host; stopped, it
measures them as planned, floating, and as vLLM places them by itself, and has to leave nothing behind. The placements'
table of docs/benchmark.md goes to build/benchmark.md, the result to build/benchmark/results. Needs a machine that does
nothing else, and takes about 12 minutes. With ``--keep`` the container stays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import time
import typing as t

from fleet import hosts, inventory, packages, service, vllm
from fleet.console import FleetError, say, show, step
from fleet.podman import podman
from fleet.settings import BUILD, REPOSITORY, VLLM_PYTHON, Settings, ansible_playbook

if t.TYPE_CHECKING:
    import collections.abc as c

PURPOSE = "benchmark"
HOST = "inference1"
MODEL = "measured"
PLACEMENTS = ("local", "floating", "vllm")
ROUNDS = 6
PLAYBOOK_SECONDS = 1500
LOAD = {
    "benchmark_placements": list(PLACEMENTS),
    "benchmark_rounds": ROUNDS,
    "benchmark_requests": 16,
    "benchmark_concurrency": 8,
    "benchmark_input_tokens": 64,
    "benchmark_output_tokens": 64,
    "benchmark_linear_size": 1024,
    "benchmark_buffer_mib": 128,
    # A start takes half a minute of both cores: each placement is started once.
    "benchmark_keep_running": True,
}
# What a benchmark must not leave on its host.
LEFT = r"""
systemctl list-units --all --no-legend --plain 'numapin-benchmark-*'
ls -d /run/numapin-benchmark /var/cache/numapin-benchmark 2>/dev/null || true
"""


class Deployed(t.NamedTuple):
    """A container in which the collection has deployed two instances; they are stopped."""

    container: str
    files: inventory.Files


def variables() -> dict[str, t.Any]:
    """The demo's model, twice on one host, without anything kept for the system."""
    return {
        "vllm_models": [{**service.models()[0], "name": MODEL, "instances": 2}],
        "vllm_install_method": "existing",
        "vllm_existing_python": VLLM_PYTHON,
        "vllm_housekeeping_cores": 0,
        "vllm_address": "{{ ansible_host }}",
        "vllm_api_key": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/api_key') }}",
        "benchmark_results_dir": str(BUILD / PURPOSE / "results"),
    }


@contextlib.contextmanager
def deployed(purpose: str, keep: bool = False, mounts: tuple[str, ...] = ()) -> c.Iterator[Deployed]:
    """Bring the container up and the instances with it; they serve."""
    settings = Settings.from_environment()
    shared = vllm.ready(settings).mounts() + mounts
    try:
        (host,) = hosts.up(purpose, [hosts.Host(HOST, "inference", 11, shared)], settings)
        service.make_api_key(purpose)
        found = Deployed(host.container, inventory.write(purpose, [host], {"inference": variables()}))
        command, environment = playbook(found, "inference")
        with step("The collection deploys two instances"):
            show(command, timeout_seconds=900, environment=environment)
        yield found
    finally:
        if not keep:
            hosts.down(purpose)


def playbook(found: Deployed, name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that run one of the collection's playbooks there."""
    path = str(REPOSITORY / "playbooks" / f"{name}.yml")
    return ansible_playbook(f"--inventory={found.files.inventory}", path, *arguments)


def said(found: Deployed, *arguments: str) -> tuple[int, str]:
    """Exit status and words of benchmark.yml."""
    command, environment = playbook(found, "benchmark", f"--extra-vars={json.dumps(LOAD)}", *arguments)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PLAYBOOK_SECONDS, check=False
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def stop_serving(found: Deployed) -> None:
    """End the deployed instances, as the page says that a person does."""
    podman("exec", found.container, "systemctl", "stop", "vllm.target", "vllm@*", timeout_seconds=180)


def measured(found: Deployed) -> dict[str, t.Any]:
    """Refused, previewed, run, looked after; the result. Raises ``FleetError`` for what is not as it has to be."""
    result = BUILD / PURPOSE / "results" / f"{HOST}.json"
    result.unlink(missing_ok=True)
    with step("It has to refuse a host that serves"):
        code, words = said(found)
        if code == 0 or "run on this host, and both would slow each other down" not in words:
            raise FleetError(f"benchmark.yml did not refuse a host that serves: {words[-2000:]}")
    stop_serving(found)
    with step("With --check it says what would be run"):
        code, words = said(found, "--check")
        missing = [name for name in PLACEMENTS if f"vllm bench serve, {name}, {ROUNDS} rounds" not in words]
        if code != 0 or missing or result.exists():
            raise FleetError(f"benchmark.yml --check left {missing} out, or wrote a result: {words[-2000:]}")
    command, environment = playbook(found, "benchmark", f"--extra-vars={json.dumps(LOAD)}")
    with step("benchmark.yml"):
        show(command, timeout_seconds=PLAYBOOK_SECONDS, environment=environment)
    left = podman("exec", "--interactive", found.container, "sh", stdin=LEFT).strip()
    if left:
        raise FleetError(f"benchmark.yml has left this behind: {left}")
    answer: dict[str, t.Any] = json.loads(result.read_text(encoding="utf-8"))
    short = [name for name in PLACEMENTS if len(answer["service"].get(name, {}).get("rounds", [])) != ROUNDS]
    if short or answer["problems"]:
        raise FleetError(f"not measured: {short}; problems: {answer['problems']}")
    return answer


def table(answer: dict[str, t.Any]) -> str:
    """As it stands in docs/benchmark.md."""
    verdicts = {one["second"]: one for one in answer["verdicts"] if one["metric"] == "tokens_per_second"}
    lines = [
        "| placement | tokens/s (rounds) | TTFT p50, p99 ms | time per token p50, p99 ms | local memory | `local` is |",
        "|---|---|---|---|---|---|",
    ]
    for name in PLACEMENTS:
        middle = answer["service"][name]["medians"]
        tokens = middle["tokens_per_second"]
        ttft, tpot = (
            f"{middle[f'{what}_p50_ms']['median']:.1f}, {middle[f'{what}_p99_ms']['median']:.1f}"
            for what in ("ttft", "tpot")
        )
        local = f"{middle['local_memory_percent']['median']:.1f} %" if "local_memory_percent" in middle else "unknown"
        verdict = f"{verdicts[name]['verdict']}: {verdicts[name]['text']}" if name in verdicts else ""
        spread = f"{tokens['median']:.0f} ({tokens['least']:.0f} – {tokens['most']:.0f})"
        lines.append(f"| `{name}` | {spread} | {ttft} | {tpot} | {local} | {verdict} |")
    lines += ["", *(f"- not measured: {one['part']}, {one['what']}: {one['why']}" for one in answer["left_out"])]
    return "\n".join(lines)


def main() -> int:
    """Do it, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the container up")
    given = parser.parse_args()
    began = time.monotonic()
    try:
        packages.install()
        with deployed(PURPOSE, given.keep) as found:
            text = table(measured(found))
    except FleetError as error:
        print(f"\nERROR: {error}", file=sys.stderr)
        return 1
    (BUILD / "benchmark.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")
    say(f"All of it took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    sys.exit(main())

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is binding worth to the real vLLM on this machine's CPUs?

The collection deploys two instances on cores of their own in a container with systemd. Beside them stand copies of both
whose placement is taken away, and nothing else: ``floating``, whose threads go where the scheduler puts them, and
``default``, which vLLM places as it does when nobody says anything. Then, in each round, each pair in turn gets the
same load, half of it to either instance, while the others idle; the order changes from round to round. Every answer is
checked to be complete. A pair's figures are the medians of its rounds; the ratios are what a machine of another speed
should see as well. Needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import random
import statistics
import sys
import time
import typing as t
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "containers"))

# Importable only now (E402): a script finds what lies beside it through the path that was just set.
import load  # noqa: E402
from fleet import hosts, inventory, service, vllm  # noqa: E402
from fleet.console import FleetError, say, show, step  # noqa: E402
from fleet.podman import podman  # noqa: E402
from fleet.settings import BUILD, VLLM_PYTHON, Settings, ansible_playbook  # noqa: E402

if t.TYPE_CHECKING:
    import collections.abc as c

PURPOSE = "figures"
HOST = "inference1"
FIRST_PORT = 8000
PINNED, DEFAULT, FLOATING = "pinned", "default", "floating"
# What VLLM_CPU_OMP_THREADS_BIND says; what is pinned has its CPUs there.
COPIES = {DEFAULT: "auto", FLOATING: "nobind"}
REQUESTS, CONCURRENCY = 40, 8
TOKENS = (50, 250)
START_SECONDS = 300
# A copy of both instances: what places them is put back to what systemd and vLLM do by themselves.
COPY = r"""
number=0
for config in /etc/vllm/pinned-*.yaml; do
    from=$(basename $config .yaml) name=$1-$number port=$(($2 + number)) number=$((number + 1))
    install -d /etc/systemd/system/vllm@$name.service.d
    unit=/etc/systemd/system/vllm@$from.service
    [ ! -e $unit ] || cp $unit /etc/systemd/system/vllm@$name.service
    sed -E "s/^(CPUAffinity|NUMAMask|AllowedCPUs|AllowedMemoryNodes)=.*/\1=/; s/^NUMAPolicy=.*/NUMAPolicy=default/
        s/(VLLM_CPU_OMP_THREADS_BIND)=[^\"]*/\1=$3/; /CPU_VISIBLE_MEMORY_NODES/d; s/$from\b/$name/g" \
        /etc/systemd/system/vllm@$from.service.d/placement.conf >/etc/systemd/system/vllm@$name.service.d/placement.conf
    sed -E "s/^port:.*/port: $port/" $config >/etc/vllm/$name.yaml
    cp /etc/vllm/$from.env /etc/vllm/$name.env
    units="$units vllm@$name"
done
systemctl daemon-reload
systemctl start $units
"""


class Result(t.NamedTuple):
    """One pair under load in one round."""

    tokens_per_second: float
    p50_seconds: float
    p99_seconds: float


@contextlib.contextmanager
def deployed() -> c.Iterator[str]:
    """The container with all six instances; its address."""
    settings = Settings.from_environment()
    shared = vllm.ready(settings)
    try:
        (host,) = hosts.up(PURPOSE, [hosts.Host(HOST, "inference", 11, shared.mounts())], settings)
        service.make_api_key(PURPOSE)
        files = inventory.write(PURPOSE, [host], {"inference": variables()})
        command, environment = ansible_playbook(f"--inventory={files.inventory}", str(ROOT / "playbooks/inference.yml"))
        with step("The collection deploys two instances"):
            show(command, timeout_seconds=900, environment=environment)
        for number, (name, binding) in enumerate(COPIES.items(), 1):
            with step(f"Starting two more: {name}"):
                script = f"set -e -- {name} {port_of(number)} {binding}\n{COPY}"
                podman("exec", "--interactive", host.container, "sh", stdin=script)
                for port in ports(name):
                    wait_until_healthy(host.address, port)
        yield host.address
    finally:
        hosts.down(PURPOSE)


def variables() -> dict[str, t.Any]:
    """The demo's model, twice on one host, without anything kept for the system."""
    model = service.models()[0]
    return {
        "vllm_models": [{**model, "name": PINNED, "instances": 2, "port": FIRST_PORT}],
        "vllm_install_method": "existing",
        "vllm_existing_python": VLLM_PYTHON,
        "vllm_housekeeping_cores": 0,
        "vllm_address": "{{ ansible_host }}",
        "vllm_api_key": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/api_key') }}",
    }


def port_of(pair: int) -> int:
    """The first port of a pair."""
    return FIRST_PORT + 10 * pair


def ports(name: str) -> tuple[int, int]:
    """The ports of a pair."""
    first = port_of([PINNED, *COPIES].index(name))
    return first, first + 1


def wait_until_healthy(address: str, port: int) -> None:
    """Return when an instance answers; raises ``FleetError`` when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}:{port}/health", timeout=5):
            return
        time.sleep(1)
    raise FleetError(f"The instance on port {port} did not answer within {START_SECONDS} s.")


def under_load(address: str, name: str, api_key: str, requests: int, seed: int) -> Result:
    """Load a pair, each instance with half of the requests, and check every answer."""
    mix = random.Random(seed)
    lengths = [mix.randint(*TOKENS) for _number in range(requests)]
    urls = [f"http://{address}:{port}/v1" for port in ports(name)]
    started = time.monotonic()
    with (
        concurrent.futures.ThreadPoolExecutor(CONCURRENCY // 2) as one,
        concurrent.futures.ThreadPoolExecutor(CONCURRENCY // 2) as other,
    ):
        running = [
            (one, other)[number % 2].submit(load.complete, number, wanted, urls[number % 2], PINNED, api_key, 120.0)
            for number, wanted in enumerate(lengths)
        ]
        answers = [future.result() for future in running]
    seconds = time.monotonic() - started
    found = load.summary(answers, seconds)
    if found["failures"]:
        raise FleetError(f"{name}: answers are not complete: {found['failures'][:3]}")
    return Result(found["tokens_per_second"], found["latency_seconds"]["p50"], found["latency_seconds"]["p99"])


def measure(address: str, rounds: int) -> dict[str, list[Result]]:
    """All rounds of all pairs."""
    names = [PINNED, *COPIES]
    api_key = (BUILD / PURPOSE / "api_key").read_text(encoding="utf-8").strip()
    for name in names:
        under_load(address, name, api_key, requests=4, seed=0)
    found: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(under_load(address, name, api_key, REQUESTS, seed=number + 1))
            say(f"round {number + 1}, {name}: {found[name][-1].tokens_per_second:.0f} tokens/s")
    return found


def medians(results: list[Result]) -> Result:
    """The median round, each figure by itself."""
    return Result(*(statistics.median(values) for values in zip(*results, strict=True)))


def table(found: dict[str, list[Result]]) -> str:
    """The table for people."""
    best = medians(found[PINNED])
    head = f"{'two instances':<14} {'tokens/s':>9} {'(rounds)':>14} {'p50 s':>7} {'p99 s':>7}   pinned is"
    lines = [head]
    for name, results in found.items():
        middle = medians(results)
        speeds = [result.tokens_per_second for result in results]
        ratio = "" if name == PINNED else f"{best.tokens_per_second / middle.tokens_per_second:.2f} x as fast"
        spread = f"{min(speeds):.0f} - {max(speeds):.0f}"
        lines.append(
            f"{name:<14} {middle.tokens_per_second:>9.0f} {spread:>14} {middle.p50_seconds:>7.2f}"
            f" {middle.p99_seconds:>7.2f}   {ratio}"
        )
    return "\n".join(lines)


def main() -> int:
    """Deploy, measure, print the table and, last, the figures."""
    parser = argparse.ArgumentParser(description="What is binding worth to the real vLLM on this machine's CPUs?")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if len(os.sched_getaffinity(0)) < 2:
        print("ERROR: two instances on cores of their own need two CPUs", file=sys.stderr)
        return 1
    try:
        with deployed() as address:
            found = measure(address, rounds)
    except FleetError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print(table(found))
    best = medians(found[PINNED])
    values = {}
    for name in COPIES:
        other = medians(found[name])
        values[f"pinned_over_{name}"] = round(best.tokens_per_second / other.tokens_per_second, 2)
        values[f"p99_pinned_over_{name}"] = round(best.p99_seconds / other.p99_seconds, 3)
    told = [
        f"{name} {middle.tokens_per_second:.0f} tokens/s, p50 {middle.p50_seconds:.2f}, p99 {middle.p99_seconds:.2f} s"
        for name, middle in ((name, medians(results)) for name, results in found.items())
    ]
    detail = f"medians of {rounds} interleaved rounds, {REQUESTS} requests each: {'; '.join(told)}"
    print(json.dumps({"values": values, "detail": detail}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Are the benchmark's verdicts true of the real vLLM? Two equal placements, and one of them slowed on purpose.

In a container the benchmark's own code runs ``local`` and ``again``, two instances each, as equal as two placements can
be, and has them take turns under a short load. Every six rounds are one benchmark with its verdicts. Of 20 at most one
may say that the two differ in tokens per second. Then ``again`` has a busy loop beside its first instance while it has
load, in further benchmarks: each has to say that ``local`` is faster. Needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "containers"))

# Importable only now (E402): a script finds what lies beside it through the path that was just set.
import benchmark as measured  # noqa: E402
from fleet.console import FleetError, say, step  # noqa: E402
from fleet.podman import podman, podman_command  # noqa: E402
from fleet.settings import BUILD, VLLM_PYTHON  # noqa: E402

from ansible_collections.numapin.inference.plugins.plugin_utils._benchmark import result  # noqa: E402

PURPOSE = "verdicts"
ROUNDS = 6
SMALLEST_EFFECT_PERCENT = 2.0
FIRST, SECOND = "local", "again"
COLLECTION = "/opt/collection"
INSIDE = "tests/figures/verdicts_inside.py"
LOAD = {
    "requests": 12,
    "concurrency": 4,
    "input_tokens": 32,
    "output_tokens": 64,
    "buffer_mib": 64,
    "linear_size": 64,
    "start_timeout_seconds": 300,
}
LIMIT_SECONDS = 2400
ROUND = dict[str, t.Any]


def rounds(equal: int, slowed: int) -> list[ROUND]:
    """What the host tells, a round of a placement after the other."""
    mounted = f"{COLLECTION}/ansible_collections/numapin/inference"
    with measured.deployed(PURPOSE, mounts=(f"{ROOT}/plugins:{mounted}/plugins:ro",)) as found:
        measured.stop_serving(found)
        plan = json.loads(podman("exec", found.container, "cat", "/etc/numapin/plan.json"))
        wanted = {
            "instances": plan["instances"],
            "python": VLLM_PYTHON,
            "equal": equal,
            "slowed": slowed,
            "load": LOAD,
        }
        environment = [f"--env=NUMAPIN_VERDICTS={json.dumps(wanted)}", f"--env=PYTHONPATH={COLLECTION}"]
        command = podman_command("exec", "--interactive", *environment, found.container, "python3", "-")
        return told(command, equal, slowed)


def told(command: list[str], equal: int, slowed: int) -> list[ROUND]:
    """Run it; a sign of life every ten rounds."""
    rest: list[ROUND] = []
    with step(f"{equal} rounds of two equal placements, and {slowed} of one that is slowed"):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        t.cast("t.IO[str]", process.stdin).write((ROOT / INSIDE).read_text(encoding="utf-8"))
        t.cast("t.IO[str]", process.stdin).close()
        for line in t.cast("t.IO[str]", process.stdout):
            rest.append(json.loads(line))
            if len(rest) % 20 == 0:
                say(f"  {len(rest) // 2} rounds; the last one gave {rest[-1]['tokens_per_second']:.0f} tokens/s")
        if process.wait(LIMIT_SECONDS) != 0 or len(rest) != 2 * (equal + slowed):
            raise FleetError(f"only {len(rest)} of {2 * (equal + slowed)} rounds were measured; it said why above")
    return rest


def benchmarks(found: list[ROUND]) -> list[list[dict[str, t.Any]]]:
    """The verdicts of every six rounds."""
    by_placement = {name: [one for one in found if one["placement"] == name] for name in (FIRST, SECOND)}
    answers = []
    for begin in range(0, len(by_placement[FIRST]), ROUNDS):
        service = {name: values[begin : begin + ROUNDS] for name, values in by_placement.items()}
        empty: dict[str, t.Any] = {"pairs": [], "gpu_copies": [], "linear": {}, "problems": []}
        answer = result(
            {**empty, "service": service},
            host=measured.HOST,
            generated="",
            smallest_effect_percent=SMALLEST_EFFECT_PERCENT,
        )
        answers.append(answer["verdicts"])
    return answers


def of_metric(answers: list[list[dict[str, t.Any]]], metric: str) -> list[dict[str, t.Any]]:
    """One verdict of each benchmark."""
    return [one for verdicts in answers for one in verdicts if one["metric"] == metric]


def main() -> int:
    """Measure, say each verdict, and print the figures last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--equal", type=int, default=20, help="benchmarks of two equal placements")
    parser.add_argument("--slowed", type=int, default=5, help="benchmarks of a slowed one")
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("ERROR: two instances on cores of their own need two CPUs", file=sys.stderr)
        return 1
    try:
        found = rounds(given.equal * ROUNDS, given.slowed * ROUNDS)
    except FleetError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    (BUILD / "benchmark-verdicts.json").write_text(json.dumps(found), encoding="utf-8")
    print(json.dumps(figures(benchmarks(found), given.equal)))
    return 0


def figures(answers: list[list[dict[str, t.Any]]], equal: int) -> dict[str, t.Any]:
    """Both numbers we stand for; each verdict is printed."""
    for number, verdicts in enumerate(answers):
        print(f"{'equal' if number < equal else 'slowed'}: {verdicts[0]['text']}")
    wrong = {
        metric: sum(one["verdict"] in ("faster", "slower") for one in of_metric(answers[:equal], metric))
        for metric in ("tokens_per_second", "ttft_p50_ms", "tpot_p50_ms")
    }
    slowed = of_metric(answers[equal:], "tokens_per_second")
    counted = collections.Counter(one["verdict"] for one in of_metric(answers[:equal], "tokens_per_second"))
    ratios = sorted(one["ratio"] for one in slowed)
    detail = (
        f"of {equal} benchmarks of two equal placements: {dict(counted)} by tokens per second; said to differ"
        f" by time to the first token {wrong['ttft_p50_ms']}, by time per token {wrong['tpot_p50_ms']}; slowed:"
        f" local {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as fast"
    )
    return {
        "values": {
            "benchmark_false_verdicts": wrong["tokens_per_second"],
            "benchmark_slowed_found": round(
                100 * sum(one["verdict"] == "faster" for one in slowed) / max(len(slowed), 1)
            ),
        },
        "detail": detail,
    }


if __name__ == "__main__":
    sys.exit(main())

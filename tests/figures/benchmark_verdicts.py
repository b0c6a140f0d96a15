# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Are the benchmark's verdicts true of the real vLLM? Two equal placements, and one of them slowed on purpose.

In a container the benchmark's own code runs ``local`` and ``again``, two instances each, as equal as two placements can
be, and has them take turns under a short load. Every six rounds are one benchmark with its verdicts. Of 20 at most one
may say that the two differ in tokens per second. Then ``again`` has a busy loop beside its first instance while it has
load, in further benchmarks: each has to say that ``local`` is faster. Needs a machine that does nothing else.

Both are started once (benchmark_keep_running): 240 starts would take hours. Such verdicts leave out what may be the
luck of a start. What they would be with a start in every round is told as well: a lot drawn for each round says which
of the two goes by which name, so that luck falls to one or the other; on average of 1,000 lots.
"""

from __future__ import annotations

import argparse
import json
import os
import random
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

if t.TYPE_CHECKING:
    import collections.abc as c

PURPOSE = "verdicts"
ROUNDS = 6
SMALLEST_EFFECT_PERCENT = 2.0
FIRST, SECOND = "local", "again"
JUDGED = "tokens_per_second"
LOTS = 1000
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


def benchmarks(
    found: list[ROUND], draw: c.Callable[[], bool] = lambda: False, keep_running: bool = True
) -> list[list[dict[str, t.Any]]]:
    """The verdicts of every six rounds; where ``draw`` says so the two of a round change their names."""
    rounds_of = {name: [figures_of(one) for one in found if one["placement"] == name] for name in (FIRST, SECOND)}
    pairs = [(b, a) if draw() else (a, b) for a, b in zip(rounds_of[FIRST], rounds_of[SECOND], strict=True)]
    answers = []
    for begin in range(0, len(pairs), ROUNDS):
        some = pairs[begin : begin + ROUNDS]
        answer = result(
            {
                "pairs": [],
                "gpu_copies": [],
                "linear": {},
                "service": {FIRST: [a for a, _b in some], SECOND: [b for _a, b in some]},
                "problems": [],
            },
            host=measured.HOST,
            generated="",
            smallest_effect_percent=SMALLEST_EFFECT_PERCENT,
            settings={"keep_running": keep_running},
        )
        answers.append(answer["verdicts"])
    return answers


def figures_of(one: ROUND) -> dict[str, float]:
    """A round as the module returns it."""
    return {key: value for key, value in one.items() if key not in ("round", "placement")}


def of_metric(answers: list[list[dict[str, t.Any]]], metric: str) -> list[dict[str, t.Any]]:
    """One verdict of each benchmark."""
    return [one for verdicts in answers for one in verdicts if one["metric"] == metric]


def main() -> int:
    """Measure, say each verdict, and print the figures last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--equal", type=int, default=20, help="benchmarks of two equal placements")
    parser.add_argument("--slowed", type=int, default=3, help="benchmarks of a slowed one")
    parser.add_argument("--judge", action="store_true", help="measure nothing, judge what was measured last")
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("ERROR: two instances on cores of their own need two CPUs", file=sys.stderr)
        return 1
    kept = BUILD / "benchmark-verdicts.json"
    try:
        if not given.judge:
            kept.write_text(json.dumps(rounds(given.equal * ROUNDS, given.slowed * ROUNDS)), encoding="utf-8")
        found = json.loads(kept.read_text(encoding="utf-8"))
    except (FleetError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures(found, given.equal)))
    return 0


def figures(found: list[ROUND], equal: int) -> dict[str, t.Any]:
    """Both numbers we stand for; each verdict is printed."""
    of_equal = [one for one in found if one["round"] < equal * ROUNDS]
    kept = benchmarks(of_equal)
    slowed = benchmarks([one for one in found if one["round"] >= equal * ROUNDS])
    for title, answers in (("equal", kept), ("slowed", slowed)):
        for verdicts in answers:
            print(f"{title}: {verdicts[0]['text']}")
    lots = [differ(drawn(of_equal, lot), JUDGED) for lot in range(LOTS)]
    luck = [f"{one['ratio']:.2f}" for one in sorted(of_metric(kept, JUDGED), key=lambda one: one["ratio"])]
    ratios = ", ".join(f"{one['ratio']:.2f}" for one in of_metric(slowed, JUDGED))
    detail = (
        f"{equal} benchmarks of {ROUNDS} rounds of two equal placements, started once: local is {luck[0]} to {luck[-1]}"
        f" times as fast; with a start in every round {sum(lots) / LOTS:.2f} of them would say that they differ, on"
        f" average of {LOTS} lots; with a busy loop beside an instance of the other, local is {ratios} times as fast"
    )
    sure = sum(one["verdict"] == "faster" for one in of_metric(slowed, JUDGED))
    return {
        "values": {
            "benchmark_false_verdicts": differ(kept, JUDGED),
            "benchmark_slowed_found": round(100 * sure / max(len(slowed), 1)),
        },
        "detail": detail,
    }


def drawn(found: list[ROUND], lot: int) -> list[list[dict[str, t.Any]]]:
    """The verdicts with names that were drawn by lot."""
    lots = random.Random(lot)
    return benchmarks(found, lambda: lots.random() < 0.5, keep_running=False)


def differ(answers: list[list[dict[str, t.Any]]], metric: str) -> int:
    """How many benchmarks say that one placement is faster than the other."""
    return sum(one["verdict"] in ("faster", "slower") for one in of_metric(answers, metric))


if __name__ == "__main__":
    sys.exit(main())

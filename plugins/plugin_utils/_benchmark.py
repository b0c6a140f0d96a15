# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""What a host's measurements mean: medians, spread, verdicts with their intervals, what to keep, plots, a table."""

from __future__ import annotations

import statistics
import typing as t

from ansible_collections.numapin.inference.plugins.plugin_utils._paired import (
    CONFIDENCE_PERCENT,
    EQUAL,
    FASTER,
    FEWEST_ROUNDS,
    HIGHER,
    LOWER,
    SLOWER,
    UNDECIDED,
    Comparison,
    compare,
)
from ansible_collections.numapin.inference.plugins.plugin_utils._tables import format_table

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Instances that are started once keep the luck of that start: between two equal placements of the real vLLM it was 6 %,
# in 20 benchmarks alike (make benchmark-verdicts). A smaller difference of such instances than this shows nothing.
START_LUCK_PERCENT = 10.0

_LINEAR, _SERVICE = "torch.nn.Linear", "vllm bench serve"


class Metric(t.NamedTuple):
    """One thing a placement is judged by."""

    key: str
    title: str
    unit: str
    better: str


# The first one decides what is advised.
JUDGED = (
    Metric("tokens_per_second", "Tokens per second", "tokens/s", HIGHER),
    Metric("ttft_p50_ms", "Time to the first token, median", "ms", LOWER),
    Metric("tpot_p50_ms", "Time per token, median", "ms", LOWER),
)
_LINEAR_METRIC = Metric("milliseconds", "torch.nn.Linear", "ms", LOWER)


def result(
    measured: Mapping[str, t.Any],
    *,
    host: str,
    generated: str,
    smallest_effect_percent: float,
    left_out: Sequence[Mapping[str, str]] = (),
    settings: Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """Return all of it as plain data; its shape is in docs/benchmark.md. ``measured`` is the module's."""
    service: Mapping[str, Sequence[Mapping[str, float]]] = measured["service"]
    linear: Mapping[str, Sequence[float]] = measured["linear"]
    verdicts: list[dict[str, t.Any]] = []
    report: list[dict[str, t.Any]] = []
    luck_percent = START_LUCK_PERCENT if (settings or {}).get("keep_running") else 0.0
    for metric in JUDGED:
        values = {name: [one[metric.key] for one in rounds] for name, rounds in service.items()}
        _judge(_SERVICE, metric, values, smallest_effect_percent, luck_percent, verdicts, report)
    _judge(_LINEAR, _LINEAR_METRIC, linear, smallest_effect_percent, 0.0, verdicts, report)
    missed = [
        *_missed("latency of memory", measured["pairs"]),
        *_missed("copies between host and GPU", measured["gpu_copies"]),
    ]
    return {
        "host": host,
        "generated": generated,
        "settings": dict(settings or {}),
        "pairs": [_without_why(one) for one in measured["pairs"]],
        "gpu_copies": [one for one in measured["gpu_copies"] if "why" not in one],
        "linear": {name: {"rounds": list(values), **_spread(values)} for name, values in linear.items()},
        "service": {name: {"rounds": list(rounds), "medians": _medians(rounds)} for name, rounds in service.items()},
        "verdicts": verdicts,
        "keep": _keep(verdicts),
        "left_out": [*(dict(one) for one in left_out), *missed],
        "problems": list(measured["problems"]),
        "benchmarks": report,
    }


def _missed(what: str, entries: Sequence[Mapping[str, t.Any]]) -> list[dict[str, str]]:
    """What only the host knew that it could not measure, each reason once."""
    reasons = dict.fromkeys(str(one["why"]) for one in entries if "why" in one)
    return [{"part": "host", "what": what, "why": why} for why in reasons]


def _without_why(one: Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {key: value for key, value in one.items() if key != "why"}


def _judge(
    part: str,
    metric: Metric,
    values: Mapping[str, Sequence[float]],
    smallest_effect_percent: float,
    luck_percent: float,
    verdicts: list[dict[str, t.Any]],
    report: list[dict[str, t.Any]],
) -> None:
    """Hold the first placement against every other one, and draw them."""
    names = [name for name, rounds in values.items() if len(rounds) >= FEWEST_ROUNDS]
    said = []
    for other in names[1:]:
        found = compare(values[names[0]], values[other], metric.better, smallest_effect_percent)
        text = sentence(names[0], other, found)
        if found.verdict in (FASTER, SLOWER) and max(found.ratio, 1 / found.ratio) < 1 + luck_percent / 100:
            found = found._replace(verdict=UNDECIDED)
            text = (
                f"Nothing is shown between {names[0]} and {other}, {_percent(found.ratio)} %: each was started once,"
                f" and up to {luck_percent:g} % may be the luck of a start (benchmark_keep_running)."
            )
        said.append(text)
        verdicts.append(
            {"part": part, "metric": metric.key, "first": names[0], "second": other, **found._asdict(), "text": text}
        )
    if names:
        title = metric.title if part == _LINEAR else f"{part}: {metric.title}"
        groups = [{"name": name, "values": list(values[name])} for name in names]
        entry = {"title": title, "unit": metric.unit, "better": metric.better, "groups": groups}
        report.append({**entry, "verdict": " ".join(said)} if said else entry)


def sentence(first: str, second: str, found: Comparison) -> str:
    """A verdict for people."""
    low, high = (_percent(bound) for bound in (found.low, found.high))
    sure = f"({CONFIDENCE_PERCENT} %: {low} to {high} %, {found.rounds} rounds)"
    if found.verdict == UNDECIDED:
        return f"Nothing is shown between {first} and {second} {sure}: more rounds might."
    if found.verdict == EQUAL:
        return f"No gain here: {first} and {second} are alike {sure}."
    return f"{first} is {found.verdict} than {second}, {_percent(found.ratio)} % {sure}."


def _percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f}"


def _keep(verdicts: Sequence[Mapping[str, t.Any]]) -> list[str]:
    """What to do about it, of the service's tokens per second alone."""
    advice = []
    for one in verdicts:
        if one["metric"] != JUDGED[0].key or one["first"] != "local":
            continue
        other, verdict = one["second"], one["verdict"]
        if other == "again":
            if verdict in (FASTER, SLOWER):
                advice.append(
                    "Two equal placements seem different: something else changes on this host. Trust none of these"
                    " verdicts; measure again on a quiet host."
                )
        elif other == "remote":
            if verdict == FASTER:
                advice.append("Keep memory_policy: bind. Memory on the wrong node costs what the verdict says.")
        elif verdict == FASTER:
            advice.append(f"Keep the plan's placement (vllm_binding): it is faster than {other}.")
        elif verdict == SLOWER:
            advice.append(
                f"The plan's placement is slower than {other} here. Look at vllm_housekeeping_cores, instances_per_node"
                " and vllm_api_server_cores before anything is relied on."
            )
        elif verdict == EQUAL:
            advice.append(f"No gain over {other} here. The plan's placement costs nothing; nothing has to be changed.")
        else:
            kept = "benchmark_keep_running" in one["text"]
            how = "Leave benchmark_keep_running false" if kept else "Raise benchmark_rounds"
            advice.append(f"No gain over {other} is shown. {how} to know better; nothing has to be changed.")
    return advice


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": round(statistics.median(values), 3), "least": min(values), "most": max(values)}


def _medians(rounds: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Of every figure the median round and the spread; without those that are unknown."""
    found = {}
    for key in rounds[0] if rounds else ():
        values = [value for one in rounds if (value := one[key]) is not None]
        if len(values) == len(rounds):
            found[key] = _spread(values)
    return found


def table(found: Mapping[str, t.Any]) -> str:
    """The result as text."""
    blocks = [f"{found['host']}, {found['generated']}"]
    if found["pairs"]:
        rows = [
            [one["cpu_node"], one["memory_node"], one["gib_per_second"], one["nanoseconds"]] for one in found["pairs"]
        ]
        blocks.append(format_table(["CPUs of node", "memory of node", "GiB/s", "ns a load"], rows))
    if found["gpu_copies"]:
        keys = ("gpu", "gpu_node", "node", "to_gpu_gib_per_second", "from_gpu_gib_per_second")
        rows = [[one.get(key) for key in keys] for one in found["gpu_copies"]]
        blocks.append(
            format_table(["GPU", "its node", "CPUs and memory of node", "to it GiB/s", "from it GiB/s"], rows)
        )
    if found["linear"]:
        rows = [[name, one.get("median"), one.get("least"), one.get("most")] for name, one in found["linear"].items()]
        blocks.append(format_table([_LINEAR, "ms a pass", "least", "most"], rows))
    if found["service"]:
        blocks.append(_service_table(found["service"]))
    for title, lines in (
        ("Verdicts", [f"{one['part']}, {one['metric']}: {one['text']}" for one in found["verdicts"]]),
        ("Keep", found["keep"]),
        ("Not measured", [f"{one['part']}, {one['what']}: {one['why']}" for one in found["left_out"]]),
        ("Failed", found["problems"]),
    ):
        if lines:
            blocks.append("\n".join([title, *(f"- {line}" for line in lines)]))
    return "\n\n".join(blocks)


def _service_table(service: Mapping[str, t.Any]) -> str:
    keys = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "latency_p50_ms", "latency_p99_ms")
    rows: list[list[object]] = []
    for name, one in service.items():
        medians = one["medians"]
        if not medians:
            continue
        tokens = medians["tokens_per_second"]
        spread = f"{tokens['least']:.1f} - {tokens['most']:.1f}"
        local = medians.get("local_memory_percent", {}).get("median")
        rows.append([name, tokens["median"], spread, *(medians[key]["median"] for key in keys), local])
    heads = ["TTFT p50 ms", "p99", "TPOT p50 ms", "p99", "latency p50 ms", "p99", "local memory %"]
    return format_table([_SERVICE, "tokens/s", "(rounds)", *heads], rows)

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verdicts: what is equal is not called different, and what is slower is found."""

from __future__ import annotations

import random
import typing as t

import pytest

from ansible_collections.numapin.inference.plugins.filter.benchmark_result import benchmark_result
from ansible_collections.numapin.inference.plugins.filter.benchmark_table import benchmark_table
from ansible_collections.numapin.inference.plugins.plugin_utils._paired import (
    EQUAL,
    FASTER,
    SLOWER,
    UNDECIDED,
    PairedError,
    _outside,
    compare,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator


def rounds(seed: int, slower: float = 1.0, number: int = 8) -> tuple[list[float], list[float]]:
    """Rounds of two placements: every round has its own speed (10 %), every run in it its own noise (3 %)."""
    mix = random.Random(seed)
    speeds = [800 * mix.lognormvariate(0, 0.1) for _round in range(number)]
    return (
        [speed * mix.lognormvariate(0, 0.03) for speed in speeds],
        [speed / slower * mix.lognormvariate(0, 0.03) for speed in speeds],
    )


def verdicts(slower: float, seeds: range) -> Iterator[str]:
    """The verdict of each repetition."""
    for seed in seeds:
        yield compare(*rounds(seed, slower), "higher", 2).verdict


def test_of_twenty_repetitions_of_two_equal_placements_at_most_one_gives_a_false_verdict() -> None:
    found = list(verdicts(1.0, range(20)))
    assert sum(verdict in (FASTER, SLOWER) for verdict in found) <= 1, found


def test_equal_placements_are_called_different_no_oftener_than_the_interval_says() -> None:
    found = list(verdicts(1.0, range(1000)))
    assert sum(verdict in (FASTER, SLOWER) for verdict in found) <= 50


def test_a_slowdown_of_ten_per_cent_is_detected_every_time() -> None:
    assert list(verdicts(1.1, range(20))) == [FASTER] * 20
    assert [compare(b, a, "higher", 2).verdict for a, b in (rounds(seed, 1.1) for seed in range(20))] == [SLOWER] * 20


def test_the_interval_holds_the_truth() -> None:
    held = 0
    for seed in range(400):
        found = compare(*rounds(seed, 1.1), "higher", 2)
        held += found.low <= 1.1 <= found.high
    assert held >= 0.93 * 400


def test_one_wild_round_does_not_turn_a_verdict() -> None:
    first, second = [100.0] * 8, [90.0, 90.2, 89.9, 90.1, 90.0, 89.8, 90.3, 45.0]
    found = compare(first, second, "higher", 2)
    assert found.verdict == FASTER
    assert found.ratio == pytest.approx(1.11, abs=0.02)


def test_lower_is_better_turns_the_ratio_round() -> None:
    assert compare([10.0] * 6, [11.0] * 6, "lower", 2) == (1.1, 1.1, 1.1, FASTER, 6)
    assert compare([10.0] * 6, [11.0] * 6, "higher", 2).verdict == SLOWER


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ([100, 100.5, 99.5, 100.2, 99.8, 100.1], EQUAL),
        ([99, 99, 99, 99, 99, 99], EQUAL),  # sure, and smaller than what counts
        ([80, 120, 95, 105, 90, 110], UNDECIDED),
    ],
)
def test_no_gain_is_a_verdict_and_not_the_same_as_not_knowing(second: list[float], verdict: str) -> None:
    assert compare([100.0] * 6, second, "higher", 2).verdict == verdict


@pytest.mark.parametrize(
    ("count", "outside"),
    # Critical values of Wilcoxon's signed-rank test, two-sided 5 %, as tables have them.
    [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (12, 13), (20, 52)],
)
def test_bounds_are_those_of_the_tables(count: int, outside: int) -> None:
    assert _outside(count) == outside


@pytest.mark.parametrize(
    ("first", "second", "better", "smallest", "said"),
    [
        ([1.0] * 5, [1.0] * 5, "higher", 2, "6 or more"),
        ([1.0] * 6, [1.0] * 7, "higher", 2, "6 and 7 rounds"),
        ([1.0] * 6, [1.0] * 5 + [0.0], "higher", 2, "positive"),
        ([1.0] * 6, [1.0] * 6, "larger", 2, "must be higher or lower"),
        ([1.0] * 6, [1.0] * 6, "higher", 100, "less than 100"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    first: list[float], second: list[float], better: str, smallest: float, said: str
) -> None:
    with pytest.raises(PairedError, match=said):
        compare(first, second, better, smallest)


def one_round(tokens: float, local: float | None = 100.0) -> dict[str, t.Any]:
    """A round as the module returns it."""
    times = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "latency_p50_ms", "latency_p99_ms")
    return {"tokens_per_second": tokens, **dict.fromkeys(times, 8000 / tokens), "local_memory_percent": local}


def measured(**service: list[float]) -> dict[str, t.Any]:
    """What the module returns."""
    return {
        "pairs": [{"cpu_node": 0, "memory_node": 0, "gib_per_second": 12.5, "nanoseconds": 98.1}],
        "gpu_copies": [],
        "linear": {"local": [4.0] * 6, "floating": [4.0] * 6},
        "service": {name: [one_round(tokens) for tokens in values] for name, values in service.items()},
        "problems": [],
    }


def test_a_result_has_verdicts_advice_and_plots() -> None:
    found = benchmark_result(
        measured(local=[110.0] * 6, floating=[100.0] * 6, vllm=[110.0] * 6), host="gpu1", generated="now"
    )
    by_name = {(one["metric"], one["second"]): one["verdict"] for one in found["verdicts"]}
    assert by_name == {
        ("tokens_per_second", "floating"): FASTER,
        ("tokens_per_second", "vllm"): EQUAL,
        ("ttft_p50_ms", "floating"): FASTER,
        ("ttft_p50_ms", "vllm"): EQUAL,
        ("tpot_p50_ms", "floating"): FASTER,
        ("tpot_p50_ms", "vllm"): EQUAL,
        ("milliseconds", "floating"): EQUAL,
    }
    assert found["keep"] == [
        "Keep the plan's placement (vllm_binding): it is faster than floating.",
        "No gain over vllm here. The plan's placement costs nothing; nothing has to be changed.",
    ]
    plot = found["benchmarks"][0]
    assert plot["title"] == "vllm bench serve: Tokens per second"
    assert plot["groups"][0] == {"name": "local", "values": [110.0] * 6}
    assert plot["verdict"].startswith("local is faster than floating, +10.0 % (95 %: +10.0 to +10.0 %, 6 rounds).")
    assert "No gain here: local and vllm are alike" in plot["verdict"]


def test_two_equal_placements_that_differ_spoil_the_rest() -> None:
    found = benchmark_result(measured(local=[110.0] * 6, again=[100.0] * 6), host="gpu1", generated="now")
    assert "Trust none of these verdicts" in found["keep"][0]


def test_the_table_shows_figures_verdicts_and_what_is_missing() -> None:
    given = measured(local=[110.0] * 6, floating=[100.0] * 6)
    given["service"]["floating"][0]["local_memory_percent"] = None
    given["problems"] = ["node 0: it failed"]
    left_out = [{"part": "host", "what": "copies", "why": "this host has no GPU"}]
    text = benchmark_table(benchmark_result(given, host="gpu1", generated="now", left_out=left_out))
    lines = [line.split() for line in text.splitlines()]
    assert ["0", "0", "12.5", "98.1"] in lines
    assert next(line for line in lines if line[:1] == ["local"] and len(line) > 6)[:5] == [
        "local",
        "110.0",
        "110.0",
        "-",
        "110.0",
    ]
    assert next(line for line in lines if line[:1] == ["floating"] and len(line) > 6)[-1] == "-"
    assert "- host, copies: this host has no GPU" in text
    assert "- node 0: it failed" in text


def test_what_the_host_could_not_measure_is_named_once_with_its_reason() -> None:
    given = measured(local=[110.0] * 6)
    pair = {"cpu_node": 0, "memory_node": 0, "gib_per_second": 12.5, "nanoseconds": None, "why": "no latency: no numba"}
    copies = {"gpu": "0000:17:00.0", "gpu_node": 0, "to_gpu_gib_per_second": None, "why": "torch sees no GPU"}
    given["pairs"] = [pair, {**pair, "memory_node": 1}]
    given["gpu_copies"] = [{**copies, "node": 0}, {**copies, "node": 1}]
    left_out = [{"part": "service", "what": "all of it", "why": "benchmark_parts leaves it out"}]
    found = benchmark_result(given, host="gpu1", generated="now", left_out=left_out)
    assert found["left_out"] == [
        *left_out,
        {"part": "host", "what": "latency of memory", "why": "no latency: no numba"},
        {"part": "host", "what": "copies between host and GPU", "why": "torch sees no GPU"},
    ]
    assert found["pairs"][1] == {"cpu_node": 0, "memory_node": 1, "gib_per_second": 12.5, "nanoseconds": None}
    assert found["gpu_copies"] == []


@pytest.mark.parametrize(
    ("better", "verdict"), [(105.0, "undecided"), (95.0, "undecided"), (115.0, "faster"), (85.0, "slower")]
)
def test_what_may_be_the_luck_of_one_start_shows_nothing(better: float, verdict: str) -> None:
    given = measured(local=[better] * 6, floating=[100.0] * 6)
    found = benchmark_result(given, host="gpu1", generated="now", settings={"keep_running": True})
    one = found["verdicts"][0]
    assert one["verdict"] == verdict
    if verdict == "undecided":
        assert one["text"].endswith("up to 10 % may be the luck of a start (benchmark_keep_running).")
        assert found["keep"] == [
            (
                "No gain over floating is shown. Leave benchmark_keep_running false to know better; nothing has to be"
                " changed."
            )
        ]
    again = benchmark_result(given, host="gpu1", generated="now", settings={"keep_running": False})
    assert again["verdicts"][0]["verdict"] == ("faster" if better > 100 else "slower")

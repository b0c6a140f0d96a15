# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stream one chat completion to the terminal: stream.py --url http://HOST/v1 --model NAME "question"."""

from __future__ import annotations

import argparse
import sys
import time

from client import Stream, StreamError, read_api_key


def main() -> int:
    """Print the text as it comes, then how it ended. Exit status 0 only for a complete answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="base URL, with /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key-file")
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("question")
    given = parser.parse_args()
    body = {
        "model": given.model,
        "messages": [{"role": "user", "content": given.question}],
        "max_tokens": given.max_tokens,
    }
    stream = Stream(given.url, "/chat/completions", body, read_api_key(given.api_key_file), timeout_seconds=120)
    print(f"> {given.question}\n")
    started = time.monotonic()
    first: float | None = None
    try:
        for text in stream:
            first = first if first is not None or not text else time.monotonic() - started
            print(printable(text), end="", flush=True)
    except StreamError as error:
        print(f"\n\nERROR: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    print(
        f"\n\nfinish reason: {stream.finish_reason}, tokens: {stream.completion_tokens}, "
        f"first after {first or 0:.2f} s, all in {seconds:.2f} s, served by {stream.upstream}"
    )
    if not (stream.done and stream.finish_reason and stream.completion_tokens):
        print("ERROR: the stream ended without [DONE], a finish reason and a token count.", file=sys.stderr)
        return 1
    return 0


def printable(text: str) -> str:
    """Random weights also say control characters; a terminal would obey them."""
    return "".join(letter if letter.isprintable() and letter != "\ufffd" else "·" for letter in text)


if __name__ == "__main__":
    sys.exit(main())

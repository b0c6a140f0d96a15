# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM's command line, as far as roles/vllm writes it; what is not known is accepted and remembered.

Known options are checked as vLLM's argparse does: exit status 2 and ``PROGRAM: error: argument --port: invalid int
value: 'x'``. The file of ``--config`` is put before the command line, so that the command line wins. As in vLLM it is
read for ``--config FILE`` only, not for ``--config=FILE``.
"""

from __future__ import annotations

import re

from vllm.double import config_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

    from vllm.double.config_file import Value

SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-n": "nnodes",
    "-r": "node-rank",
    "-q": "quantization",
    "-asc": "api-server-count",
}
INTEGERS = [
    "port",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "shutdown-timeout",
    "max-num-seqs",
    "max-num-queued-reqs",
    "api-server-count",
    "seed",
    "nnodes",
    "node-rank",
    "master-port",
    "max-logprobs",
    "stream-interval",
    "num-gpu-blocks-override",
    "block-size",
    "sse-keep-alive-interval",
]
# As in 8k or 1M.
SIZES = ["max-model-len", "max-num-batched-tokens", "max-num-queued-tokens", "kv-cache-memory-bytes"]
FLOATS = ["gpu-memory-utilization", "kv-offloading-size"]
FLAGS = [
    "enforce-eager",
    "enable-server-load-tracking",
    "disable-log-stats",
    "trust-remote-code",
    "enable-prefix-caching",
    "disable-uvicorn-access-log",
    "enable-request-id-headers",
    "enable-log-requests",
    "enable-force-include-usage",
    "enable-prompt-tokens-details",
    "enable-chunked-prefill",
    "async-scheduling",
    "numa-bind",
    "headless",
]
LISTS = ["served-model-name", "api-key", "device-ids", "numa-bind-nodes", "numa-bind-cpus"]
TEXTS = [
    "model",
    "host",
    "config",
    "load-format",
    "dtype",
    "tokenizer",
    "download-dir",
    "revision",
    "quantization",
    "master-addr",
    "uvicorn-log-level",
]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class UsageError(Exception):
    """What argparse refuses; the message is what stands behind ``PROGRAM: error:``."""


class Options:
    """The known options by name, checked; ``unknown`` has all others as they were given."""

    def __init__(self) -> None:
        self.values: dict[str, t.Any] = {}
        self.unknown: dict[str, str | bool | list[str]] = {}
        self.model_tag: str | None = None

    def integer(self, name: str, default: int) -> int:
        value = self.values.get(name)
        return default if value is None else int(value)

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name, False))

    def text(self, name: str, default: str = "") -> str:
        value = self.values.get(name)
        return default if value is None else str(value)

    def texts(self, name: str) -> list[str]:
        return list(self.values.get(name) or [])


def parse(arguments: list[str]) -> Options:
    """Read a command line; UsageError, config_file.ConfigError, OSError."""
    options = Options()
    stray = _read(_with_config_file(arguments), options)
    if stray:
        options.model_tag = stray.pop(0)
    if stray:
        raise UsageError(f"unrecognized arguments: {' '.join(stray)}")
    return options


def _with_config_file(arguments: list[str]) -> list[str]:
    if "--config" not in arguments:
        return arguments
    index = arguments.index("--config")
    if arguments.count("--config") > 1:
        raise config_file.ConfigError("More than one config file specified!")
    if index == len(arguments) - 1:
        raise config_file.ConfigError("No config file specified! Please check your command-line arguments.")
    rest = arguments[:index] + arguments[index + 2 :]
    from_file = [word for key, value in config_file.load(arguments[index + 1]) for word in _as_words(key, value)]
    # A positional model stays in front, as argparse would take the words of a list option for it.
    first = [] if not rest or rest[0].startswith("-") else [rest.pop(0)]
    return first + from_file + rest


def _as_words(key: str, value: Value) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}"] if value else [f"--no-{key}"]
    if isinstance(value, list):
        return [f"--{key}", *value] if value else []
    return [f"--{key}", value]


def _read(words: list[str], options: Options) -> list[str]:
    """Fill ``options``; what belongs to no option is returned."""
    stray: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        name, given = _option_name(word)
        if name is None:
            stray.append(word)
            continue
        if given is None and name not in FLAGS and not name.startswith("no-"):
            following = _values_of(name, words)
            del words[: len(following)]
        else:
            following = [] if given is None else [given]
        _keep(name, following, given, options)
    return stray


def _option_name(word: str) -> tuple[str | None, str | None]:
    """Name and what stands behind ``=``; no name for what is no option."""
    key, equals, given = word.partition("=")
    if key in SHORT:
        return SHORT[key], given if equals else None
    if not key.startswith("--") or len(key) < 3:
        return None, None
    head, dot, tail = key[2:].partition(".")
    return head.replace("_", "-") + dot + tail, given if equals else None


def _values_of(name: str, words: list[str]) -> list[str]:
    """The words behind an option that are its values."""
    count = 0
    while count < len(words) and _is_value(words[count]):
        count += 1
        if name in INTEGERS or name in SIZES or name in FLOATS or name in TEXTS:
            break
    return words[:count]


def _is_value(word: str) -> bool:
    return not word.startswith("-") or word == "-" or bool(re.fullmatch(r"-\d+(\.\d*)?", word))


def _keep(name: str, values: list[str], given: str | None, options: Options) -> None:
    positive = name[3:] if name.startswith("no-") else name
    if positive in FLAGS:
        if given is not None:
            raise UsageError(f"argument --{positive}/--no-{positive}: ignored explicit argument {given!r}")
        options.values[positive] = positive == name
        return
    if name in LISTS:
        if not values:
            raise UsageError(f"argument --{name}: expected at least one argument")
        options.values[name] = values
        return
    if name not in INTEGERS and name not in SIZES and name not in FLOATS and name not in TEXTS:
        options.unknown[name] = True if not values else values[0] if len(values) == 1 else values
        return
    if not values:
        raise UsageError(f"argument {_spelled(name)}: expected one argument")
    options.values[name] = _converted(name, values[0])


def _spelled(name: str) -> str:
    short = [key for key, long in SHORT.items() if long == name]
    return "/".join([f"--{name}", *short])


def _converted(name: str, text: str) -> int | float | str | None:
    if name in TEXTS:
        return None if text in ("", "None") else text
    kind = "human_readable_int_or_auto" if name == "max-model-len" else "human_readable_int" if name in SIZES else "int"
    try:
        if name in FLOATS:
            kind = "float"
            return float(text)
        if text in ("", "None") and name not in ("port", "tensor-parallel-size", "shutdown-timeout"):
            return None
        return _size(text.strip(), name) if name in SIZES else int(text)
    except ValueError:
        raise UsageError(f"argument {_spelled(name)}: invalid {kind} value: {text!r}") from None


def _size(text: str, name: str) -> int:
    if name == "max-model-len" and text.lower() in ("-1", "auto"):
        return -1
    match = _SIZE.fullmatch(text)
    if match is None:
        return int(text)
    return int(float(match[1]) * _FACTORS[match[2]]) if match[2].islower() else int(match[1]) * _FACTORS[match[2]]

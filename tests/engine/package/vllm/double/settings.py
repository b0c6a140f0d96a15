# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a test can set through the environment, beside what vLLM itself reads there.

NUMAPIN_ENGINE_TOKENS_PER_SECOND: pace of each answer, default 1000; 0 is as fast as it goes.
NUMAPIN_ENGINE_START_SECONDS: how long it loads before it listens, default 0 (vLLM needs half a minute).
NUMAPIN_ENGINE_WORKER_MEMORY_MIB: what every worker touches, default 64.
NUMAPIN_ENGINE_METRICS_LAG_SECONDS: how far the gauges of ``/metrics`` are behind, default 1, as vLLM's are.
NUMAPIN_ENGINE_FAULT: what goes wrong, one of

* ``fail-at-start`` or ``fail-at-start:MESSAGE``: EngineCore dies with a traceback and the message, then the API server;
* ``hang-at-start``: it never listens;
* ``die-after:N``: with the N-th completion under way the API server is gone, as after ``kill -9``;
* ``engine-dies-after:N``: with the N-th completion under way EngineCore is gone;
* ``hang-after:N``: N completions are answered, later ones get no token, and ``/health`` goes on answering 200.
"""

from __future__ import annotations

FAULTS = ("fail-at-start", "hang-at-start", "die-after", "engine-dies-after", "hang-after")
DEFAULT_MESSAGE = "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."


class SettingsError(Exception):
    """A variable has a value it cannot have; the message names it."""


class Settings:
    """The variables above. ``fault`` is empty when nothing goes wrong; ``fault_after`` is the N."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.tokens_per_second = _number(environment, "NUMAPIN_ENGINE_TOKENS_PER_SECOND", 1000.0)
        self.start_seconds = _number(environment, "NUMAPIN_ENGINE_START_SECONDS", 0.0)
        self.worker_memory_mib = int(_number(environment, "NUMAPIN_ENGINE_WORKER_MEMORY_MIB", 64.0))
        self.metrics_lag_seconds = _number(environment, "NUMAPIN_ENGINE_METRICS_LAG_SECONDS", 1.0)
        self.fault, self.fault_after, self.fault_message = _fault(environment.get("NUMAPIN_ENGINE_FAULT", ""))
        self.api_key = environment.get("VLLM_API_KEY", "")
        self.omp_threads_bind = environment.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
        self.visible_devices = environment.get("CUDA_VISIBLE_DEVICES")
        # uvicorn's default.
        self.keep_alive_seconds = _number(environment, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", 5.0)
        self.allow_long_max_model_len = environment.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") == "1"


def _number(environment: dict[str, str], name: str, default: float) -> float:
    text = environment.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SettingsError(f"{name} is {text!r}; it must be a number, 0 or more")
    return value


def _fault(text: str) -> tuple[str, int, str]:
    name, _colon, detail = text.partition(":")
    if not text:
        return "", 0, ""
    if name in ("fail-at-start", "hang-at-start"):
        return name, 0, detail or DEFAULT_MESSAGE
    if name in FAULTS and detail.isdigit():
        return name, int(detail), ""
    raise SettingsError(
        f"NUMAPIN_ENGINE_FAULT is {text!r}; it must be one of {', '.join(FAULTS)}, the last three with :N"
    )

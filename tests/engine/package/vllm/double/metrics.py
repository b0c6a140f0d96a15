# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vLLM's ``/metrics``: names, types, labels and buckets of 0.32 (vllm/v1/metrics: loggers.py, perf.py, buckets.py).

The gauges of requests lag behind on purpose, as vLLM's do: who waits for zero in flight must not believe them at once.
What the Python client adds about the process itself (``python_*``, ``process_*``, ``http_*``) is not here; long help
texts are cut.
"""

from __future__ import annotations

import collections
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

LATENCY = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
N = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)

# name: (help, further label, its values)
GAUGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vllm:num_requests_running": ("Number of requests in model execution batches.", "", ()),
    "vllm:num_requests_waiting": ("Number of requests waiting to be processed.", "", ()),
    "vllm:num_requests_waiting_by_reason": (
        "Number of waiting requests by reason.",
        "reason",
        ("capacity", "deferred"),
    ),
    "vllm:engine_sleep_state": (
        "Engine sleep state.",
        "sleep_state",
        ("awake", "weights_offloaded", "discard_all"),
    ),
    "vllm:kv_cache_usage_perc": ("KV-cache usage. 1 means 100 percent usage.", "", ()),
}
COUNTERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vllm:estimated_flops_per_gpu": (
        "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).",
        "",
        (),
    ),
    "vllm:estimated_read_bytes_per_gpu": (
        "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).",
        "",
        (),
    ),
    "vllm:estimated_write_bytes_per_gpu": (
        "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).",
        "",
        (),
    ),
    "vllm:prefix_cache_queries": ("Prefix cache queries, in terms of number of queried tokens.", "", ()),
    "vllm:prefix_cache_hits": ("Prefix cache hits, in terms of number of cached tokens.", "", ()),
    "vllm:external_prefix_cache_queries": (
        "External prefix cache queries from KV connector cross-instance cache sharing.",
        "",
        (),
    ),
    "vllm:external_prefix_cache_hits": (
        "External prefix cache hits from KV connector cross-instance cache sharing.",
        "",
        (),
    ),
    "vllm:mm_cache_queries": ("Multi-modal cache queries, in terms of number of queried items.", "", ()),
    "vllm:mm_cache_hits": ("Multi-modal cache hits, in terms of number of cached items.", "", ()),
    "vllm:num_preemptions": ("Cumulative number of preemption from the engine.", "", ()),
    "vllm:prompt_tokens": ("Number of prefill tokens processed.", "", ()),
    "vllm:prompt_tokens_by_source": (
        "Number of prompt tokens by source.",
        "source",
        ("local_compute", "local_cache_hit", "external_kv_transfer"),
    ),
    "vllm:prompt_tokens_cached": ("Number of cached prompt tokens (local + external).", "", ()),
    "vllm:prompt_tokens_cached_by_source": (
        "Prefix-cache hit tokens by the cache tier that supplied them.",
        "source",
        ("device", "host", "p2p", "disk", "external_unspecified"),
    ),
    "vllm:generation_tokens": ("Number of generation tokens processed.", "", ()),
    "vllm:request_success": (
        "Count of successfully processed requests.",
        "finished_reason",
        ("stop", "length", "abort", "error", "repetition"),
    ),
    "vllm:admission_rejections": (
        "Number of admission attempts rejected by a queue limit, by reason.",
        "reason",
        ("max_num_queued_reqs", "max_num_queued_tokens"),
    ),
}
# name: (help, buckets; none for those that end at the model's length)
HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "vllm:request_prompt_tokens": ("Number of prefill tokens processed.", ()),
    "vllm:request_generation_tokens": ("Number of generation tokens processed.", ()),
    "vllm:iteration_tokens_total": ("Histogram of number of tokens per engine_step.", STEP_TOKENS),
    "vllm:request_max_num_generation_tokens": ("Histogram of maximum number of requested generation tokens.", ()),
    "vllm:request_params_n": ("Histogram of the n request parameter.", N),
    "vllm:request_params_max_tokens": ("Histogram of the max_tokens request parameter.", ()),
    "vllm:time_to_first_token_seconds": ("Histogram of time to first token in seconds.", FIRST_TOKEN),
    "vllm:inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", BETWEEN_TOKENS),
    "vllm:request_time_per_output_token_seconds": (
        "Histogram of time_per_output_token_seconds per request.",
        BETWEEN_TOKENS,
    ),
    "vllm:e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", LATENCY),
    "vllm:request_queue_time_seconds": ("Histogram of time spent in WAITING phase for request.", LATENCY),
    "vllm:request_inference_time_seconds": ("Histogram of time spent in RUNNING phase for request.", LATENCY),
    "vllm:request_prefill_time_seconds": ("Histogram of time spent in PREFILL phase for request.", LATENCY),
    "vllm:request_decode_time_seconds": ("Histogram of time spent in DECODE phase for request.", LATENCY),
    "vllm:request_num_preemptions": ("Histogram of the number of times a request was preempted.", PREEMPTIONS),
    "vllm:request_prefill_kv_computed_tokens": (
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        (),
    ),
}
CACHE_CONFIG = {
    "block_size": "128", "user_specified_block_size": "False", "kv_cache_layout": "None", "prefix_match_unit": "None",
    "gpu_memory_utilization": "0.92", "cache_dtype": "auto", "is_attention_free": "False",
    "num_gpu_blocks_override": "None", "sliding_window": "None", "enable_prefix_caching": "True",
    "prefix_caching_hash_algo": "sha256", "prefix_cache_retention_interval": "0", "kv_cache_dtype_skip_layers": "[]",
    "mamba_page_size_padded": "None", "skip_page_size_padded": "None", "mamba_block_size": "None",
    "mamba_cache_dtype": "auto", "mamba_ssm_cache_dtype": "auto", "mamba_cache_mode": "none",
    "enable_mamba_shared_prefix_checkpoint": "False", "replayssm_buffer_len": "16", "use_replayssm": "False",
    "use_kda_recoverssm": "False", "num_gpu_blocks": "4096", "num_cpu_blocks": "None",
    "effective_attention_block_size": "None", "kv_cache_size_tokens": "524288", "kv_cache_max_concurrency": "128.0",
    "hash_block_size": "128", "cache_hit_alignment_tokens": "128", "kv_sharing_fast_prefill": "False",
    "swa_bounded_replay": "True", "kv_cache_memory_bytes": "1073741824", "kv_offloading_size": "None",
    "kv_offloading_backend": "native", "_block_size_resolved": "True",
}  # fmt: skip
# Its only labels: the API server counts these, not an engine.
WITHOUT_ENGINE = ("vllm:admission_rejections",)


class Metrics:
    """All of them for one model. ``lag_seconds``: how old the gauges of requests are at least."""

    def __init__(self, model_name: str, max_model_len: int, lag_seconds: float) -> None:
        self._labels = {"engine": "0", "model_name": model_name}
        self._created = time.time()
        self._lag_seconds = lag_seconds
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], float] = collections.defaultdict(float)
        self._buckets = {name: buckets or one_two_five(max_model_len) for name, (_help, buckets) in HISTOGRAMS.items()}
        self._seen: dict[str, list[float]] = {name: [0.0] * (len(self._buckets[name]) + 2) for name in HISTOGRAMS}
        self._history: collections.deque[tuple[float, int, int]] = collections.deque([(0.0, 0, 0)])

    # What happens

    def requests(self, running: int, waiting: int) -> None:
        """How many run and wait from now on."""
        with self._lock:
            self._history.append((time.monotonic(), running, waiting))
            self._forget()

    def rejected(self) -> None:
        self._count("vllm:admission_rejections", 1, "max_num_queued_reqs")

    def first_token(self, prompt_tokens: int, seconds: float) -> None:
        self._count("vllm:prompt_tokens", prompt_tokens)
        self._count("vllm:prompt_tokens_by_source", prompt_tokens, "local_compute")
        self._count("vllm:prefix_cache_queries", prompt_tokens)
        self._observe("vllm:time_to_first_token_seconds", seconds)

    def tokens(self, count: int) -> None:
        self._count("vllm:generation_tokens", count)
        self._observe("vllm:iteration_tokens_total", count)

    def finished(self, reason: str, prompt_tokens: int, tokens: int, seconds: tuple[float, float]) -> None:
        """``seconds``: until it ran, and until it ended."""
        queued, total = seconds
        self._count("vllm:request_success", 1, reason)
        for name, value in (
            ("request_prompt_tokens", prompt_tokens),
            ("request_generation_tokens", tokens),
            ("request_max_num_generation_tokens", tokens),
            ("request_params_n", 1),
            ("request_params_max_tokens", tokens),
            ("request_time_per_output_token_seconds", (total - queued) / max(tokens, 1)),
            ("e2e_request_latency_seconds", total),
            ("request_queue_time_seconds", queued),
            ("request_inference_time_seconds", total - queued),
            ("request_prefill_time_seconds", 0.0),
            ("request_decode_time_seconds", total - queued),
            ("request_num_preemptions", 0),
            ("request_prefill_kv_computed_tokens", prompt_tokens),
        ):
            self._observe(f"vllm:{name}", value)

    def _count(self, name: str, value: float, label: str = "") -> None:
        with self._lock:
            self._counts[name, label] += value

    def _observe(self, name: str, value: float) -> None:
        with self._lock:
            seen, buckets = self._seen[name], self._buckets[name]
            for index, bound in enumerate(buckets):
                if value <= bound:
                    seen[index] += 1
            seen[-2] += 1
            seen[-1] += value

    def _forget(self) -> None:
        """Drop what is older than the newest entry that is old enough to be told."""
        limit = time.monotonic() - self._lag_seconds
        while len(self._history) > 1 and self._history[1][0] <= limit:
            self._history.popleft()

    # What it looks like

    def exposition(self) -> str:
        """The whole page."""
        with self._lock:
            self._forget()
            _time, running, waiting = self._history[0]
            lines: list[str] = []
            for name, (help_text, label, values) in COUNTERS.items():
                self._counter(lines, name, help_text, label, values)
            for name, (help_text, label, values) in GAUGES.items():
                _head(lines, name, help_text, "gauge")
                for value in values or ("",):
                    number = _gauge(name, value, running, waiting)
                    lines.append(_line(name, self._labels_of(name, label, value), number))
            for name in HISTOGRAMS:
                self._histogram(lines, name)
            _head(lines, "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge")
            lines.append(_line("vllm:cache_config_info", {**CACHE_CONFIG, "engine": "0"}, 1.0))
        return "".join(lines)

    def _labels_of(self, name: str, label: str, value: str) -> dict[str, str]:
        labels = dict(self._labels)
        if name in WITHOUT_ENGINE:
            del labels["engine"]
        if label:
            labels[label] = value
        return labels

    def _counter(self, lines: list[str], name: str, help_text: str, label: str, values: tuple[str, ...]) -> None:
        for suffix, kind in (("_total", "counter"), ("_created", "gauge")):
            _head(lines, name + suffix, help_text, kind)
            for value in values or ("",):
                number = self._counts[name, value] if kind == "counter" else self._created
                lines.append(_line(name + suffix, self._labels_of(name, label, value), number))

    def _histogram(self, lines: list[str], name: str) -> None:
        help_text = HISTOGRAMS[name][0]
        _head(lines, name, help_text, "histogram")
        seen = self._seen[name]
        bounds = [*self._buckets[name], float("inf")]
        for bound, count in zip(bounds, seen):
            lines.append(_line(f"{name}_bucket", {**self._labels, "le": _go_float(bound)}, count))
        lines.append(_line(f"{name}_count", self._labels, seen[-2]))
        lines.append(_line(f"{name}_sum", self._labels, seen[-1]))
        _head(lines, f"{name}_created", help_text, "gauge")
        lines.append(_line(f"{name}_created", self._labels, self._created))


def _gauge(name: str, value: str, running: int, waiting: int) -> float:
    if name == "vllm:num_requests_running":
        return float(running)
    if name == "vllm:num_requests_waiting" or value == "capacity":
        return float(waiting)
    return 1.0 if value == "awake" else 0.0


def one_two_five(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, … up to ``limit``."""
    bounds: list[float] = []
    scale = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * scale > limit:
                return tuple(bounds)
            bounds.append(mantissa * scale)
        scale *= 10


def _head(lines: list[str], name: str, help_text: str, kind: str) -> None:
    lines.append(f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n")


def _line(name: str, labels: t.Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{label}="{_escaped(labels[label])}"' for label in sorted(labels))
    return f"{name}{{{inner}}} {_go_float(value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _go_float(value: float) -> str:
    """As prometheus_client prints numbers."""
    if value == float("inf"):
        return "+Inf"
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the command line to the exit status."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import zlib

from vllm import __version__
from vllm.double import options as command_options
from vllm.double import processes
from vllm.double.api import Api, Features, Model
from vllm.double.config_file import ConfigError
from vllm.double.engine import Engine
from vllm.double.log import log
from vllm.double.metrics import Metrics
from vllm.double.numa import Binding
from vllm.double.options import Options
from vllm.double.server import Server, listening_socket
from vllm.double.settings import Settings, SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as t

DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
# Of a model whose config.json says nothing, or is not there.
DEFAULT_MAX_MODEL_LEN = 4096
# vLLM's for CPUs and for GPUs differ with the version; enough for every test.
DEFAULT_MAX_NUM_SEQS = 256
SECRETS = ("api-key", "hf-token")
HELP = f"""usage: vllm serve [model_tag] [options]
       vllm --version

{__version__} is NOT vLLM but a double of it for tests: see the first lines of vllm/double/*.py.
"""


class ValidationError(ValueError):
    """Named and worded as the one vLLM ends with."""

    __module__ = "pydantic_core._pydantic_core"


def command_line(arguments: list[str]) -> int:
    """The program ``vllm``; the exit status."""
    if arguments[:1] in (["-v"], ["--version"]):
        print(__version__)
        return 0
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    if arguments[0] != "serve":
        print(
            f"usage: vllm [-h] [-v] {{serve}} ...\nvllm: error: argument subparser: invalid choice: {arguments[0]!r}",
            file=sys.stderr,
        )
        return 2
    return _serve(arguments[1:], "vllm serve", positional_model=True)


def api_server(arguments: list[str]) -> int:
    """``python -m vllm.entrypoints.openai.api_server``; the exit status."""
    return _serve(arguments, "api_server.py", positional_model=False)


def _serve(arguments: list[str], program: str, positional_model: bool) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(HELP, end="")
        return 0
    try:
        settings = Settings(dict(os.environ))
        options = command_options.parse(arguments)
    except (command_options.UsageError, SettingsError) as error:
        print(f"usage: {program} [model_tag] [options]\n{program}: error: {error}", file=sys.stderr)
        return 2
    except ConfigError as error:
        # vLLM ends with the traceback of a ValueError here.
        raise ValueError(str(error)) from None
    # The module's way in knows the model by its option only.
    model = options.text("model", DEFAULT_MODEL)
    if positional_model and options.model_tag is not None:
        model = options.model_tag
    return _run(settings, options, model)


def _run(settings: Settings, options: Options, model: str) -> int:
    signal.signal(signal.SIGTERM, _interrupt_start)
    log("APIServer", "INFO", "api_utils.py:340", f"vLLM server version {__version__}, serving model {model}")
    log("APIServer", "INFO", "api_utils.py:233", f"non-default args: {_shown(options, model)}")
    host, port = options.text("host"), options.integer("port", 8000)
    listener = listening_socket(host, port)
    max_model_len = _max_model_len(options, model, settings)
    ranks = processes.Ranks(options.integer("tensor-parallel-size", 1), options.integer("pipeline-parallel-size", 1))
    ranks.binding = Binding.of(options, len(ranks.names()))
    process = processes.start(settings, ranks, [listener.fileno()])
    try:
        process.wait_until_ready()
        time.sleep(settings.start_seconds)
        server = _server(settings, options, model, max_model_len, listener, process, ranks)
        shown = f"[{host}]" if ":" in host else host or "0.0.0.0"
        log("APIServer", "INFO", "entry.py:126", f"Starting vLLM server on http://{shown}:{port}")
        return server.serve()
    finally:
        process.stop()


def _server(
    settings: Settings,
    options: Options,
    model: str,
    max_model_len: int,
    listener: t.Any,
    process: processes.EngineProcess,
    ranks: processes.Ranks,
) -> Server:
    names = options.texts("served-model-name") or [model]
    page = Metrics(names[0], max_model_len, settings.metrics_lag_seconds)
    unfinished = options.values.get("max-num-queued-reqs")
    engine = Engine(settings, page, options.integer("max-num-seqs", DEFAULT_MAX_NUM_SEQS), unfinished)
    features = Features(
        options.texts("api-key") or [settings.api_key],
        track_load=options.flag("enable-server-load-tracking"),
        request_id_headers=options.flag("enable-request-id-headers"),
        always_usage=options.flag("enable-force-include-usage"),
    )
    api = Api(Model(names, model, max_model_len, _fingerprint(options, model, ranks)), features, engine, page)
    return Server(
        listener,
        api,
        engine,
        process,
        keep_alive_seconds=settings.keep_alive_seconds,
        shutdown_timeout=options.integer("shutdown-timeout", 0),
        access_log=not options.flag("disable-uvicorn-access-log"),
    )


def _interrupt_start(*_signal: object) -> None:
    raise KeyboardInterrupt("terminated")


def _shown(options: Options, model: str) -> dict[str, t.Any]:
    """All options as they were understood, without secrets."""
    known = {**options.values, **options.unknown, "model": model}
    return {name: "***" if name in SECRETS else value for name, value in sorted(known.items())}


def _fingerprint(options: Options, model: str, ranks: processes.Ranks) -> str:
    parts = [f"vllm-{__version__}"]
    parts += [f"tp{ranks.tensor}"] if ranks.tensor > 1 else []
    parts += [f"pp{ranks.pipeline}"] if ranks.pipeline > 1 else []
    hash8 = f"{zlib.crc32(repr((model, sorted(options.values.items(), key=str))).encode()):08x}"
    return "-".join([*parts, hash8])


def _max_model_len(options: Options, model: str, settings: Settings) -> int:
    """``--max-model-len`` held against the model's config.json; ValidationError."""
    wanted = options.integer("max-model-len", -1)
    derived = _derived_max_model_len(model)
    if wanted == -1:
        return derived or DEFAULT_MAX_MODEL_LEN
    if derived is not None and wanted > derived and not settings.allow_long_max_model_len:
        raise ValidationError(
            "1 validation error for ModelConfig\n"
            f"  Value error, User-specified max_model_len ({wanted}) is greater than the derived max_model_len "
            f"(max_position_embeddings={float(derived)} or model_max_length=None in model's config.json). To allow "
            "overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1. VLLM_ALLOW_LONG_MAX_MODEL_LEN "
            "must be used with extreme caution. If the model uses relative position encoding (RoPE), positions "
            "exceeding derived_max_model_len lead to nan. If the model uses absolute position encoding, positions "
            "exceeding derived_max_model_len will cause a CUDA array out-of-bounds error."
        )
    return wanted


def _derived_max_model_len(model: str) -> int | None:
    try:
        with open(os.path.join(model, "config.json"), encoding="utf-8") as handle:
            value = json.load(handle).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, int) else None

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The double is installed once, as a host would have it; at the end: whether it was held against a real vLLM."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "package")]

# Importable only now (E402): a script finds what lies beside it through the path that was just set.
from contract.server import Engine  # noqa: E402
from verdict import COMPARED, NOT_COMPARED  # noqa: E402


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model directory: all the double reads is how long it is."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The interpreter that has the double, for ``vllm_existing_python``."""
    target = tmp_path_factory.mktemp("installed") / "double"
    subprocess.run(
        [str(HERE / "install"), str(target), sys.executable], check=True, stdout=subprocess.DEVNULL, timeout=60
    )
    return target / "bin" / "python"


@pytest.fixture(scope="session")
def double(python: pathlib.Path, model: pathlib.Path) -> Engine:
    """How the double is started, as roles/vllm's unit does it."""
    return Engine(
        "the double",
        (str(python), "-m", "vllm.entrypoints.openai.api_server"),
        str(model),
        {"NUMAPIN_ENGINE_TOKENS_PER_SECOND": "2000", "NUMAPIN_ENGINE_WORKER_MEMORY_MIB": "16"},
        start_seconds=30,
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """However quiet pytest is."""
    compared = config.stash.get(COMPARED, "")
    terminalreporter.write_line(f"engine: {compared or NOT_COMPARED}", red=not compared, green=bool(compared))

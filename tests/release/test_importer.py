# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""tools/importer.py takes an artefact that Galaxy would take, and fails on one that it would not."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
QUICK = {"GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "false", "GALAXY_IMPORTER_RUN_ANSIBLE_DOC": "false"}


def importer(artefact: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/importer.py", str(artefact)],
        cwd=TOP,
        env={**os.environ, **QUICK},
        check=False,
        capture_output=True,
        text=True,
    )


def test_an_artefact_as_it_is_and_one_that_lost_a_file(tmp_path: Path) -> None:
    galaxy = Path(sys.executable).parent / "ansible-galaxy"
    build = [str(galaxy), "collection", "build", "--output-path", str(tmp_path)]
    subprocess.run(build, cwd=TOP, check=True, capture_output=True)
    (whole,) = tmp_path.glob("*.tar.gz")
    taken = importer(whole)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert f"galaxy-importer takes {whole.name} without a warning" in taken.stdout

    less = tmp_path / "less" / whole.name
    less.parent.mkdir()
    with tarfile.open(whole) as source, tarfile.open(less, "w:gz") as target:
        for info in source:
            if info.name != "meta/runtime.yml":
                target.addfile(info, source.extractfile(info))
    refused = importer(less)
    assert refused.returncode == 1
    assert "would not take" in refused.stderr
    assert "meta/runtime.yml" in refused.stdout


def test_no_artefact() -> None:
    run = importer(TOP / "no-such.tar.gz")
    assert (run.returncode, run.stdout) == (1, "")
    assert "build it with `make collection`" in run.stderr

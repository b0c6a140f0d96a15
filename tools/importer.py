# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask galaxy-importer, which judges what is uploaded to Galaxy, about an artefact; a warning fails as an error does.

Usage: ``python tools/importer.py ARTEFACT``.

Galaxy takes nothing without the address of a repository. As long as galaxy.yml names none, a made-up one is put into a
copy of the artefact, so that everything else is judged all the same, and the last line says so.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MADE_UP = "https://repository.invalid/numapin/inference"
TROUBLE = re.compile(r"^(WARNING|ERROR|CRITICAL)\b")


def with_repository(artefact: Path, directory: Path) -> tuple[Path, bool]:
    """Return ``artefact``, or a copy of it in ``directory`` that names a repository, and whether it is such a copy.

    No file of an artefact holds the digest of MANIFEST.json, so it may be changed alone.
    """
    with tarfile.open(artefact) as archive:
        member = archive.extractfile("MANIFEST.json")
        if member is None:
            sys.exit(f"{artefact} holds no MANIFEST.json: give what `ansible-galaxy collection build` has made")
        manifest = json.load(member)
        if manifest["collection_info"].get("repository"):
            return artefact, False
        manifest["collection_info"]["repository"] = MADE_UP
        copy = directory / artefact.name
        with tarfile.open(copy, "w:gz") as target:
            for info in archive:
                content = archive.extractfile(info)
                if info.name == "MANIFEST.json":
                    data = json.dumps(manifest, indent=4).encode()
                    info.size = len(data)
                    target.addfile(info, io.BytesIO(data))
                else:
                    target.addfile(info, content)
    return copy, True


def environment() -> dict[str, str]:
    """Return our environment, in which the importer finds its programs, and its copy instead of the working tree."""
    kept = {key: value for key, value in os.environ.items() if key not in ("ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def main() -> None:
    """Print what the importer says and exit with 1 when there is anything to mend."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/importer.py ARTEFACT")
    artefact = Path(sys.argv[1]).resolve()
    if not artefact.is_file():
        sys.exit(f"there is no artefact {artefact}: build it with `make collection`")
    with tempfile.TemporaryDirectory(prefix="numapin-importer-") as name:
        directory = Path(name)
        judged, made_up = with_repository(artefact, directory)
        run = subprocess.run(
            [sys.executable, "-m", "galaxy_importer.main", str(judged)],
            cwd=directory,
            env=environment(),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        finished = (directory / "importer_result.json").is_file()
    print(run.stdout, end="")
    trouble = [line for line in run.stdout.splitlines() if TROUBLE.match(line)]
    if trouble or not finished or run.returncode != 0:
        sys.exit(
            f"galaxy-importer would not take {artefact.name} as it is: {len(trouble)} warnings and errors, see above"
        )
    print(f"galaxy-importer takes {artefact.name} without a warning")
    if made_up:
        print("but galaxy.yml names no repository yet, and Galaxy takes nothing without: judged with a made-up one")


if __name__ == "__main__":
    main()

# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A module's own code as one file that runs on the host without Ansible: at boot, on an event, on a timer.

The file is a zipapp: ``python3 FILE ...`` runs ``main(arguments)`` of the named private utility, with the code that
the module runs. The same code always gives the same bytes, so that an unchanged program is left alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import typing as t
import zipfile

from ansible_collections.numapin.inference.plugins.module_utils._errors import NumapinError

PROGRAM_DIRECTORY = "/usr/local/lib/numapin"
_PACKAGE = "ansible_collections.numapin.inference.plugins.module_utils"
_IMPORT = re.compile(rf"^[ \t]*from {re.escape(_PACKAGE)}(?:\.(\w+))? import (\([^)]*\)|[^\n]*)", re.MULTILINE)
# The earliest that a zip file can say.
_DATE = (1980, 1, 1, 0, 0, 0)
# What is in a zip file is compiled anew at each start. A service that is given a cache unpacks it there once.
_MAIN = f"""# Written by the Ansible collection numapin.inference. It runs without Ansible.
import os
import shutil
import sys
import tempfile
import zipfile

cache = os.environ.get("CACHE_DIRECTORY")
if cache:
    unpacked = os.path.join(cache, "DIGEST")
    try:
        if not os.path.isdir(unpacked):
            for name in os.listdir(cache):
                shutil.rmtree(os.path.join(cache, name), ignore_errors=True)
            part = tempfile.mkdtemp(dir=cache)
            with zipfile.ZipFile(sys.path[0]) as archive:
                archive.extractall(part)
            os.rename(part, unpacked)
        sys.path.insert(0, unpacked)
    except OSError as error:
        sys.stderr.write(f"{{cache}} cannot be used as a cache: {{error.strerror or error}}\\n")

from {_PACKAGE}.ENTRY import main

sys.exit(main(sys.argv[1:]))
"""


class ProgramError(NumapinError):
    """The code of a program cannot be read."""


def program(entry: str) -> bytes:
    """Return the zipapp whose ``main(arguments: list[str]) -> int`` is that of the private utility ``entry``.

    It holds ``entry`` and what of our private utilities is imported from there on; beyond these, only the standard
    library may be imported. The calling module has to import ``entry`` itself: Ansible sends a host what is imported.
    """
    parts = _PACKAGE.split(".")
    files = {}
    for depth in range(1, len(parts) + 1):
        files["/".join([*parts[:depth], "__init__.py"])] = ""
    for name, source in sources(entry).items():
        files["/".join([*parts, f"{name}.py"])] = source
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    files["__main__.py"] = _MAIN.replace("ENTRY", entry).replace("DIGEST", digest)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, text in sorted(files.items()):
            member = zipfile.ZipInfo(path, _DATE)
            member.external_attr = 0o644 << 16
            archive.writestr(member, text)
    return target.getvalue()


def sources(entry: str) -> dict[str, str]:
    """The source of the private utility ``entry`` and of all it imports of ours, by name (``_irqs``)."""
    found: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _source(name)
            waiting += _imports(found[name])
    return found


def _imports(source: str) -> t.Iterator[str]:
    # Not with ast: taking forty files apart is most of what a run that changes nothing has to do.
    for name, names in _IMPORT.findall(source):
        if name:
            yield name
        else:
            yield from (listed.split()[0] for listed in names.strip("()").split(",") if listed.strip())


def _source(name: str) -> str:
    full_name = f"{_PACKAGE}.{name}"
    spec = importlib.util.find_spec(full_name)
    source = getattr(spec.loader, "get_source", lambda _name: None)(full_name) if spec else None
    if isinstance(source, bytes):
        # Ansible's own loader of collections, on a controller.
        source = source.decode()
    if not isinstance(source, str):
        raise ProgramError(f"the source of {full_name} cannot be read: install the collection on the controller again")
    return source

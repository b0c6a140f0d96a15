# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write one pip.conf that says what pip is told here by its files and by the environment together.

Usage: ``python tools/pip_settings.py PATH``. ansible-test hands pip a cleaned environment and our own home directory,
so an index, a certificate or a proxy that is set in ``PIP_*`` variables or in the user's pip.conf would be lost.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

# Settings of other tools that pip needs in a cleaned environment, used when pip has no setting of its own.
FALLBACKS = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_EXTRA_INDEX_URL",),
    "find-links": ("UV_FIND_LINKS",),
    "cert": ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "proxy": ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"),
}


def pip_settings(listing: str) -> dict[str, str]:
    """Return pip's options from ``pip config list``, whose lines read ``global.timeout='60'``.

    Sections of single commands (``install.no-binary``) keep their name; the environment (``:env:``) wins.
    """
    settings: dict[str, str] = {}
    lines = sorted((line for line in listing.splitlines() if "=" in line), key=lambda line: line.startswith(":env:"))
    for line in lines:
        key, _equals, value = line.partition("=")
        section, _dot, option = key.partition(".")
        name = option if section in (":env:", "global") else f"{section}.{option}"
        settings[name] = str(ast.literal_eval(value))
    return settings


def write_pip_conf(path: Path, settings: dict[str, str]) -> None:
    """Write ``settings`` as an INI file, one section per command."""
    sections: dict[str, list[str]] = {}
    for name, value in sorted(settings.items()):
        section, dot, option = name.partition(".")
        if not dot:
            section, option = "global", name
        sections.setdefault(section, []).append(f"{option} = " + "\n    ".join(value.split("\n")))
    # An index address may hold a password: nobody else may read the file, from its first byte.
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text("".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items()))


def main() -> None:
    """Write the file named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/pip_settings.py PATH")
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings = pip_settings(listing)
    for option, variables in FALLBACKS.items():
        values = [os.environ[variable] for variable in variables if os.environ.get(variable)]
        if values and option not in settings:
            settings[option] = values[0]
    # Some fifteen small environments are made: errors only.
    settings["quiet"] = "2"
    write_pip_conf(Path(sys.argv[1]), settings)


if __name__ == "__main__":
    main()

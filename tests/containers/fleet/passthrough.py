# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of this machine's own package-index and proxy settings goes into the containers: only what is set here."""

from __future__ import annotations

import dataclasses
import os
import pathlib

CA_BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# Where uv and pip have the same setting under two names, one of them is enough here.
SAME = {"UV_FIND_LINKS": "PIP_FIND_LINKS", "UV_DEFAULT_INDEX": "PIP_INDEX_URL", "UV_INDEX": "PIP_EXTRA_INDEX_URL"}
# These name files or places of this machine that a container does not have.
LEFT_OUT = (
    "UV_CACHE_DIR",
    "UV_PYTHON",
    "UV_PROJECT_ENVIRONMENT",
    "PIP_CACHE_DIR",
    "PIP_CONFIG_FILE",
    "PIP_REQUIRE_VIRTUALENV",
)


@dataclasses.dataclass(frozen=True)
class Passthrough:
    """environment: for every login; mounts: paths of this machine, read-only at the same place in the container."""

    environment: dict[str, str]
    mounts: list[str]
    wheel_directories: list[str]

    def holds_wheel(self, distribution: str) -> bool:
        """Whether one of the wheel directories has a wheel of this distribution."""
        return any(any(pathlib.Path(path).glob(f"{distribution}-*.whl")) for path in self.wheel_directories)


def from_machine() -> Passthrough:
    """Collect the settings from this process's environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if (value and name.startswith(("PIP_", "UV_")) and name not in LEFT_OUT) or name in PROXIES
    }
    for uv_name, pip_name in SAME.items():
        if pip_name in environment:
            environment.setdefault(uv_name, environment[pip_name])
    bundles = {name: os.environ[name] for name in CA_BUNDLES if os.path.isfile(os.environ.get(name, ""))}
    environment |= bundles
    links = (
        environment.get("PIP_FIND_LINKS", "").split() + environment.get("UV_FIND_LINKS", "").replace(",", " ").split()
    )
    wheels = [path for path in dict.fromkeys(links) if path.startswith("/") and os.path.isdir(path)]
    return Passthrough(environment, sorted({*bundles.values(), *wheels}), wheels)

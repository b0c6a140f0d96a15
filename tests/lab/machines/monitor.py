# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's monitor (QMP): JSON lines over a socket beside a machine's disk."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import typing as t

from fleet.console import FleetError

SOCKET = "qmp.sock"
ANSWER_SECONDS = 120


def execute(directory: pathlib.Path, command: str, **arguments: object) -> t.Any:
    """Run one command of QMP in the machine that lives in ``directory``; raises ``FleetError``."""
    try:
        with Monitor(directory) as monitor:
            return monitor.execute(command, arguments)
    except (OSError, ValueError) as error:
        raise FleetError(f"QEMU's monitor {directory / SOCKET} does not answer to {command}: {error}") from error


class Monitor:
    """A connection, after the greeting that QMP wants."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_SECONDS)
        # The path of a socket is short; a checkout may lie deep.
        handle = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{handle}/{SOCKET}")
        finally:
            os.close(handle)
        self._lines = self._socket.makefile("r", encoding="utf-8")

    def __enter__(self) -> Monitor:
        self._lines.readline()
        self.execute("qmp_capabilities", {})
        return self

    def __exit__(self, *_error: object) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, object]) -> t.Any:
        """Ask and return the answer; events in between are nobody's."""
        message = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise FleetError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
        raise ValueError("the connection was closed")

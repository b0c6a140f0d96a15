# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This is a PRIVATE part of the collection: do not use it from outside, it may change at any time.

"""A set of files (``_files``) on a private copy of its directory, to be validated as a whole before it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import shutil
import stat

from ansible_collections.numapin.inference.plugins.module_utils import _commands
from ansible_collections.numapin.inference.plugins.module_utils._file_entries import FilesError
from ansible_collections.numapin.inference.plugins.module_utils._file_plan import Plan
from ansible_collections.numapin.inference.plugins.module_utils._file_write import write_beside

MAX_STAGE_MIB = 64
_LONGEST_OUTPUT_LINES = 40


def validate(
    plan: Plan,
    stage: str,
    command: str,
    temporary_directory: str,
    *,
    timeout_seconds: float = 30,
    check_mode: bool = False,
    run: _commands.Runner = _commands.run,
) -> str | None:
    """Run ``command`` on a copy of ``stage`` with the plan over it; FilesError with its output unless it returns 0.

    Returns None when the set is valid, or, in check mode only, why that could not be found out.
    """
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise FilesError(f"validate: {command!r} cannot be split into words: {error}") from error
    if not argv or "%s" not in command:
        raise FilesError(f"validate: {command!r} must be a command with %s where the staged copy of {stage} goes")
    if stage == "/" or not os.path.isabs(stage) or os.path.normpath(stage) != stage:
        raise FilesError(f"stage: {stage!r} must be the plain absolute path of a directory other than /")
    if _commands.find_executable(argv[0]) is None:
        if check_mode:
            return f"not validated: {argv[0]} is not installed yet"
        raise FilesError(f"validate: the command {argv[0]!r} is not on this host; nothing was changed")
    tree = os.path.join(temporary_directory, "stage-" + secrets.token_hex(4))
    try:
        os.mkdir(tree, mode=0o700)
        _copy_tree(stage, tree)
        _lay_over(plan, stage, tree)
        result = run([word.replace("%s", tree) for word in argv], timeout_seconds)
    except OSError as error:
        raise FilesError(f"{stage} could not be staged: {error}; nothing was changed") from error
    except _commands.CommandError as error:
        raise FilesError(f"validate: {str(error).replace(tree, stage)}; nothing was changed") from error
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    if result.rc != 0:
        lines = (result.stdout + result.stderr).replace(tree, stage).strip().splitlines()[-_LONGEST_OUTPUT_LINES:]
        output = _without_secrets("\n".join(lines) or "(no output)", plan)
        raise FilesError(
            f"the new files are not valid, nothing was changed. "
            f"{command.replace('%s', stage)} returned {result.rc}:\n{output}"
        )
    return None


def _copy_tree(source: str, target: str) -> None:
    """Copy directories, files and links, with their modes; sockets and devices have no place in a configuration."""
    left = MAX_STAGE_MIB * 1024 * 1024
    directories: list[tuple[str, int]] = []
    for directory, names, files in os.walk(source):
        staged = os.path.join(target, os.path.relpath(directory, source))
        for name in [*names, *files]:
            path, copy = os.path.join(directory, name), os.path.join(staged, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                link = os.readlink(path)
                # An absolute link back into the tree must show the staged files, not the present ones.
                os.symlink(target + link[len(source) :] if link.startswith(source + "/") else link, copy)
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(copy, 0o700)
                directories.append((copy, stat.S_IMODE(status.st_mode)))
            elif stat.S_ISREG(status.st_mode):
                left -= status.st_size
                if left < 0:
                    raise FilesError(
                        f"stage: {source} holds more than {MAX_STAGE_MIB} MiB; give the configuration's directory only"
                    )
                _write_private(copy, path, stat.S_IMODE(status.st_mode))
    for copy, mode in reversed(directories):
        os.chmod(copy, mode | 0o700)


def _write_private(copy: str, source: str, mode: int) -> None:
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as target, open(source, "rb") as file:
        shutil.copyfileobj(file, target)
        os.chmod(target.fileno(), mode)


def _lay_over(plan: Plan, stage: str, tree: str) -> None:
    def staged(path: str) -> str | None:
        return tree + path[len(stage) :] if path.startswith(stage + "/") else None

    for change in plan.directories:
        copy = staged(change.path)
        if copy and not os.path.lexists(copy):
            os.makedirs(copy, mode=0o700)
    for change in plan.files:
        copy = staged(change.path)
        if copy is None:
            continue
        parent = os.path.dirname(copy)
        if not (os.path.realpath(parent) + "/").startswith(os.path.realpath(tree) + "/"):
            raise FilesError(
                f"{change.path}: a symbolic link leads out of {stage}, it cannot be staged: give the path it leads to"
            )
        os.makedirs(parent, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        if change.after.kind == "file":
            # The user of the validating command is root, or the one who runs this: the owner need not be right here.
            own = dataclasses.replace(change.after, uid=os.geteuid(), gid=os.getegid())
            os.replace(write_beside(copy, own), copy)


def _without_secrets(text: str, plan: Plan) -> str:
    for change in plan.files:
        if not change.secret:
            continue
        for entry in (change.before, change.after):
            for line in entry.content.decode(errors="replace").splitlines():
                for part in (line.strip(), line.partition("=")[2].strip().strip("\"'")):
                    if len(part) >= 4:
                        text = text.replace(part, "(secret)")
    return text

#!/usr/bin/env bash
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# traced.sh PYTHON MODULE ARGUMENTS COLLECTIONS LOOKED_AT - run a module in check mode under strace; print its answer on one
# line, and below it every system call that would change a file, a mount or another process's work. Opening a file for reading
# and starting a program are none. LOOKED_AT is a pattern of a path that it must have read: a trace without it saw nothing.

set -euo pipefail
export PYTHONPATH=$4:${PYTHONPATH:-} PYTHONDONTWRITEBYTECODE=1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
printf '%s' "$3" >"$place/arguments"
strace -f -o "$place/trace" -e trace=%file,mount,umount2,ftruncate,fchmod,fchown,fsetxattr,kill,sethostname,reboot \
    "$1" -m "ansible_collections.numapin.inference.plugins.modules.$2" "$place/arguments" >"$place/answer" || true
grep -q '"changed": true' "$place/answer" || { cat "$place/answer"; exit 1; }
grep -q "$5.*O_RDONLY" "$place/trace" || { echo "it never read $5"; exit 1; }
tr -d '\n' <"$place/answer"
echo
grep -E 'O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|(mkdir|rename|unlink|rmdir|symlink|link|chmod|chown|mount|xattr|truncate|mknod|utime|kill)[a-z0-9]*\(' \
    "$place/trace" | grep -Ev 'readlink|[fl]?getxattr|listxattr' || true

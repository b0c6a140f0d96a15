#!/usr/bin/env bash
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# traced.sh PYTHON MODULE ARGUMENTS COLLECTIONS - run a module in check mode under strace; print every system call that would change a
# file, a mount or another process's work. Opening a file for reading and starting a program are none.

set -euo pipefail
export PYTHONPATH=$4:${PYTHONPATH:-} PYTHONDONTWRITEBYTECODE=1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
printf '%s' "$3" >"$place/arguments"
strace -f -o "$place/trace" -e trace=%file,mount,umount2,ftruncate,fchmod,fchown,fsetxattr,kill,sethostname,reboot \
    "$1" -m "ansible_collections.numapin.inference.plugins.modules.$2" "$place/arguments" >"$place/answer" || true
grep -q '"changed": true' "$place/answer" || { cat "$place/answer"; exit 1; }
# A trace that saw no pool saw nothing.
grep -q 'nr_hugepages.*O_RDONLY' "$place/trace"
grep -E 'O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|(mkdir|rename|unlink|rmdir|symlink|link|chmod|chown|mount|xattr|truncate|mknod|utime|kill)[a-z0-9]*\(' \
    "$place/trace" | grep -Ev 'readlink|[fl]?getxattr|listxattr' || true

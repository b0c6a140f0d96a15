#!/bin/sh
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# capture.sh PID ROOT THREADS: waits until process PID has THREADS threads, and copies what placement_info reads of it
# below ROOT, as the only process of vllm@six.service.
set -eu
tries=0
while [ "$(ls "/proc/$1/task" 2>/dev/null | wc -l)" -ne "$3" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then
        echo "process $1 did not come to $3 threads within 10 seconds" >&2
        exit 1
    fi
    sleep 0.1
done
unit="$2/sys/fs/cgroup/system.slice/system-vllm.slice/vllm@six.service"
mkdir -p "$unit"
: >"$2/sys/fs/cgroup/system.slice/cgroup.procs"
: >"$2/sys/fs/cgroup/system.slice/system-vllm.slice/cgroup.procs"
echo "$1" >"$unit/cgroup.procs"
for task in "/proc/$1/task"/*; do
    mkdir -p "$2$task"
    cat "$task/status" >"$2$task/status"
    cat "$task/stat" >"$2$task/stat"
done
if [ -r "/proc/$1/numa_maps" ]; then
    cat "/proc/$1/numa_maps" >"$2/proc/$1/numa_maps"
fi

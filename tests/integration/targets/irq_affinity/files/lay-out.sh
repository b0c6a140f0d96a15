#!/bin/sh
# Copyright (c) 2026, numapin.inference contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# lay-out.sh ROOT - two nodes of two CPUs, on node 1 a network card eth0 with three vectors, the last one managed.

set -eu
root=$1
write() { mkdir -p "$root/$(dirname "$1")" && printf '%s\n' "$2" >"$root/$1"; }
for node in 0 1; do
    write "sys/devices/system/node/node$node/cpulist" "$((node * 2))-$((node * 2 + 1))"
    write "sys/devices/system/node/node$node/meminfo" "Node $node MemTotal: 1048576 kB"
done
write sys/devices/system/node/online 0-1
write sys/devices/system/cpu/online 0-3
write sys/devices/system/cpu/present 0-3
for cpu in 0 1 2 3; do write "sys/devices/system/cpu/cpu$cpu/topology/core_cpus_list" "$cpu"; done
write proc/sys/kernel/osrelease 6.12.41
write proc/irq/default_smp_affinity f
card=sys/devices/pci0000:c0/0000:c1:00.0
write "$card/class" 0x020000
write "$card/numa_node" 1
for queue in 0 1; do write "$card/net/eth0/queues/tx-$queue/xps_cpus" 0; done
mkdir -p "$root/sys/bus/pci/devices" "$root/sys/bus/pci/drivers/mlx5_core" "$root/sys/class/net"
ln -s ../../../devices/pci0000:c0/0000:c1:00.0 "$root/sys/bus/pci/devices/0000:c1:00.0"
ln -s ../../bus/pci/drivers/mlx5_core "$root/$card/driver"
ln -s ../../devices/pci0000:c0/0000:c1:00.0/net/eth0 "$root/sys/class/net/eth0"
ln -s ../.. "$root/$card/net/eth0/device"
for irq in 30 31 32; do
    write "$card/msi_irqs/$irq" msix
    write "sys/kernel/irq/$irq/actions" "eth0-$irq"
    write "proc/irq/$irq/smp_affinity_list" 0-3
    write "proc/irq/$irq/effective_affinity_list" 2
done
# As from Linux 6.12: no write bits.
chmod 0444 "$root/proc/irq/32/smp_affinity_list"

/*
 * Copyright (c) 2026, numapin.inference contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 */

/*
 * NOT NVIDIA's library but a double of it for tests: libnvidia-ml.so.1 for machines of the lab, as far as the real binding
 * (pynvml) is asked by numa_facts. It answers for the GPUs of /run/lab/gpus, one a line, as lab-gpus writes them:
 *
 *     PCI_ADDRESS NODE UUID MEMORY_MIB NAME
 *
 * What it says of nodes is what that file says, not what sysfs says. GPUs of one node have LINKS NVLinks to one another, in turn.
 *
 * Who computes on a GPU: the engine double's worker of rank N (VLLM::Worker_TPN) on the Nth of its CUDA_VISIBLE_DEVICES, as vLLM's
 * does; of workers in a pipeline it knows nothing. Beside these, lines "UUID PID" of /run/lab/compute, for a test to tell a lie with.
 * Built on any machine for Debian's oldest: no function whose symbol has a new version in a newer C library.
 */

#include <dirent.h>
#include <stdio.h>
#include <string.h>

/* Names, values and layouts of nvml.h */
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { TOPOLOGY_HOSTBRIDGE = 30, TOPOLOGY_SYSTEM = 50 };
enum { REMOTE_GPU = 0, P2P_OK = 0, P2P_NOT_SUPPORTED = 5 };

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    unsigned long long total, free, used;
} memory_info;

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_info;

#define MOST_GPUS 16
#define MOST_PROCESSES 64
#define LINKS 4
#define GPUS "/run/lab/gpus"
#define COMPUTE "/run/lab/compute"
#define WORKER "VLLM::Worker"
#define DEVICES "CUDA_VISIBLE_DEVICES="

typedef struct {
    char address[32], uuid[80], name[96];
    unsigned node;
    unsigned long long memory_mib;
} gpu;

static gpu gpus[MOST_GPUS];
static unsigned count;

static unsigned long long number(const char *text)
{
    unsigned long long value = 0;

    while (*text >= '0' && *text <= '9')
        value = value * 10 + (unsigned long long)(*text++ - '0');
    return value;
}

static unsigned hexadecimal(const char **text)
{
    unsigned value = 0;

    for (; **text && **text != ':' && **text != '.'; (*text)++)
        value = value * 16 + (unsigned)(**text >= 'a' ? **text - 'a' + 10 : **text - '0');
    if (**text)
        (*text)++;
    return value;
}

/* The next word of a line, which is cut off there. */
static char *word(char **line)
{
    char *start = *line;
    char *end = strchr(start, ' ');

    if (end == NULL)
        return NULL;
    *end = 0;
    *line = end + 1;
    return start;
}

int nvmlInitWithFlags(unsigned flags)
{
    char line[512];
    FILE *file = fopen(GPUS, "r");

    (void)flags;
    count = 0;
    if (file == NULL)
        return DRIVER_NOT_LOADED;
    while (count < MOST_GPUS && fgets(line, sizeof line, file)) {
        gpu *one = &gpus[count];
        char *rest = line, *address, *node, *uuid, *memory;

        line[strcspn(line, "\n")] = 0;
        if (!(address = word(&rest)) || !(node = word(&rest)) || !(uuid = word(&rest)) || !(memory = word(&rest)))
            continue;
        snprintf(one->address, sizeof one->address, "%s", address);
        snprintf(one->uuid, sizeof one->uuid, "%s", uuid);
        snprintf(one->name, sizeof one->name, "%s", rest);
        one->node = (unsigned)number(node);
        one->memory_mib = number(memory);
        count++;
    }
    fclose(file);
    return SUCCESS;
}

int nvmlShutdown(void)
{
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *found)
{
    *found = count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu **handle)
{
    if (index >= count)
        return INVALID_ARGUMENT;
    *handle = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(const gpu *one, pci_info *info)
{
    const char *address = one->address;

    memset(info, 0, sizeof *info);
    info->domain = hexadecimal(&address);
    info->bus = hexadecimal(&address);
    info->device = hexadecimal(&address);
    snprintf(info->bus_id, sizeof info->bus_id, "%08X:%02X:%02X.0", info->domain, info->bus, info->device);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04X:%02X:%02X.0", info->domain & 0xffff, info->bus & 0xff,
             info->device & 0xff);
    return SUCCESS;
}

static int text(char *buffer, unsigned size, const char *value)
{
    if (size <= strlen(value))
        return INSUFFICIENT_SIZE;
    snprintf(buffer, size, "%s", value);
    return SUCCESS;
}

int nvmlDeviceGetUUID(const gpu *one, char *buffer, unsigned size)
{
    return text(buffer, size, one->uuid);
}

int nvmlDeviceGetName(const gpu *one, char *buffer, unsigned size)
{
    return text(buffer, size, one->name);
}

int nvmlDeviceGetMemoryInfo(const gpu *one, memory_info *info)
{
    info->total = info->free = one->memory_mib << 20;
    info->used = 0;
    return SUCCESS;
}

int nvmlDeviceGetMemoryAffinity(const gpu *one, unsigned words, unsigned long *set, unsigned scope)
{
    (void)scope;
    memset(set, 0, words * sizeof *set);
    if (one->node / 64 >= words)
        return INSUFFICIENT_SIZE;
    set[one->node / 64] = 1UL << one->node % 64;
    return SUCCESS;
}

int nvmlDeviceGetCpuAffinity(const gpu *one, unsigned words, unsigned long *set)
{
    char path[64], list[512], *at = list;
    FILE *file;

    memset(set, 0, words * sizeof *set);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%u/cpulist", one->node);
    file = fopen(path, "r");
    if (file == NULL || fgets(list, sizeof list, file) == NULL)
        list[0] = 0;
    if (file != NULL)
        fclose(file);
    while (*at >= '0' && *at <= '9') {
        unsigned first = (unsigned)number(at), last = first;

        at += strspn(at, "0123456789");
        if (*at == '-') {
            last = (unsigned)number(++at);
            at += strspn(at, "0123456789");
        }
        for (; first <= last; first++) {
            if (first / 64 >= words)
                return INSUFFICIENT_SIZE;
            set[first / 64] |= 1UL << first % 64;
        }
        if (*at == ',')
            at++;
    }
    return SUCCESS;
}

int nvmlDeviceGetNumaNodeId(const gpu *one, int *node)
{
    (void)one, (void)node;
    return NOT_SUPPORTED;
}

int nvmlDeviceGetMigMode(const gpu *one, unsigned *current, unsigned *pending)
{
    (void)one;
    *current = *pending = 0;
    return SUCCESS;
}

/* The GPU at the other end of a link; NULL when this one is alone on its node. */
static const gpu *peer(const gpu *one, unsigned link)
{
    const gpu *others[MOST_GPUS];
    unsigned found = 0, index;

    for (index = 0; index < count; index++)
        if (&gpus[index] != one && gpus[index].node == one->node)
            others[found++] = &gpus[index];
    return found ? others[link % found] : NULL;
}

int nvmlDeviceGetNvLinkState(const gpu *one, unsigned link, unsigned *active)
{
    if (link >= LINKS)
        return INVALID_ARGUMENT;
    *active = peer(one, link) != NULL;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(const gpu *one, unsigned link, unsigned *type)
{
    if (link >= LINKS || peer(one, link) == NULL)
        return INVALID_ARGUMENT;
    *type = REMOTE_GPU;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(const gpu *one, unsigned link, pci_info *info)
{
    if (link >= LINKS || peer(one, link) == NULL)
        return INVALID_ARGUMENT;
    return nvmlDeviceGetPciInfo_v3(peer(one, link), info);
}

int nvmlDeviceGetTopologyCommonAncestor(const gpu *one, const gpu *other, unsigned *level)
{
    *level = one->node == other->node ? TOPOLOGY_HOSTBRIDGE : TOPOLOGY_SYSTEM;
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(const gpu *one, const gpu *other, unsigned index, unsigned *status)
{
    (void)index;
    *status = one->node == other->node ? P2P_OK : P2P_NOT_SUPPORTED;
    return SUCCESS;
}

/* A file of a process, with a 0 behind its end. */
static size_t content(unsigned long long pid, const char *name, char *buffer, size_t size)
{
    char path[64];
    FILE *file;
    size_t length;

    snprintf(path, sizeof path, "/proc/%llu/%s", pid, name);
    file = fopen(path, "r");
    length = file ? fread(buffer, 1, size - 1, file) : 0;
    if (file != NULL)
        fclose(file);
    buffer[length] = 0;
    return length;
}

/* Whether a process is the worker that has this GPU. */
static int has(unsigned long long pid, const gpu *one)
{
    static char text[1 << 17];
    size_t length, at;
    unsigned rank = 0;
    char *digits;

    content(pid, "cmdline", text, sizeof text);
    if (strncmp(text, WORKER, strlen(WORKER)) || strstr(text, "_PP"))
        return 0;
    if ((digits = strstr(text, "_TP")))
        rank = (unsigned)number(digits + 3);
    length = content(pid, "environ", text, sizeof text);
    for (at = 0; at < length; at += strlen(text + at) + 1) {
        char *device = text + at;

        if (strncmp(device, DEVICES, strlen(DEVICES)))
            continue;
        for (device += strlen(DEVICES); rank && device; rank--)
            if ((device = strchr(device, ',')))
                device++;
        return device && !strncmp(device, one->uuid, strlen(one->uuid));
    }
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const gpu *one, unsigned *room, process_info *infos)
{
    unsigned found = 0, fits = infos ? *room : 0;
    char line[256];
    struct dirent *entry;
    DIR *proc = opendir("/proc");
    FILE *file = fopen(COMPUTE, "r");
    unsigned long long pids[MOST_PROCESSES];

    while (proc && found < MOST_PROCESSES && (entry = readdir(proc)))
        if (*entry->d_name >= '0' && *entry->d_name <= '9' && has(number(entry->d_name), one))
            pids[found++] = number(entry->d_name);
    if (proc != NULL)
        closedir(proc);
    while (file && found < MOST_PROCESSES && fgets(line, sizeof line, file))
        if (!strncmp(line, one->uuid, strlen(one->uuid)) && line[strlen(one->uuid)] == ' ')
            pids[found++] = number(line + strlen(one->uuid) + 1);
    if (file != NULL)
        fclose(file);
    *room = found;
    if (found > fits)
        return INSUFFICIENT_SIZE;
    for (unsigned index = 0; index < found; index++)
        infos[index] = (process_info){.pid = (unsigned)pids[index]};
    return SUCCESS;
}

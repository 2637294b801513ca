/* A libnvidia-ml.so.1 for tests. What it answers is read, at every call, from the text file that NVML_STUB
 * names: one "key value" a line. A key that is missing is NotSupported, and a value "!13" is the error 13.
 *
 *   init 0                   count 1                 driver 570.86
 *   0.name NVIDIA H100       0.uuid GPU-a            0.capability 9 0     0.memory TOTAL FREE USED
 *   0.energy MILLIJOULES     0.usage MILLIWATTS      0.field.186.0 MILLIWATTS (field, scope)
 *   0.temperature 40         0.clock.1 1980          0.reasons 4          0.limit MILLIWATTS
 *   0.processes 12:4096 self:8192 13:-               (pid:bytes, "-" where the driver does not tell)
 *
 * Built with -DOLD it lacks what an old driver lacks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { UNSIGNED_INT = 1 };
#define LINE 512

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; int sensor; int temperature; } Temperature;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    int type, result;
    union { double d; unsigned ui; unsigned long long ull; } value;
} Field;

static int started = 0;

static int raw(const char *key, char *value) {
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    char line[LINE];
    int result = NOT_SUPPORTED;
    if (!file) return 999;
    while (fgets(line, LINE, file)) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) || line[n] != ' ') continue;
        line[strcspn(line, "\n")] = 0;
        strcpy(value, line + n + 1);
        result = value[0] == '!' ? atoi(value + 1) : SUCCESS;
    }
    fclose(file);
    return result;
}

static int text(const char *key, char *value) { return started ? raw(key, value) : UNINITIALIZED; }

static int of(void *device, const char *what, char *value) {
    char key[LINE];
    snprintf(key, LINE, "%d.%s", (int)(size_t)device - 1, what);
    return text(key, value);
}

static int number(void *device, const char *what, unsigned long long *found) {
    char value[LINE];
    int result = of(device, what, value);
    if (!result) *found = strtoull(value, 0, 10);
    return result;
}

static int small(void *device, const char *what, unsigned *found) {
    unsigned long long wide;
    int result = number(device, what, &wide);
    if (!result) *found = (unsigned)wide;
    return result;
}

static int copy(int result, const char *value, char *to, unsigned length) {
    if (!result) snprintf(to, length, "%s", value);
    return result;
}

int nvmlInitWithFlags(unsigned flags) {
    char value[LINE];
    int result = raw("init", value);
    (void)flags;
    started += result == SUCCESS;
    return result;
}

int nvmlShutdown(void) {
    if (!started) return UNINITIALIZED;
    started--;
    return SUCCESS;
}

const char *nvmlErrorString(int result) {
    static char said[32];
    snprintf(said, sizeof said, "stub error %d", result);
    return said;
}

int nvmlSystemGetDriverVersion(char *to, unsigned length) {
    char value[LINE];
    return copy(text("driver", value), value, to, length);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[LINE];
    int result = text("count", value);
    if (!result) *count = (unsigned)atoi(value);
    return result;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    unsigned count;
    int result = nvmlDeviceGetCount_v2(&count);
    if (result) return result;
    if (index >= count) return INVALID_ARGUMENT;
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *to, unsigned length) {
    char value[LINE];
    return copy(of(device, "name", value), value, to, length);
}

int nvmlDeviceGetUUID(void *device, char *to, unsigned length) {
    char value[LINE];
    return copy(of(device, "uuid", value), value, to, length);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    unsigned count;
    char value[LINE];
    int result = nvmlDeviceGetCount_v2(&count);
    if (result) return result;
    for (size_t i = 1; i <= count; i++) {
        if (!of((void *)i, "uuid", value) && !strcmp(value, uuid)) {
            *device = (void *)i;
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    char value[LINE];
    int result = of(device, "capability", value);
    if (!result) sscanf(value, "%d %d", major, minor);
    return result;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *power) { return small(device, "usage", power); }

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *limit) { return small(device, "limit", limit); }

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *found) {
    (void)sensor;
    return small(device, "temperature", found);
}

int nvmlDeviceGetClockInfo(void *device, int type, unsigned *clock) {
    char what[LINE];
    snprintf(what, LINE, "clock.%d", type);
    return small(device, what, clock);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    return number(device, "reasons", reasons);
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    char value[LINE];
    int result = of(device, "memory", value);
    if (!result) sscanf(value, "%llu %llu %llu", &memory->total, &memory->free, &memory->used);
    return result;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *to) {
    char value[LINE];
    unsigned n = 0, room = *count;
    int result = of(device, "processes", value);
    if (result) return result;
    for (char *word = strtok(value, " "); word; word = strtok(0, " "), n++) {
        char *bytes = strchr(word, ':') + 1;
        if (n >= room) continue;
        memset(&to[n], 0, sizeof to[n]);
        to[n].pid = strncmp(word, "self", 4) ? (unsigned)atoi(word) : (unsigned)getpid();
        to[n].used = *bytes == '-' ? ~0ULL : strtoull(bytes, 0, 10);
    }
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    return number(device, "energy", energy);
}

int nvmlDeviceGetFieldValues(void *device, int count, Field *fields) {
    char what[LINE];
    if (!started) return UNINITIALIZED;
    for (int i = 0; i < count; i++) {
        snprintf(what, LINE, "field.%u.%u", fields[i].field, fields[i].scope);
        fields[i].type = UNSIGNED_INT;
        fields[i].result = small(device, what, &fields[i].value.ui);
    }
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(void *device, Temperature *found) {
    return small(device, "temperature", (unsigned *)&found->temperature);
}

int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    return number(device, "reasons", reasons);
}
#endif

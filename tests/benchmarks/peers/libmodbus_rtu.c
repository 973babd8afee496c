/* libmodbus as RTU master: meters 1 to UNITS, BLOCKS reads of 20 registers each, for CYCLES cycles.
 * usage: libmodbus_rtu DEVICE BAUD UNITS BLOCKS CYCLES; prints good, failed, CPU s, wall s. */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    int units = atoi(argv[3]), blocks = atoi(argv[4]), cycles = atoi(argv[5]);
    long good = 0, failed = 0;
    uint16_t words[125];
    modbus_t *link = modbus_new_rtu(argv[1], atoi(argv[2]), 'N', 8, 1);
    if (!link || modbus_connect(link)) return 1;
    double begun = seconds();
    for (int cycle = 0; cycle < cycles; cycle++)
        for (int unit = 1; unit <= units; unit++)
            for (int block = 0; block < blocks; block++) {
                modbus_set_slave(link, unit);
                if (modbus_read_registers(link, 100 * block, 20, words) == 20) good++;
                else failed++;
            }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%ld %ld %f %f\n", good, failed,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           seconds() - begun);
    return 0;
}

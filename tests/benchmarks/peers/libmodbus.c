/* libmodbus, a thread per connection, each value decoded by its own modbus_get_float_abcd and scaled.
 * usage: libmodbus PORT SECONDS CONNECTIONS REGISTERS; prints requests, CPU seconds, wall seconds. */
#include <modbus.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static int port, registers;
static double until;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void *poll_for_ever(void *counted) {
    uint16_t words[125];
    double values[63];
    modbus_t *link = modbus_new_tcp("127.0.0.1", port);
    if (modbus_connect(link)) exit(1);
    modbus_set_slave(link, 1);
    while (seconds() < until) {
        if (modbus_read_registers(link, 0, registers, words) != registers) exit(1);
        for (int i = 0; i < registers / 2; i++) values[i] = modbus_get_float_abcd(words + 2 * i) * 0.1;
        __asm__ volatile("" : : "r"(values) : "memory");
        ++*(long *)counted;
    }
    modbus_close(link);
    modbus_free(link);
    return NULL;
}

int main(int argc, char **argv) {
    int connections = atoi(argv[3]);
    pthread_t threads[connections];
    long counted[64] = {0}, total = 0;
    double begun = seconds();
    port = atoi(argv[1]);
    registers = atoi(argv[4]);
    until = begun + atof(argv[2]);
    for (int i = 0; i < connections; i++) pthread_create(&threads[i], NULL, poll_for_ever, &counted[i]);
    for (int i = 0; i < connections; i++) {
        pthread_join(threads[i], NULL);
        total += counted[i];
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%ld %f %f\n", total,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           seconds() - begun);
    return 0;
}

/* An RS-485 line on a pty, paced byte by byte, with slaves of different turnarounds.
 * usage: line BAUD UNITS DEAD STRICT LINK; makes LINK a symlink to the pty and prints a line when ready. Units 1 to
 * UNITS, the last DEAD of them silent until SIGUSR1. STRICT 1: requests that come before t3.5 are not heard. At the
 * end of its standard input it prints: requests heard, requests that came too early, shortest silence in us.
 * The last byte of an answer goes out between two looks at the clock. Where the machine has kept us from running between
 * them, silence is reckoned from the first: a request is never called early for a delay of our own. */
#define _GNU_SOURCE
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define KEPT 100e-6  /* a write takes a tenth of that */
static volatile sig_atomic_t revived;
static void revive(int number) { (void)number; revived = 1; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void sleep_until(double when) {
    struct timespec time = {(time_t)when, (long)((when - (time_t)when) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL)) {}
}

static unsigned crc16(const unsigned char *data, int size) {
    unsigned crc = 0xFFFF;
    for (int i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xA001 : crc >> 1;
    }
    return crc;
}

/* Seconds; peers and the computed ideal use the same: bench_rtu.py, turnaround(). */
static double turnaround(int unit) { return 0.005 + 0.015 * (unit * 7919 % 97) / 96; }

static int answer(const unsigned char *request, unsigned char *out) {
    int address = request[2] << 8 | request[3], count = request[5], size = 3 + 2 * count;
    out[0] = request[0];
    out[1] = request[1];
    out[2] = 2 * count;
    for (int i = 0; i < count; i++) {
        out[3 + 2 * i] = (address + i) >> 8;
        out[4 + 2 * i] = (address + i) & 0xFF;
    }
    unsigned crc = crc16(out, size);
    out[size] = crc & 0xFF;
    out[size + 1] = crc >> 8;
    return size + 2;
}

int main(int argc, char **argv) {
    double baud = atof(argv[1]), byte = 10 / baud, silence = baud > 19200 ? 0.00175 : 3.5 * byte, spoke = 0, shortest = 1;
    int units = atoi(argv[2]), dead = atoi(argv[3]), strict = atoi(argv[4]), master, slave, size = 0;
    long heard = 0, early = 0;
    unsigned char buffer[256], out[300];
    struct termios raw;
    if (openpty(&master, &slave, NULL, NULL, NULL)) return 1;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    unlink(argv[5]);
    if (symlink(ttyname(slave), argv[5])) return 1;
    signal(SIGUSR1, revive);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd ends[2] = {{master, POLLIN, 0}, {0, POLLIN, 0}};
        if (poll(ends, 2, -1) < 0) continue;
        if (ends[1].revents) break;
        double came = now();
        int got = read(master, buffer + size, sizeof buffer - size);
        if (got <= 0) continue;
        if (size == 0 && spoke) {
            if (came - spoke < shortest) shortest = came - spoke;
            if (came - spoke < silence) {
                early++;
                if (strict) continue;
            }
        }
        size += got;
        if (size < 8) continue;
        size = 0;
        heard++;
        int unit = buffer[0];
        if (crc16(buffer, 8) || unit < 1 || unit > units || (unit > units - dead && !revived)) continue;
        int length = answer(buffer, out);
        double begin = came + 8 * byte + turnaround(unit);
        for (int i = 0; i < length; i++) {
            sleep_until(begin + (i + 1) * byte);
            double before = now();
            if (write(master, out + i, 1) != 1) return 1;
            spoke = now();
            if (spoke - before > KEPT) spoke = before;
        }
    }
    printf("%ld %ld %.0f\n", heard, early, shortest * 1e6);
    return 0;
}

/* Modbus TCP meters for bench-agent: endpoints of many units, each with 50 float32 values that change with every answer.
 * usage: meters ENDPOINTS UNITS; prints "BASE PORT PORT ..." (BASE: unix ms). For each byte on its standard input it
 * prints how many scans it has answered so far; it ends with it.
 *
 * Registers 0 to 99, read together by function 3 or 4, of units 1 to UNITS:
 *   value 0         how often this unit was read, from 1: a reading lost or twice shows
 *   value 1         ms since BASE when it was answered (exact up to 4 h)
 *   values 2-11     counters, two decimals, each grows by 0 to 0.02 a read
 *   values 12-30    gauges, one decimal, walking
 *   values 31-49    gauges with all the noise of a float32
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { VALUES = 50, COUNTERS_END = 12, PLAIN_END = 31, MAX_FD = 65536, IN = 2048, OUT = 4096 };
struct unit { uint32_t reads, random; int32_t at[VALUES]; };
struct client { int listens, endpoint, size; unsigned char data[IN]; };
static struct client *clients[MAX_FD];
static struct unit *all;
static int units;
static int64_t base;
static unsigned long long scans;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static uint32_t draw(struct unit *u) {
    u->random ^= u->random << 13;
    u->random ^= u->random >> 17;
    u->random ^= u->random << 5;
    return u->random;
}

static void put_float(unsigned char *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = htonl(bits);
    memcpy(out, &bits, 4);
}

/* The values of the unit's next read. */
static void put_values(struct unit *u, unsigned char *out) {
    put_float(out, ++u->reads);
    put_float(out + 4, now_ms() - base);
    for (int i = 2; i < VALUES; i++) {
        uint32_t chance = draw(u) >> 8;
        if (i < COUNTERS_END) {
            u->at[i] += chance % 3;
            put_float(out + 4 * i, u->at[i] / 100.0f);
        } else if (i < PLAIN_END) {
            u->at[i] += (int)(chance % 7) - 3;
            put_float(out + 4 * i, u->at[i] / 10.0f);
        } else {
            u->at[i] += (int)(chance % 2001) - 1000;
            put_float(out + 4 * i, u->at[i] / 8191.0f);
        }
    }
    scans++;
}

static int answer(const unsigned char *request, int endpoint, unsigned char *out) {
    int unit = request[6], function = request[7];
    int address = request[8] << 8 | request[9], count = request[10] << 8 | request[11];
    memcpy(out, request, 8);
    if ((function != 3 && function != 4) || address || count != 2 * VALUES || unit < 1 || unit > units) {
        out[4] = 0, out[5] = 3, out[7] |= 0x80, out[8] = 2;
        return 9;
    }
    out[4] = 0, out[5] = 3 + 4 * VALUES, out[8] = 4 * VALUES;
    put_values(&all[endpoint * units + unit - 1], out + 9);
    return 9 + 4 * VALUES;
}

static void hang_up(int fd) {
    free(clients[fd]);
    clients[fd] = NULL;
    close(fd);
}

static void serve(int fd) {
    struct client *c = clients[fd];
    unsigned char out[OUT];
    int got = recv(fd, c->data + c->size, IN - c->size, 0), at = 0, size = 0;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) hang_up(fd);
        return;
    }
    c->size += got;
    while (c->size - at >= 12 && size < OUT - 300) {
        size += answer(c->data + at, c->endpoint, out + size);
        at += 12;
    }
    memmove(c->data, c->data + at, c->size - at);
    c->size -= at;
    if (size && send(fd, out, size, MSG_NOSIGNAL) != size) hang_up(fd);
}

static void watch(int epoll, int fd, int listens, int endpoint) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd < 0 || fd >= MAX_FD || !(clients[fd] = calloc(1, sizeof *clients[fd]))) exit(1);
    clients[fd]->listens = listens;
    clients[fd]->endpoint = endpoint;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int listener(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) || listen(fd, 64)) exit(1);
    getsockname(fd, (void *)&address, &length);
    printf(" %d", ntohs(address.sin_port));
    return fd;
}

int main(int argc, char **argv) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = 0}, events[64];
    int endpoints = argc > 2 ? atoi(argv[1]) : 0, epoll = epoll_create1(0), one = 1;
    char asked[64];
    units = argc > 2 ? atoi(argv[2]) : 0;
    if (endpoints < 1 || units < 1 || units > 247 || !(all = calloc(endpoints * units, sizeof *all))) return 2;
    for (int i = 0; i < endpoints * units; i++) {
        all[i].random = 2654435761u * (i + 1) | 1;
        for (int v = 0; v < VALUES; v++) all[i].at[v] = draw(&all[i]) % 1000000;
    }
    base = now_ms();
    printf("%lld", (long long)base);
    for (int i = 0; i < endpoints; i++) watch(epoll, listener(), 1, i);
    printf("\n");
    fflush(stdout);
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) {
                int got = read(0, asked, sizeof asked);
                if (got <= 0) return 0;
                while (got-- > 0) printf("%llu\n", scans);
                fflush(stdout);
            } else if (clients[fd] && clients[fd]->listens) {
                int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK);
                if (peer < 0) continue;
                setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(epoll, peer, 0, clients[fd]->endpoint);
            } else if (clients[fd]) {
                serve(fd);
            }
        }
    }
}

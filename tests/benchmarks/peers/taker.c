/* Taker: subscribes to everything (MQTT 3.1.1, QoS 1) and writes what comes to a file, with the time at which it came.
 * usage: taker PORT FILE; prints "ready", then for each byte on its standard input how many messages it has written,
 * all of them in the file by then. Ends with it, or when the broker is gone.
 *
 * The file: for each message int64 unix ns, uint32 bytes of the topic, uint32 bytes of the payload, topic, payload.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 24, ACKS = 1 << 16 };
static const unsigned char CONNECT[] = {0x10, 17, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 5, 't', 'a', 'k', 'e', 'r'};
static const unsigned char SUBSCRIBE[] = {0x82, 6, 0, 1, 0, 1, '#', 1};
static unsigned char *data;
static int size, wire;
static unsigned long long taken;
static FILE *file;

static void send_all(const unsigned char *bytes, int count) {
    while (count > 0) {
        int sent = send(wire, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0) exit(1);
        bytes += sent, count -= sent;
    }
}

/* A packet's length with its head, 0 when it is not there yet; *head: bytes before its variable part. */
static int packet(const unsigned char *at, int have, int *head) {
    int length = 0, shift = 0, i = 1;
    do {
        if (i >= have || shift > 21) return 0;
        length |= (at[i] & 127) << shift;
        shift += 7;
    } while (at[i++] & 128);
    *head = i;
    return have >= i + length ? i + length : 0;
}

static void keep(const unsigned char *at, int count, int qos, int64_t now, unsigned char *acks, int *acked) {
    uint32_t topic = at[0] << 8 | at[1], before = 2 + topic + (qos ? 2 : 0), payload = count - before;
    fwrite(&now, 8, 1, file);
    fwrite(&topic, 4, 1, file);
    fwrite(&payload, 4, 1, file);
    fwrite(at + 2, 1, topic, file);
    fwrite(at + before, 1, payload, file);
    taken++;
    if (qos) {
        const unsigned char ack[] = {0x40, 2, at[2 + topic], at[3 + topic]};
        memcpy(acks + *acked, ack, 4);
        *acked += 4;
    }
}

static void hear(void) {
    unsigned char acks[ACKS];
    struct timespec t;
    int at = 0, acked = 0, head, length, got = recv(wire, data + size, ROOM - size, 0);
    if (got <= 0) {
        fflush(file);
        exit(got < 0);
    }
    clock_gettime(CLOCK_REALTIME, &t);
    size += got;
    while ((length = packet(data + at, size - at, &head))) {
        if ((data[at] & 0xF0) == 0x30)
            keep(data + at + head, length - head, data[at] >> 1 & 3, t.tv_sec * 1000000000LL + t.tv_nsec, acks, &acked);
        else if ((data[at] & 0xF0) == 0x90) {
            printf("ready\n");
            fflush(stdout);
        }
        at += length;
        if (acked > ACKS - 4) send_all(acks, acked), acked = 0;
    }
    send_all(acks, acked);
    memmove(data, data + at, size - at);
    size -= at;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    char asked[64];
    if (argc < 3 || !(file = fopen(argv[2], "wb")) || !(data = malloc(ROOM))) return 2;
    setvbuf(file, NULL, _IOFBF, 1 << 20);
    address.sin_port = htons(atoi(argv[1]));
    wire = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(wire, (void *)&address, sizeof address)) return 1;
    setsockopt(wire, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    send_all(CONNECT, sizeof CONNECT);
    send_all(SUBSCRIBE, sizeof SUBSCRIBE);
    struct pollfd fds[] = {{.fd = wire, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    for (;;) {
        poll(fds, 2, -1);
        if (fds[0].revents) hear();
        if (fds[1].revents) {
            int got = read(0, asked, sizeof asked);
            fflush(file);
            if (got <= 0) return 0;
            while (got-- > 0) printf("%llu\n", taken);
            fflush(stdout);
        }
    }
}

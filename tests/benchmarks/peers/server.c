/* Modbus TCP server for benchmarks: answers every read of registers with the same float32 values. One thread, epoll.
 * usage: server; prints its port. Ends with its standard input. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FD 4096
static struct { unsigned char data[2048]; int size; } buffers[MAX_FD];

static int answer(const unsigned char *request, unsigned char *out) {
    int count = request[10] << 8 | request[11];
    if (count > 125) count = 125;
    memcpy(out, request, 4);
    out[4] = 0;
    out[5] = 3 + 2 * count;
    out[6] = request[6];
    out[7] = request[7];
    out[8] = 2 * count;
    for (int i = 0; i + 1 < count; i += 2) {  /* 230.0, 231.0, ... as ABCD */
        float value = 230.0f + i / 2;
        unsigned int bits;
        memcpy(&bits, &value, 4);
        bits = htonl(bits);
        memcpy(out + 9 + 2 * i, &bits, 4);
    }
    return 9 + 2 * count;
}

static void serve(int fd) {
    unsigned char *data = buffers[fd].data, out[4096];
    int got = recv(fd, data + buffers[fd].size, sizeof buffers[fd].data - buffers[fd].size, 0), at = 0, size = 0;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) close(fd);
        return;
    }
    buffers[fd].size += got;
    while (buffers[fd].size - at >= 12 && size < 3000) {
        size += answer(data + at, out + size);
        at += 12;
    }
    memmove(data, data + at, buffers[fd].size - at);
    buffers[fd].size -= at;
    if (size && send(fd, out, size, MSG_NOSIGNAL) != size) close(fd);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0), one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 512)) return 1;
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) return 0;
            if (fd != listener) {
                serve(fd);
                continue;
            }
            fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0 || fd >= MAX_FD) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            buffers[fd].size = 0;
            event.data.fd = fd;
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}

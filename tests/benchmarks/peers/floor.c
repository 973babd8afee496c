/* The floor: a C epoll loop with prebuilt requests that looks at nothing but the answer's length and transaction id.
 * usage: floor PORT SECONDS CONNECTIONS REGISTERS; prints requests, CPU seconds, wall seconds. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void ask(int fd, unsigned char *request) {
    if (++request[1] == 0) request[0]++;
    if (send(fd, request, 12, 0) != 12) exit(1);
}

int main(int argc, char **argv) {
    int connections = atoi(argv[3]), registers = atoi(argv[4]), epoll = epoll_create1(0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct { int fd, size; unsigned char request[12], data[512]; } *all = calloc(connections, sizeof *all);
    struct epoll_event events[64];
    for (int i = 0; i < connections; i++) {
        unsigned char request[12] = {0, 0, 0, 0, 0, 6, 1, 3, 0, 0, 0, (unsigned char)registers};
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(all[i].fd, (void *)&address, sizeof address)) return 1;
        setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        memcpy(all[i].request, request, 12);
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    double begun = seconds(), until = begun + atof(argv[2]);
    long answers = 0;
    for (int i = 0; i < connections; i++) ask(all[i].fd, all[i].request);
    while (seconds() < until) {
        int count = epoll_wait(epoll, events, 64, 100);
        for (int k = 0; k < count; k++) {
            int i = events[k].data.u32;
            int got = recv(all[i].fd, all[i].data + all[i].size, sizeof all[i].data - all[i].size, 0);
            if (got <= 0) return 1;
            all[i].size += got;
            if (all[i].size < 9 + 2 * registers) continue;
            if (memcmp(all[i].data, all[i].request, 2)) return 1;
            all[i].size = 0;
            answers++;
            ask(all[i].fd, all[i].request);
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%ld %f %f\n", answers,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6,
           seconds() - begun);
    return 0;
}

"""Link: one connection's descriptor: opened, written in one piece, read into its bounded buffer, closed."""

from libc.errno cimport EAGAIN, EHOSTUNREACH, EINPROGRESS, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memmove
from posix.types cimport suseconds_t
from posix.unistd cimport close, read, write

from parkfleet.native.health cimport PF_MS, PF_S, jittered
from parkfleet.native.model cimport CLOSED, CONNECTING, RX_SIZE, SERIAL, TCP, UP, Connection, Line, State

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) noexcept
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event) noexcept
    const int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    const uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET

cdef extern from "sys/socket.h" nogil:
    struct sockaddr:
        unsigned short sa_family
    int socket(int domain, int type, int protocol) noexcept
    int connect(int fd, const sockaddr *address, unsigned int size) noexcept
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size) noexcept
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size) noexcept
    const int SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SO_KEEPALIVE

cdef extern from "netinet/in.h" nogil:
    const int IPPROTO_TCP

cdef extern from "netinet/tcp.h" nogil:
    const int TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT

cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <sys/socket.h>
    #include <unistd.h>
    /* The library's send and recv are cancellation points, which costs two per cent of a request; nobody cancels us. */
    static long pf_send(int fd, const void *data, size_t size) {
        return syscall(SYS_sendto, fd, data, size, MSG_NOSIGNAL, NULL, 0);
    }
    static long pf_receive(int fd, void *data, size_t size) {
        return syscall(SYS_recvfrom, fd, data, size, 0, NULL, NULL);
    }
    """
    long pf_send(int fd, const void *data, size_t size) noexcept nogil
    long pf_receive(int fd, void *data, size_t size) noexcept nogil

cdef enum:
    NOTHING = 0     # no byte was there
    LOST = -1       # ended or broken; errno tells, 0 for an end
    KEEP_IDLE_S = 20
    KEEP_INTERVAL_S = 5
    KEEP_COUNT = 3


cdef inline bint watch(State *state, Connection *link, int operation, uint32_t events) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.ptr = link
    return epoll_ctl(state.epoll, operation, link.fd, &event) == 0


cdef inline void forget_bytes(Connection *link) noexcept nogil:
    link.size = link.boundary = link.scan = link.need = 0


cdef inline void hang_up(State *state, Connection *link) noexcept nogil:
    """Closes the descriptor; its transactions are the caller's to settle."""
    if link.fd >= 0:
        epoll_ctl(state.epoll, EPOLL_CTL_DEL, link.fd, NULL)
        close(link.fd)
    link.fd = -1
    link.tx_size = 0
    link.state = CLOSED
    link.nap_until = 0
    forget_bytes(link)


cdef inline bint adopt(State *state, Connection *link, int fd) noexcept nogil:
    """Takes over a serial port that Python has opened."""
    hang_up(state, link)
    link.fd = fd
    link.quiet_at = state.now
    if not watch(state, link, EPOLL_CTL_ADD, EPOLLIN):
        hang_up(state, link)
        return False
    link.state = UP
    return True


cdef inline void set_option(int fd, int level, int name, int value) noexcept nogil:
    setsockopt(fd, level, name, &value, sizeof(int))


cdef inline bint dial(State *state, Connection *link) noexcept nogil:
    """Begins to connect; False with errno when that fails at once."""
    cdef Line *line = link.line
    cdef sockaddr *address = <sockaddr *>line.address
    cdef int fd
    if line.address_size < sizeof(sockaddr):
        (&errno)[0] = EHOSTUNREACH
        return False
    fd = socket(address.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return False
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    # A peer that lost its power sends no end: idle connections are probed, so that the line is known to be down.
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S)
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S)
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT)
    link.fd = fd
    if connect(fd, address, line.address_size) != 0 and errno != EINPROGRESS:
        return False
    if not watch(state, link, EPOLL_CTL_ADD, EPOLLOUT):
        return False
    link.state = CONNECTING
    link.deadline = state.now + 5 * PF_S
    return True


cdef inline bint connected(State *state, Connection *link) noexcept nogil:
    """After EPOLLOUT: whether the connection stands; errno tells why not."""
    cdef int error = 0
    cdef unsigned int size = sizeof(int)
    getsockopt(link.fd, SOL_SOCKET, SO_ERROR, &error, &size)
    if error:
        (&errno)[0] = error
        return False
    # Edges spare the kernel a second look at each connection after it was read; arrivals.drain() knows what they ask for.
    if not watch(state, link, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP | EPOLLET if link.line.kind == TCP else EPOLLIN):
        return False
    link.state = UP
    link.proven = 0
    link.quiet_at = state.now
    forget_bytes(link)
    return True


cdef inline void later(State *state, Connection *link) noexcept nogil:
    """Sets the time of the next attempt: from half a second, doubling up to ten."""
    link.backoff = min(max(2 * link.backoff, PF_S // 2), 10 * PF_S)
    link.retry_at = state.now + jittered(state, link.backoff)


cdef inline bint say(Connection *link, const uint8_t *frame, int size) noexcept nogil:
    """The whole frame in one write, so that no t1.5 gap can stand in it; anything less is a failure."""
    cdef ssize_t done
    if link.line.kind == SERIAL:
        done = write(link.fd, frame, size)
    else:
        done = pf_send(link.fd, frame, size)
    return done == size


cdef inline int hear(Connection *link) noexcept nogil:
    """Reads what fits into the buffer: how many bytes, NOTHING, or LOST. The buffer must not be full."""
    cdef ssize_t got
    if link.line.kind == SERIAL:
        got = read(link.fd, link.rx + link.size, RX_SIZE - link.size)
    else:
        got = pf_receive(link.fd, link.rx + link.size, RX_SIZE - link.size)
    if got > 0:
        link.more = got == RX_SIZE - link.size
        link.size += <int32_t>got
        return <int>got
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return NOTHING
    if got == 0:
        (&errno)[0] = 0
    return LOST


cdef inline void consume(Connection *link, int count) noexcept nogil:
    """Drops bytes off the front of the buffer."""
    if count < link.size:
        memmove(link.rx, link.rx + count, link.size - count)
        link.size -= count
    else:
        link.size = 0
    link.boundary = link.scan = link.need = 0

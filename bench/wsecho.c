/* wsecho PORT: the least a WebSocket echo server can do (RFC 6455): the yardstick. One thread, epoll, no limits.
 *
 * It accepts the key of the RFC's example alone, which is what wsclient sends, and unmasks eight bytes at a time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char accepted[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

typedef struct {
    int fd, open; /* the handshake is behind us */
    size_t got;
    unsigned char in[1 << 17];
} Connection;

static void send_all(int fd, const unsigned char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) { /* full: a ping-pong client makes it so but rarely */
            struct pollfd full = {fd, POLLOUT, 0};
            if (poll(&full, 1, 1000) != 1 || full.revents & (POLLERR | POLLHUP)) return;
            continue;
        }
        data += sent, size -= sent;
    }
}

/* Echo the whole frames of c->in in one write; returns how many bytes they took (RFC 6455 §5.2). */
static size_t echo(Connection *c) {
    static unsigned char out[1 << 17];
    size_t taken = 0, made = 0;
    while (c->got - taken >= 6) {
        unsigned char *p = c->in + taken, *q = out + made;
        uint64_t size = p[1] & 127, mask;
        size_t head = 6;
        if (size == 126) {
            if (c->got - taken < 8) break;
            size = p[2] << 8 | p[3], head = 8;
        } else if (size == 127) {
            if (c->got - taken < 14) break;
            size = 0, head = 14;
            for (int i = 2; i < 10; i++) size = size << 8 | p[i];
        }
        if (c->got - taken < head + size) break;
        q[0] = p[0], q[1] = p[1] & 127;
        memcpy(q + 2, p + 2, head - 6);
        q += head - 4;
        memcpy(&mask, p + head - 4, 4), memcpy((char *)&mask + 4, p + head - 4, 4);
        p += head;
        size_t i = 0;
        for (uint64_t word; i + 8 <= size; i += 8) memcpy(&word, p + i, 8), word ^= mask, memcpy(q + i, &word, 8);
        for (; i < size; i++) q[i] = p[i] ^ ((unsigned char *)&mask)[i & 7];
        taken += head + size, made += head - 4 + size;
    }
    send_all(c->fd, out, made);
    return taken;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), queue = epoll_create1(0);
    struct epoll_event events[512], event = {.events = EPOLLIN, .data.ptr = 0};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 2048)) return perror("wsecho"), 1;
    epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(queue, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = malloc(sizeof *c);
                    c->fd = fd, c->got = c->open = 0;
                    event.data.ptr = c;
                    epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            ssize_t got = recv(c->fd, c->in + c->got, sizeof c->in - c->got, 0);
            if (got <= 0) {
                close(c->fd), free(c);
                continue;
            }
            c->got += got;
            size_t taken;
            if (c->open)
                taken = echo(c);
            else { /* clients wait for the answer before they send a frame */
                send_all(c->fd, (const unsigned char *)accepted, sizeof accepted - 1);
                c->open = 1, taken = c->got;
            }
            if (taken) memmove(c->in, c->in + taken, c->got -= taken);
        }
    }
}

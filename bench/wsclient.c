/* wsclient PORT CONNECTIONS SIZE SECONDS: WebSocket echo load (RFC 6455).
 *
 * Each connection keeps one binary message in flight; every echo is compared byte for byte. Prints the number of
 * echoes; exits 1 on the first that differs. Light enough that one core of it outruns every server measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int fd;
    size_t sent, got; /* bytes of this turn's frame out, and of its echo in */
} Connection;

static unsigned char *frame, *echo; /* what every connection sends, masked; what must come back, not masked */
static size_t frame_size, echo_size;

static void fail(const char *why) {
    fprintf(stderr, "wsclient: %s (%s)\n", why, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* RFC 6455 §5.2: FIN and binary, the length in 7, 16 or 64 bits */
static size_t put_head(unsigned char *p, size_t size, int mask_bit) {
    p[0] = 0x82;
    if (size < 126) {
        p[1] = mask_bit | size;
        return 2;
    }
    int bytes = size < 65536 ? 2 : 8;
    p[1] = mask_bit | (bytes == 2 ? 126 : 127);
    for (int i = 0; i < bytes; i++) p[2 + i] = (uint64_t)size >> (8 * (bytes - 1 - i));
    return 2 + bytes;
}

static void make_frames(size_t size) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    frame = malloc(size + 14), echo = malloc(size + 10);
    size_t out = put_head(frame, size, 0x80), in = put_head(echo, size, 0);
    memcpy(frame + out, mask, 4), out += 4;
    for (size_t i = 0; i < size; i++) {
        echo[in + i] = (i * 31 + i / 256) & 0xff;
        frame[out + i] = echo[in + i] ^ mask[i & 3];
    }
    frame_size = out + size, echo_size = in + size;
}

static int open_websocket(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char text[4096];
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, size;
    size_t got = 0;
    if (connect(fd, (void *)&address, sizeof address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    size = sprintf(text, "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", port);
    /* A lazy server says 101 when its application first receives; either way before the first echo. */
    if (send(fd, text, size, 0) != size) fail("handshake");
    do { /* byte by byte: nothing may be read behind the head */
        if (got == sizeof text - 1 || recv(fd, text + got, 1, 0) != 1) fail("handshake");
        text[++got] = 0;
    } while (got < 4 || memcmp(text + got - 4, "\r\n\r\n", 4));
    if (strncmp(text, "HTTP/1.1 101 ", 13) || !strstr(text, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) fail("not accepted");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* Send what the socket takes; returns whether more is left. */
static int send_frame(Connection *c) {
    while (c->sent < frame_size) {
        ssize_t n = send(c->fd, frame + c->sent, frame_size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return 1;
        if (n <= 0) fail("send");
        c->sent += n;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: wsclient PORT CONNECTIONS SIZE SECONDS\n"), 2;
    int port = atoi(argv[1]), count = atoi(argv[2]), queue = epoll_create1(0);
    static unsigned char buffer[1 << 18];
    struct epoll_event events[256];
    uint64_t echoes = 0;
    Connection *all = calloc(count, sizeof *all);
    make_frames(atol(argv[3]));
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &all[i]};
        all[i].fd = open_websocket(port);
        epoll_ctl(queue, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    double end = now() + atof(argv[4]);
    while (now() < end) {
        int ready = epoll_wait(queue, events, 256, 200);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            send_frame(c);
            for (;;) { /* edge-triggered: until EAGAIN */
                ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
                if (n < 0 && errno == EAGAIN) break;
                if (n <= 0) fail("the server closed");
                if (c->got + n > echo_size || memcmp(buffer, echo + c->got, n)) fail("the echo differs");
                c->got += n;
                if (c->got == echo_size) {
                    echoes++;
                    c->got = c->sent = 0;
                    send_frame(c);
                }
            }
        }
    }
    printf("%lu\n", (unsigned long)echoes);
    return 0;
}

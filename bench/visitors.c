/* visitors PORT CONNECTIONS SECONDS: hello load with a new connection for each request. Prints the number of answers.
 *
 * A visit ends when the server has closed, as it was asked to: wrk would not wait for that, and calls a close that was
 * not announced an error. Every answer must be a 200 that ends with its content.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", content[] = "Hello, World!\n";

typedef struct {
    int fd;
    size_t got;
    char data[4096];
} Visit;

static struct sockaddr_in address = {.sin_family = AF_INET};
static int queue;

static void fail(const char *why) {
    fprintf(stderr, "visitors: %s (%s)\n", why, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void begin(Visit *v) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = v};
    v->fd = socket(AF_INET, SOCK_STREAM, 0), v->got = 0;
    if (connect(v->fd, (void *)&address, sizeof address)) fail("connect");
    if (send(v->fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1) fail("send");
    epoll_ctl(queue, EPOLL_CTL_ADD, v->fd, &event);
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: visitors PORT CONNECTIONS SECONDS\n"), 2;
    int count = atoi(argv[2]);
    unsigned long answers = 0;
    size_t tail = sizeof content - 1;
    struct epoll_event events[256];
    Visit *all = calloc(count, sizeof *all);
    address.sin_port = htons(atoi(argv[1])), address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    queue = epoll_create1(0);
    for (int i = 0; i < count; i++) begin(&all[i]);
    for (double end = now() + atof(argv[3]); now() < end;) {
        int ready = epoll_wait(queue, events, 256, 1000);
        if (!ready) fail("no answer for a second");
        for (int i = 0; i < ready; i++) {
            Visit *v = events[i].data.ptr;
            ssize_t n = recv(v->fd, v->data + v->got, sizeof v->data - v->got, 0);
            if (n < 0) fail("recv");
            v->got += n;
            if (n) continue;
            if (v->got < tail || memcmp(v->data, "HTTP/1.1 200", 12) || memcmp(v->data + v->got - tail, content, tail)) fail("the answer differs");
            close(v->fd);
            answers++;
            begin(v);
        }
    }
    printf("%lu\n", answers);
    return 0;
}

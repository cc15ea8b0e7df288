/* lockstep PORT CONNECTIONS SECONDS [FILE]: hello load without a race. Prints the number of requests.
 *
 * FILE has another request than the shortest, of 64 KiB at most; its answer is to be the same.
 * Sends a request on every connection, then reads every answer, and begins again. Sharing one core with the server it
 * gives that whole batches to work on, whatever the machine does meanwhile: the server's CPU per request repeats to a
 * few per cent, where a free load's depends on how many requests a wake finds. Both must be batch jobs (SCHED_BATCH),
 * else the kernel may have one that wakes interrupt the other: the server is started as one, this becomes one. Every
 * answer must be as long as the first and end with its content.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char content[] = "Hello, World!\n";
static char request[65536] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", data[65536];
static size_t request_size;

static void fail(const char *why) {
    perror(why);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void ask(int fd) {
    if (send(fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) fail("send");
}

static void read_request(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file || !(request_size = fread(request, 1, sizeof request, file)) || fgetc(file) != EOF) fail(name);
    fclose(file);
}

/* Read one answer of *size* bytes; of whatever size, when that is 0. */
static size_t hear(int fd, size_t size) {
    size_t got = 0, tail = sizeof content - 1;
    for (;;) {
        ssize_t n = recv(fd, data + got, sizeof data - got, 0);
        if (n <= 0) fail("recv");
        got += n;
        int whole = got > tail && !memcmp(data + got - tail, content, tail);
        if (size ? got >= size : whole) {
            if (!whole || (size && got != size) || memcmp(data, "HTTP/1.1 200", 12)) fail("the answer differs");
            return got;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) return fprintf(stderr, "usage: lockstep PORT CONNECTIONS SECONDS [FILE]\n"), 2;
    if (sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0})) fail("sched_setscheduler");
    request_size = strlen(request);
    if (argc == 5) read_request(argv[4]);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int count = atoi(argv[2]), *fds = calloc(count, sizeof *fds), one = 1;
    size_t size = 0;
    unsigned long answers = 0;
    for (int i = 0; i < count; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fds[i], (void *)&address, sizeof address)) fail("connect");
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        ask(fds[i]);
        size = hear(fds[i], size);
    }
    for (double end = now() + atof(argv[3]); now() < end; answers += count) {
        for (int i = 0; i < count; i++) ask(fds[i]);
        for (int i = 0; i < count; i++) hear(fds[i], size);
    }
    printf("%lu\n", answers);
    return 0;
}

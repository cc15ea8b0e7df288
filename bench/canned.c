/* canned PORT: the least a server can do, and so the yardstick. One thread, epoll, no limits, hardly a parser.
 *
 * A GET whose target begins with "/m" gets 1 MiB, any other a hello; a POST whose target begins with "/u" the size of its
 * content, any other its content; each head gets its answer in one write. "Connection: close" closes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEAD "HTTP/1.1 200 OK\r\nServer: canned\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
#define HELLO "Content-Type: text/plain\r\nContent-Length: 14\r\n"

static const char hello[] = HEAD HELLO "\r\nHello, World!\n";
static const char last_hello[] = HEAD HELLO "Connection: close\r\n\r\nHello, World!\n";
static char large[1 << 20];

typedef struct {
    int fd;
    size_t got;        /* bytes of a request so far */
    size_t upload, due; /* an upload's size, and how much of it is to come */
    const char *out;   /* what the socket did not take */
    size_t out_size;
    char in[65536];
} Connection;

/* Send head and body in one call; what does not fit waits for EPOLLOUT. (Only the large answer ever does.) */
static void answer(Connection *c, const char *head, size_t head_size, const char *body, size_t body_size) {
    struct iovec pieces[2] = {{(void *)head, head_size}, {(void *)body, body_size}};
    ssize_t sent = writev(c->fd, pieces, body_size ? 2 : 1);
    if (sent >= (ssize_t)head_size && (size_t)sent < head_size + body_size)
        c->out = body + (sent - head_size), c->out_size = head_size + body_size - sent;
}

/* Answer the first request of c->in and return its size; of an upload, the size of what there is. 0 asks for more. */
static size_t serve(Connection *c) {
    char head[256], digits[24], *end;
    if (c->due) {
        size_t here = c->got < c->due ? c->got : c->due;
        if ((c->due -= here)) return here;
        int count = sprintf(digits, "%zu", c->upload);
        answer(c, head, sprintf(head, HEAD "Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n", count), digits, count);
        return here;
    }
    end = memmem(c->in, c->got, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t size = end + 4 - c->in;
    if (c->in[0] == 'P') {
        char *length = memmem(c->in, size, "Content-Length: ", 16);
        size_t content = length ? strtoul(length + 16, 0, 10) : 0;
        if (c->in[6] == 'u') {
            c->upload = c->due = content;
            return size;
        }
        if (c->got < size + content) return 0;
        answer(c, head, sprintf(head, HEAD "Content-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", content), c->in + size, content);
        return size + content;
    }
    if (c->in[5] == 'm') {
        answer(c, head, sprintf(head, HEAD "Content-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", sizeof large), large, sizeof large);
        return size;
    }
    if (memmem(c->in, size, "Connection: close", 17)) {
        send(c->fd, last_hello, sizeof last_hello - 1, MSG_NOSIGNAL);
        shutdown(c->fd, SHUT_WR);
    } else
        send(c->fd, hello, sizeof hello - 1, MSG_NOSIGNAL);
    return size;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), queue = epoll_create1(0);
    struct epoll_event events[512], event = {.events = EPOLLIN, .data.ptr = 0};
    memset(large, 'x', sizeof large);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 2048)) return perror("canned"), 1;
    epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(queue, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0;) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = malloc(sizeof *c);
                    c->fd = fd, c->got = c->out_size = c->due = 0;
                    event.events = EPOLLIN | EPOLLOUT | EPOLLET, event.data.ptr = c;
                    epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event);
                }
                continue;
            }
            if (c->out_size) {
                ssize_t sent = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
                if (sent > 0) c->out += sent, c->out_size -= sent;
                if (c->out_size) continue;
            }
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            for (;;) { /* edge-triggered: a short read is as good as EAGAIN */
                size_t room = sizeof c->in - c->got;
                ssize_t got = recv(c->fd, c->in + c->got, room, 0);
                if (got == 0 || (got < 0 && !(events[i].events & EPOLLIN))) {
                    close(c->fd), free(c);
                    break;
                }
                if (got < 0) break;
                c->got += got;
                for (size_t size; c->got && (size = serve(c));) memmove(c->in, c->in + size, c->got -= size);
                if ((size_t)got < room && !(events[i].events & (EPOLLRDHUP | EPOLLHUP))) break;
            }
        }
    }
}

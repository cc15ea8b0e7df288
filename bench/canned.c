/* canned PORT: the least a server can do, and so the yardstick. Reads a segment, counts the ends of heads in it, and
 * sends that many canned answers. One thread, epoll, no parsing, no limits.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nServer: canned\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                             "Content-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, World!\n";

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), queue = epoll_create1(0);
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.fd = listener};
    char data[65536];
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) return 1;
    epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(queue, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                event.data.fd = accept4(listener, 0, 0, SOCK_NONBLOCK);
                setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(queue, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            ssize_t got = recv(fd, data, sizeof data, 0);
            if (got <= 0) {
                close(fd);
                continue;
            }
            for (char *at = data; (at = memmem(at, data + got - at, "\r\n\r\n", 4)); at += 4)
                send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
        }
    }
}

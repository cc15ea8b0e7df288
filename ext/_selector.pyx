"""The native twin of tell() of server/selector.py: epoll_wait(2) without objects in between."""

from libc.errno cimport EINTR, errno

from geventgate.server.selector cimport Reader

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        unsigned events
        epoll_data_t data
    int epoll_wait(int, epoll_event *, int, int)

cdef enum:
    MOST_EVENTS = 256


def tell(epoll, list readers not None, failed):
    cdef epoll_event events[MOST_EVENTS]
    cdef Reader reader
    cdef int i, count = epoll_wait(epoll.fileno(), events, MOST_EVENTS, 0)
    if count < 0:
        if errno == EINTR:
            return  # the hub sees to the signal, and comes again
        raise OSError(errno, "epoll_wait")
    for i in range(count):
        reader = readers[events[i].data.fd]
        if reader is not None:
            if events[i].events != EPOLLIN:
                reader._ending = True
            try:
                reader.readable()
            except BaseException:
                failed(reader)


twins = {"tell": lambda reference: tell}

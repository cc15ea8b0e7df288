/* A response's head on its way to the wire (RFC 9112 §4, §5): checked and written. Knows no Python.
 *
 * The twin of compose_response_head() in geventgate/protocol/http1.py for heads that are ordinary: what is malformed,
 * and every field that the server minds but Content-Length, is UNUSUAL, and the reference's to judge. */
#ifndef GEVENTGATE_RESPONSES_H
#define GEVENTGATE_RESPONSES_H
#include "bytes.h"

enum { LONGEST_WIRE = 2048, LONGEST_KNOWN_LINE = 96, LONGEST_KNOWN_STATUS = 64, MOST_KNOWN_FIELDS = 16 };

typedef struct {
    int code, common, fields;
    long long content_length; /* -1: not stated */
    size_t size;              /* of what is in wire */
    char wire[LONGEST_WIRE];
} response_head;

enum { FREE, UNCOMMON, LENGTH, MINDED };

static inline int response_kind(const char *p, size_t n)
{
    switch (n) {
    case 2: return same_name(p, "te", n) ? MINDED : FREE;
    case 4: return same_name(p, "date", n) ? MINDED : same_name(p, "etag", n) ? UNCOMMON : FREE;
    case 6: return same_name(p, "server", n) ? MINDED : FREE;
    case 7: return same_name(p, "upgrade", n) ? MINDED : same_name(p, "expires", n) ? UNCOMMON : FREE;
    case 8: return same_name(p, "priority", n) ? MINDED : same_name(p, "location", n) ? UNCOMMON : FREE;
    case 10:
        if (same_name(p, "set-cookie", n)) return UNCOMMON;
        return same_name(p, "connection", n) || same_name(p, "keep-alive", n) ? MINDED : FREE;
    case 13: return same_name(p, "last-modified", n) ? UNCOMMON : FREE;
    case 14: return same_name(p, "content-length", n) ? LENGTH : FREE;
    case 16: return same_name(p, "proxy-connection", n) ? MINDED : FREE;
    case 17: return same_name(p, "transfer-encoding", n) ? MINDED : FREE;
    case 20: return same_name(p, "sec-websocket-accept", n) ? UNCOMMON : FREE;
    default: return FREE;
    }
}

static inline void put(response_head *head, const char *p, size_t n)
{
    char *out = head->wire + head->size;
    head->size += n;
    if (n > 32) {
        memcpy(out, p, n);
    } else if (n >= 16) { /* in two pieces that may overlap: the call of memcpy() costs more */
        memcpy(out, p, 16);
        memcpy(out + n - 16, p + n - 16, 16);
    } else if (n >= 8) {
        memcpy(out, p, 8);
        memcpy(out + n - 8, p + n - 8, 8);
    } else {
        while (n--) *out++ = *p++;
    }
}

static inline int is_digit(char c) { return c >= '0' && c <= '9'; }

/* Begin with the status line; 0 when it is UNUSUAL. */
static inline int put_status(response_head *head, const char *p, size_t n)
{
    head->size = 0;
    head->fields = 0;
    head->content_length = -1;
    head->common = n <= LONGEST_KNOWN_STATUS;
    if (n < 3 || n > LONGEST_WIRE - 32 || p[0] < '1' || p[0] > '9' || !is_digit(p[1]) || !is_digit(p[2])) return 0;
    if ((n > 3 && p[3] != ' ') || find_control(p, p + n) != p + n) return 0;
    head->code = (p[0] - '0') * 100 + (p[1] - '0') * 10 + (p[2] - '0');
    put(head, "HTTP/1.1 ", 9);
    put(head, p, n);
    put(head, n == 3 ? " \r\n" : "\r\n", n == 3 ? 3 : 2);
    return 1;
}

/* Add a field line; 0 when it is UNUSUAL. */
static inline int put_field(response_head *head, const char *name, size_t n, const char *value, size_t m)
{
    size_t i;
    long long length = 0;
    if (n == 0 || n > LONGEST_WIRE || m > LONGEST_WIRE || head->size + n + m + 4 > LONGEST_WIRE) return 0;
    for (i = 0; i < n; i++)
        if (!is(TOKEN, name[i])) return 0;
    if (find_control(value, value + m) != value + m) return 0;
    switch (response_kind(name, n)) {
    case MINDED: return 0;
    case UNCOMMON: head->common = 0; break;
    case LENGTH:
        if (head->content_length >= 0 || m == 0 || m > 18 || head->code == 204 || head->code < 200) return 0;
        for (i = 0; i < m; i++) {
            if (!is_digit(value[i])) return 0;
            length = length * 10 + (value[i] - '0');
        }
        head->content_length = length;
    }
    if (n + m + 4 > LONGEST_KNOWN_LINE || ++head->fields > MOST_KNOWN_FIELDS) head->common = 0;
    put(head, name, n);
    put(head, ": ", 2);
    put(head, value, m);
    put(head, "\r\n", 2);
    return 1;
}
#endif

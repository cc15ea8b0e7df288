/* A request's head over a buffer (RFC 9112 §2-§5): found and checked, nothing decided. Knows no Python.
 *
 * The twin of parse_request_head() in geventgate/protocol/http1.py for heads that are ordinary: what is malformed,
 * incomplete, over a limit or merely rare is UNUSUAL, and the reference's to judge. So no rule is written twice but the
 * grammar, and what is said of a bad head is the reference's word alone. */
#ifndef GEVENTGATE_HEADS_H
#define GEVENTGATE_HEADS_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "spans.h"

enum { UNUSUAL = 0, MAX_FIELDS = 100, MAX_SIZE = 65535 };
/* The fields that govern the connection. */
enum { HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, GOVERNING, UPGRADE };


typedef struct {
    uint16_t method_end, target, query, target_end; /* query: behind its "?", or 0 */
    int minor, count;
    int governing[GOVERNING]; /* 1 + index of the field of that name, or 0 */
} request_head;

enum { TOKEN = 1, TARGET = 2, HOST_CHAR = 4, CONTROL = 8 };

static unsigned char kinds[256];

static void init_kinds(void)
{
    const char *alnum = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", *p;
    int c;
    for (p = alnum; *p; p++) kinds[(unsigned char)*p] |= TOKEN | HOST_CHAR;
    for (p = "!#$%&'*+-.^_`|~"; *p; p++) kinds[(unsigned char)*p] |= TOKEN; /* RFC 9110 §5.6.2 */
    for (p = ".-"; *p; p++) kinds[(unsigned char)*p] |= HOST_CHAR;
    for (c = 0x21; c < 256; c++)
        if (c != 0x7f && c != '#') kinds[c] |= TARGET;
    for (c = 0; c < 256; c++)
        if ((c < 0x20 && c != '\t') || c == 0x7f) kinds[c] |= CONTROL; /* never in a value (RFC 9110 §5.5) */
}

static inline int is(int kind, char c) { return kinds[(unsigned char)c] & kind; }

/* The first control character but HTAB in [p, end), or end; eight bytes a step. */
static inline const char *find_control(const char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t x, below, del;
    for (; end - p >= 8; p += 8) {
        memcpy(&x, p, 8);
        below = (x - ones * 0x20) & ~x & high; /* where a byte is below 0x20: there, or one is before it */
        del = ((x ^ ones * 0x7f) - ones) & ~(x ^ ones * 0x7f) & high;
        if (below | del) {
            for (int i = 0; i < 8; i++)
                if (is(CONTROL, p[i])) return p + i;
        }
    }
    while (p < end && !is(CONTROL, *p)) p++;
    return p;
}

/* Whether the token [p, p + n) is *lower*, without case. */
static inline int same_name(const char *p, const char *lower, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((p[i] | ((unsigned char)(p[i] - 'A') < 26 ? 0x20 : 0)) != lower[i]) return 0;
    return 1;
}

static inline int governing_kind(const char *p, size_t n)
{
    switch (n) {
    case 4: return same_name(p, "host", n) ? HOST : -1;
    case 6: return same_name(p, "expect", n) ? EXPECT : -1;
    case 7: return same_name(p, "upgrade", n) ? UPGRADE : -1;
    case 10: return same_name(p, "connection", n) ? CONNECTION : -1;
    case 14: return same_name(p, "content-length", n) ? CONTENT_LENGTH : -1;
    case 17: return same_name(p, "transfer-encoding", n) ? TRANSFER_ENCODING : -1;
    default: return -1;
    }
}

/* A name or IPv4 address, perhaps with a port (RFC 9112 §3.2). */
static inline int is_plain_host(const char *p, const char *end)
{
    const char *begin = p;
    while (p < end && is(HOST_CHAR, *p)) p++;
    if (p == begin) return 0;
    if (p == end) return 1;
    if (*p++ != ':' || end - p > 5) return 0;
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p == end;
}

/* request-line = method SP request-target SP HTTP-version CRLF (RFC 9112 §3), its target in origin-form: what is
 * behind it, or NULL. */
static inline const char *scan_request_line(const char *begin, const char *end, request_head *head)
{
    const char *p = begin;
    while (p < end && is(TOKEN, *p)) p++;
    if (p == begin || end - p < 2 || p[0] != ' ' || p[1] != '/') return NULL;
    if (p - begin == 7 && !memcmp(begin, "CONNECT", 7)) return NULL;
    head->method_end = (uint16_t)(p - begin);
    head->target = (uint16_t)(++p - begin);
    head->query = 0;
    for (; p < end && is(TARGET, *p); p++)
        if (*p == '?') {
            head->query = (uint16_t)(++p - begin);
            while (p < end && is(TARGET, *p)) p++;
            break;
        }
    head->target_end = (uint16_t)(p - begin);
    if (end - p < 11 || memcmp(p, " HTTP/1.", 8) || (p[8] != '0' && p[8] != '1') || p[9] != '\r' || p[10] != '\n')
        return NULL;
    head->minor = p[8] - '0';
    return p + 11;
}

/* The size of the head that begins at *begin*, its spans relative to that; or UNUSUAL. At most *max_fields* fields, of
 * MAX_FIELDS. */
static int scan_request_head(const char *begin, size_t size, int max_fields, request_head *head, field_span *fields)
{
    const char *end = begin + (size < MAX_SIZE ? size : MAX_SIZE);
    const char *p = scan_request_line(begin, end, head), *q;
    int kind, host;
    memset(head->governing, 0, sizeof head->governing);
    if (p == NULL) return UNUSUAL;
    for (head->count = 0;; head->count++) { /* field-line CRLF (RFC 9112 §5) */
        field_span *field = &fields[head->count];
        if (end - p < 2) return UNUSUAL;
        if (*p == '\r') break;
        if (head->count == max_fields) return UNUSUAL;
        q = p;
        while (p < end && is(TOKEN, *p)) p++;
        if (p == end || p == q || *p != ':') return UNUSUAL;
        field->name = (uint16_t)(q - begin);
        field->name_end = (uint16_t)(p - begin);
        kind = governing_kind(q, (size_t)(p - q));
        for (p++; p < end && (*p == ' ' || *p == '\t'); p++) {}
        q = p;
        p = find_control(p, end);
        if (end - p < 2 || p[0] != '\r' || p[1] != '\n') return UNUSUAL;
        field->value = (uint16_t)(q - begin);
        for (; p > q && (p[-1] == ' ' || p[-1] == '\t'); p--) {}
        field->value_end = (uint16_t)(p - begin);
        for (; *p != '\r'; p++) {}
        p += 2;
        if (kind >= GOVERNING) return UNUSUAL; /* Upgrade */
        if (kind >= 0) {
            if (head->governing[kind]) return UNUSUAL;
            head->governing[kind] = head->count + 1;
        }
    }
    if (p[1] != '\n' || !(host = head->governing[HOST])) return UNUSUAL;
    if (!is_plain_host(begin + fields[host - 1].value, begin + fields[host - 1].value_end)) return UNUSUAL;
    return (int)(p + 2 - begin);
}
#endif

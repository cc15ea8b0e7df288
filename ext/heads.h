/* A request's head over a buffer (RFC 9112 §2-§5): found and checked, nothing decided. Knows no Python.
 *
 * The twin of parse_request_head() in geventgate/protocol/http1.py for heads that are ordinary: what is malformed,
 * incomplete, over a limit or merely rare is UNUSUAL, and the reference's to judge. So no rule is written twice but the
 * grammar, and what is said of a bad head is the reference's word alone. */
#ifndef GEVENTGATE_HEADS_H
#define GEVENTGATE_HEADS_H
#include "names.h"
#include "spans.h"

enum { UNUSUAL = 0, MAX_FIELDS = 100, MAX_SIZE = 65535 };

typedef struct {
    uint16_t method_end, target, query, target_end; /* query: behind its "?", or 0 */
    int minor, count;
    int governing[GOVERNING]; /* 1 + index of the field of that name, or 0 */
} request_head;

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
    p = find_target_end(p, end);
    if (p < end && *p == '?') {
        head->query = (uint16_t)(++p - begin);
        while ((p = find_target_end(p, end)) < end && *p == '?') p++;
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
    int kind, host, place, malformed;
    memset(head->governing, 0, sizeof head->governing);
    if (p == NULL) return UNUSUAL;
    for (head->count = 0;; head->count++) { /* field-line CRLF (RFC 9112 §5) */
        field_span *field = &fields[head->count];
        if (end - p < 2) return UNUSUAL;
        if (*p == '\r') break;
        if (head->count == max_fields) return UNUSUAL;
        q = p;
        p = find_colon(p, end);
        if (p == end) return UNUSUAL; /* the part of a name is not to be remembered */
        malformed = 0;
        place = place_of(q, (size_t)(p - q), &malformed);
        if (malformed) return UNUSUAL;
        field->name = (uint16_t)(q - begin);
        field->name_end = (uint16_t)(p - begin);
        field->known = (uint16_t)(place + 1);
        kind = place < 0 ? kind_of(q, (size_t)(p - q)) : known_names[place].kind;
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

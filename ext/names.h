/* Names of request fields, remembered as they were sent: what was found of one need not be found again. Knows no Python.
 *
 * A place is taken once and for good: what is full, or long, is looked at each time. */
#ifndef GEVENTGATE_NAMES_H
#define GEVENTGATE_NAMES_H
#include "bytes.h"

enum { KNOWN_NAMES = 512, LONGEST_NAME = 40 };
/* The fields that govern the connection; of any other the kind is -1. */
enum { HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, GOVERNING, UPGRADE };
/* What a name is for an environ: without a key ("_" is ambiguous with "-"; httpoxy, CVE-2016-1000110), with a value
 * that is not to be remembered, with a key without HTTP_. */
enum { DROPPED = 1, SECRET = 2, BARE = 4 };

typedef struct { char text[LONGEST_NAME]; uint16_t size; int8_t kind; uint8_t use; } known_name;

static known_name known_names[KNOWN_NAMES];

static inline int kind_of(const char *p, size_t n)
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

static inline int use_of(const char *p, size_t n)
{
    if (memchr(p, '_', n)) return DROPPED;
    switch (n) {
    case 5: return same_name(p, "proxy", n) ? DROPPED : 0;
    case 6: return same_name(p, "cookie", n) ? SECRET : 0;
    case 12: return same_name(p, "content-type", n) ? BARE : 0;
    case 13: return same_name(p, "authorization", n) ? SECRET : 0;
    case 14: return same_name(p, "content-length", n) ? BARE : 0;
    default: return 0;
    }
}

/* The place of a name, or -1 when it is not among the known ones and cannot be. 0 bytes are no name, nor are those
 * which no token has (RFC 9110 §5.6.2): then *malformed* is set. */
static inline int place_of(const char *p, size_t n, int *malformed)
{
    known_name *name = &known_names[hash_of(p, n) % KNOWN_NAMES];
    if (name->size == n && n && !memcmp(name->text, p, n)) return (int)(name - known_names);
    *malformed = n == 0;
    for (size_t i = 0; i < n; i++)
        if (!is(TOKEN, p[i])) *malformed = 1;
    if (*malformed || name->size || n > LONGEST_NAME) return -1;
    memcpy(name->text, p, n);
    name->kind = (int8_t)kind_of(p, n);
    name->use = (uint8_t)use_of(p, n);
    name->size = (uint16_t)n;
    return (int)(name - known_names);
}
#endif

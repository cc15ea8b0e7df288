/* Bytes, sixteen or eight at a time. Knows no Python. */
#ifndef GEVENTGATE_BYTES_H
#define GEVENTGATE_BYTES_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

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
        if (c != 0x7f && c != '#' && c != '?') kinds[c] |= TARGET;
    for (c = 0; c < 256; c++)
        if ((c < 0x20 && c != '\t') || c == 0x7f) kinds[c] |= CONTROL; /* never in a value (RFC 9110 §5.5) */
}

static inline int is(int kind, char c) { return kinds[(unsigned char)c] & kind; }

/* The first control character but HTAB in [p, end), or end. */
static inline const char *find_control(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i highest = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f), tab = _mm_set1_epi8('\t');
    for (; end - p >= 16; p += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i low = _mm_andnot_si128(_mm_cmpeq_epi8(x, tab), _mm_cmpeq_epi8(_mm_min_epu8(x, highest), x));
        int found = _mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(x, del)));
        if (found) return p + __builtin_ctz((unsigned)found);
    }
#else
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    for (; end - p >= 8; p += 8) {
        uint64_t x, below, del;
        memcpy(&x, p, 8);
        below = (x - ones * 0x20) & ~x & high; /* where a byte is below 0x20: there, or one is before it */
        del = ((x ^ ones * 0x7f) - ones) & ~(x ^ ones * 0x7f) & high;
        if (below | del) {
            for (int i = 0; i < 8; i++)
                if (is(CONTROL, p[i])) return p + i;
        }
    }
#endif
    while (p < end && !is(CONTROL, *p)) p++;
    return p;
}

/* The first byte of [p, end) that no path or query has, or that ends a path, "?"; or end. */
static inline const char *find_target_end(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i space = _mm_set1_epi8(0x20), del = _mm_set1_epi8(0x7f);
    const __m128i hash = _mm_set1_epi8('#'), mark = _mm_set1_epi8('?');
    for (; end - p >= 16; p += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(x, space), x);
        __m128i others = _mm_or_si128(_mm_cmpeq_epi8(x, hash), _mm_or_si128(_mm_cmpeq_epi8(x, mark), _mm_cmpeq_epi8(x, del)));
        int found = _mm_movemask_epi8(_mm_or_si128(low, others));
        if (found) return p + __builtin_ctz((unsigned)found);
    }
#endif
    while (p < end && is(TARGET, *p)) p++;
    return p;
}

/* The first colon of [p, end), or end. Names are short: a call of memchr() costs more. */
static inline const char *find_colon(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i colon = _mm_set1_epi8(':');
    for (; end - p >= 16; p += 16) {
        int found = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), colon));
        if (found) return p + __builtin_ctz((unsigned)found);
    }
#endif
    while (p < end && *p != ':') p++;
    return p;
}

/* Whether the token [p, p + n) is *lower*, without case. */
static inline int same_name(const char *p, const char *lower, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((p[i] | ((unsigned char)(p[i] - 'A') < 26 ? 0x20 : 0)) != lower[i]) return 0;
    return 1;
}

/* Of what is short, by its first and last eight bytes. */
static inline uint32_t hash_of(const char *p, size_t n)
{
    uint64_t a = 0, b = 0;
    uint32_t x, y;
    if (n >= 8) { memcpy(&a, p, 8); memcpy(&b, p + n - 8, 8); }
    else if (n >= 4) { memcpy(&x, p, 4); memcpy(&y, p + n - 4, 4); a = x; b = y; }
    else if (n) { a = (unsigned char)p[0]; b = (unsigned char)p[n - 1]; }
    return (uint32_t)(((a ^ (b * 0x9E3779B97F4A7C15u) ^ n) * 0xff51afd7ed558ccdu) >> 40);
}
#endif

/* The head of a client's frame over a buffer, and its masking (RFC 6455 §5.2, §5.3). Knows no Python.
 *
 * What is wrong with a head is not said here: the reference, FrameCodec in geventgate/protocol/websocket.py, is asked. */
#ifndef GEVENTGATE_FRAMES_H
#define GEVENTGATE_FRAMES_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { REFUSED = -1, INCOMPLETE = 0 };
enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { FIN = 0x80, RSV1 = 0x40, OTHER_RSV = 0x30, OPCODE = 0x0f, MASKED = 0x80, LENGTH = 0x7f };
enum { MAX_CONTROL = 125, MAX_HEAD = 14, LEAST_BLOCKS = 256 };

typedef struct {
    int opcode, fin, compressed; /* whether its message is compressed, as far as is known with this frame */
    uint64_t size;
    unsigned char key[4];
} frame_head;

static inline uint64_t big_endian(const unsigned char *p, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++) value = value << 8 | p[i];
    return value;
}

/* The size of the head at *p*, of which *count* bytes are there; REFUSED as soon as something is wrong with it, in the
 * order of its bytes. *compressed* is the message being received; *room* what it may still grow by. */
static int scan_frame_head(const unsigned char *p, size_t count, int deflate, int compressed, uint64_t room,
                           frame_head *head)
{
    size_t extended;
    if (count < 2) return INCOMPLETE;
    head->opcode = p[0] & OPCODE;
    head->fin = p[0] & FIN;
    head->compressed = compressed;
    head->size = p[1] & LENGTH;
    if ((head->opcode > BINARY && head->opcode < CLOSE) || head->opcode > PONG) return REFUSED;
    if (head->opcode >= CLOSE && (!head->fin || head->size > MAX_CONTROL)) return REFUSED;
    extended = head->size == 126 ? 2 : head->size == 127 ? 8 : 0;
    if (count < 2 + extended) return INCOMPLETE;
    if (extended) {
        head->size = big_endian(p + 2, (int)extended);
        /* "the minimal number of bytes MUST be used", "the most significant bit MUST be 0" */
        if (head->size <= (extended == 2 ? MAX_CONTROL : 0xffff) || head->size >> 63) return REFUSED;
    }
    if (p[0] & OTHER_RSV) return REFUSED;
    if (head->opcode == TEXT || head->opcode == BINARY)
        head->compressed = deflate && p[0] & RSV1;
    if (p[0] & RSV1 && (!head->compressed || (head->opcode != TEXT && head->opcode != BINARY))) return REFUSED;
    if (head->opcode < CLOSE && !head->compressed && head->size > room) return REFUSED;
    if (!(p[1] & MASKED)) return REFUSED;
    if (count < 2 + extended + 4) return INCOMPLETE;
    memcpy(head->key, p + 2 + extended, 4);
    return (int)(2 + extended + 4);
}

/* What the compiler has registers for: SSE2, AVX, NEON, or plain words. */
typedef uint64_t block __attribute__((vector_size(32)));

/* *size* bytes of *from* unmasked into *into*, which may be the same place. *key* begins with the byte for the first. */
static inline void unmask(unsigned char *into, const unsigned char *from, size_t size, const unsigned char key[4])
{
    uint64_t word, keys;
    size_t i = 0;
    memcpy(&keys, key, 4);
    memcpy((char *)&keys + 4, key, 4);
    if (size >= LEAST_BLOCKS) {
        block mask = {keys, keys, keys, keys}, data[2];
        for (; size - i >= sizeof data; i += sizeof data) {
            memcpy(data, from + i, sizeof data);
            data[0] ^= mask;
            data[1] ^= mask;
            memcpy(into + i, data, sizeof data);
        }
    }
    for (; size - i >= 8; i += 8) {
        memcpy(&word, from + i, 8);
        word ^= keys;
        memcpy(into + i, &word, 8);
    }
    for (; i < size; i++) into[i] = from[i] ^ key[i & 3];
}

/* The head of a frame of ours, unmasked; its size. */
static inline int put_frame_head(unsigned char *into, int opcode, uint64_t size, int fin, int rsv1)
{
    int extended = size <= 125 ? 0 : size <= 0xffff ? 2 : 8;
    into[0] = (unsigned char)(opcode | (fin ? FIN : 0) | (rsv1 ? RSV1 : 0));
    into[1] = (unsigned char)(extended == 0 ? size : extended == 2 ? 126 : 127);
    for (int i = 0; i < extended; i++) into[2 + i] = (unsigned char)(size >> 8 * (extended - 1 - i));
    return 2 + extended;
}
#endif

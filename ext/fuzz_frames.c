/* What libFuzzer does with frames.h: a head's size and what it says are within the bytes and the rules, every prefix is
 * incomplete or refused alike, and unmasking is what RFC 6455 §5.3 says, byte by byte.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -o build/fuzz_frames ext/fuzz_frames.c
 *     build/fuzz_frames -max_len=512 -max_total_time=60
 */
#include "frames.h"
#include "fuzz.h"

static void check_head(const unsigned char *begin, size_t size, int deflate, int compressed, uint64_t room)
{
    frame_head head, again;
    int end = scan_frame_head(begin, size, deflate, compressed, room, &head);
    MUST(end >= REFUSED && end <= MAX_HEAD && end <= (int)size);
    for (size_t part = 0; part < size && part < MAX_HEAD; part++) {
        int early = scan_frame_head(begin, part, deflate, compressed, room, &again);
        MUST(early == end || early == INCOMPLETE || end == INCOMPLETE);
        MUST(early != REFUSED || end == REFUSED);
    }
    if (end <= 0) return;
    MUST(end >= 6 && (begin[0] & OTHER_RSV) == 0 && begin[1] & MASKED && !(head.size >> 63));
    MUST(head.opcode < CLOSE || (head.fin && head.size <= MAX_CONTROL && !(begin[0] & RSV1)));
    MUST(head.opcode >= CLOSE || head.compressed || head.size <= room);
    MUST(!head.compressed || deflate || compressed);
    unsigned char ours[MAX_HEAD];
    int written = put_frame_head(ours, head.opcode, head.size, head.fin, begin[0] & RSV1);
    ours[1] |= MASKED;
    MUST(written == end - 4 && !memcmp(ours, begin, (size_t)written)); /* so it was the shortest form */
}

static void check_unmask(const unsigned char *from, size_t size, const unsigned char key[4])
{
    unsigned char *into = malloc(size ? size : 1);
    unmask(into, from, size, key);
    for (size_t i = 0; i < size; i++) MUST(into[i] == (from[i] ^ key[i % 4]));
    unmask(into, into, size, key); /* in place, and back */
    MUST(!memcmp(into, from, size));
    free(into);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t rooms[] = {0, 100, 70000, UINT64_MAX};
    unsigned char *copy = malloc(size ? size : 1); /* exactly as large, so that one byte too far is seen */
    memcpy(copy, data, size);
    for (int flags = 0; flags < 4; flags++)
        for (int i = 0; i < 4; i++) check_head(copy, size, flags & 1, flags & 2, rooms[i]);
    if (size >= 4) check_unmask(copy + 4, size - 4, copy);
    free(copy);
    return 0;
}

/* What libFuzzer does with responses.h: what was accepted holds allowed bytes only and is on the wire as it was given,
 * line by line; what was refused left nothing there; nothing is written beyond the wire, or read behind its end.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -o build/fuzz_responses \
 *         ext/fuzz_responses.c ext/fuzz_portable.c
 *     build/fuzz_responses -max_len=4096 -max_total_time=60 build/corpus tests/fuzz/corpus/response
 *
 * An input is a status and fields, separated by bytes 1E and 1F, as in the target "response" of tests/fuzz.
 */
#include <stdlib.h>
#include <strings.h>

#include "responses.h"

#define MUST(condition) do { if (!(condition)) __builtin_trap(); } while (0)

const char *find_control_portably(const char *, const char *);

typedef struct { char *bytes; size_t size; } text; /* exactly as large, so that one byte too far is seen */

static text copy_of(const uint8_t *p, size_t n)
{
    text copy = {malloc(n ? n : 1), n};
    memcpy(copy.bytes, p, n);
    return copy;
}

static size_t until(uint8_t mark, const uint8_t *p, size_t n)
{
    const uint8_t *found = n ? memchr(p, mark, n) : NULL;
    return found ? (size_t)(found - p) : n;
}

static int is_name(text name, const char *wanted)
{
    return strlen(wanted) == name.size && !strncasecmp(name.bytes, wanted, name.size);
}

static int is_any(text name, const char *const *wanted)
{
    for (; *wanted; wanted++)
        if (is_name(name, *wanted)) return 1;
    return 0;
}

static void check_controls(text t)
{
    const char *found = find_control(t.bytes, t.bytes + t.size), *p;
    MUST(found == find_control_portably(t.bytes, t.bytes + t.size));
    for (p = t.bytes; p < found; p++) MUST((unsigned char)*p >= 0x20 ? *p != 0x7f : *p == '\t');
    MUST(found == t.bytes + t.size || *found == 0x7f || ((unsigned char)*found < 0x20 && *found != '\t'));
}

/* Whether *line* is on the wire behind *before* bytes, with its end. */
static void check_line(const response_head *head, size_t before, const char *begin, text name, text value)
{
    const char *p = head->wire + before;
    size_t n = strlen(begin);
    MUST(head->size == before + n + name.size + value.size + 2 && head->size <= LONGEST_WIRE);
    MUST(!memcmp(p, begin, n) && !memcmp(p + n, name.bytes, name.size));
    MUST(!memcmp(p + n + name.size, value.bytes, value.size));
    MUST(!memcmp(head->wire + head->size - 2, "\r\n", 2));
    for (; p < head->wire + head->size - 2; p++) MUST(!is(CONTROL, *p));
}

static void check_status(const response_head *head, text status)
{
    text space = {(char *)" ", status.size == 3}; /* "server MUST send the space [...] even when" there is no reason */
    check_line(head, 0, "HTTP/1.1 ", status, space);
    MUST(head->code >= 100 && head->code <= 999 && head->code == atoi(head->wire + 9));
    MUST(head->wire[12] == ' ');
}

static void check_field(response_head *head, text name, text value, int *common)
{
    static const char *const minded[] = {"te", "date", "server", "upgrade", "priority", "connection", "keep-alive",
                                         "proxy-connection", "transfer-encoding", NULL};
    static const char *const uncommon[] = {"etag", "expires", "location", "set-cookie", "last-modified",
                                           "sec-websocket-accept", NULL};
    response_head before = *head;
    text line = {malloc(name.size + 2), name.size + 2};
    memcpy(line.bytes, name.bytes, name.size);
    memcpy(line.bytes + name.size, ": ", 2);
    if (put_field(head, name.bytes, name.size, value.bytes, value.size)) {
        check_line(head, before.size, "", line, value);
        MUST(name.size > 0 && !is_any(name, minded));
        for (size_t i = 0; i < name.size; i++) MUST(is(TOKEN, name.bytes[i]));
        if (is_name(name, "content-length")) {
            MUST(before.content_length == -1 && head->code >= 200 && head->code != 204);
            MUST(value.size > 0 && value.size <= 18 && strspn(head->wire + before.size + 16, "0123456789") == value.size);
            MUST(head->content_length == strtoll(head->wire + before.size + 16, NULL, 10));
        } else {
            MUST(head->content_length == before.content_length);
        }
        *common &= !is_any(name, uncommon) && name.size + value.size + 4 <= LONGEST_KNOWN_LINE;
    } else {
        MUST(head->size == before.size && head->content_length == before.content_length);
    }
    MUST(head->code == before.code && !memcmp(head->wire, before.wire, before.size));
    free(line.bytes);
}

/* What lies behind the wire's end does not change its hash. */
static void check_hash(response_head *head)
{
    uint32_t hash = wire_hash(head);
    memset(head->wire + head->size, 0x55, LONGEST_WIRE - head->size);
    MUST(wire_hash(head) == hash);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    init_kinds();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    response_head *head = malloc(sizeof *head);
    size_t end = until(0x1e, data, size), colon;
    text status = copy_of(data, end), name, value;
    int fields = 0, common = end <= LONGEST_KNOWN_STATUS;
    memset(head, 0xaa, sizeof *head);
    check_controls(status);
    if (put_status(head, status.bytes, status.size)) {
        check_status(head, status);
        while (end < size) {
            data += end + 1;
            size -= end + 1;
            end = until(0x1e, data, size);
            colon = until(0x1f, data, end);
            name = copy_of(data, colon);
            value = copy_of(data + colon + (colon < end), end - colon - (colon < end));
            check_controls(value);
            size_t before = head->size;
            check_field(head, name, value, &common);
            fields += head->size > before;
            free(name.bytes);
            free(value.bytes);
        }
        MUST(head->common == (common && fields <= MOST_KNOWN_FIELDS));
        check_hash(head);
    }
    free(status.bytes);
    free(head);
    return 0;
}

/* What libFuzzer does with responses.h: what was accepted holds allowed bytes only and is on the wire as it was given,
 * line by line; what was refused left nothing there; nothing is written beyond the wire, or read behind its end.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -o build/fuzz_responses \
 *         ext/fuzz_responses.c ext/fuzz_portable.c
 *     build/fuzz_responses -max_len=4096 -max_total_time=60 build/corpus tests/fuzz/corpus/response
 *
 * An input is a status and fields, separated by bytes 1E and 1F, as in the target "response" of tests/fuzz.
 */
#include <strings.h>

#include "responses.h"
#include "fuzz.h"

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

/* What must be on the wire. */
typedef struct { char bytes[LONGEST_WIRE]; size_t size; } expected;

static void expect(expected *wire, const char *p, size_t n)
{
    MUST(n <= LONGEST_WIRE - wire->size);
    memcpy(wire->bytes + wire->size, p, n);
    wire->size += n;
}

/* The line that was added behind *before* bytes. */
static void check_line(const response_head *head, const expected *wire, size_t before)
{
    MUST(head->size == wire->size && !memcmp(head->wire + before, wire->bytes + before, wire->size - before));
    MUST(head->size >= before + 2 && !memcmp(head->wire + head->size - 2, "\r\n", 2));
    for (size_t at = before; at < head->size - 2; at++) MUST(!is(CONTROL, head->wire[at]));
}

static void check_status(const response_head *head, text status, expected *wire)
{
    expect(wire, "HTTP/1.1 ", 9);
    expect(wire, status.bytes, status.size);
    if (status.size == 3) expect(wire, " ", 1); /* it stands without a reason too */
    expect(wire, "\r\n", 2);
    check_line(head, wire, 0);
    MUST(head->code >= 100 && head->code <= 999 && head->code == atoi(head->wire + 9));
    MUST(head->wire[12] == ' ');
}

/* Whether the field was accepted; *common* is cleared when it is none to remember. */
static int check_field(response_head *head, text name, text value, expected *wire, int *common)
{
    static const char *const minded[] = {"te", "date", "server", "upgrade", "priority", "connection", "keep-alive",
                                         "proxy-connection", "transfer-encoding", NULL};
    static const char *const uncommon[] = {"etag", "expires", "location", "set-cookie", "last-modified",
                                           "sec-websocket-accept", NULL};
    size_t before = head->size;
    long long stated = head->content_length;
    int code = head->code, accepted = put_field(head, name.bytes, name.size, value.bytes, value.size);
    MUST(head->code == code);
    if (!accepted) {
        MUST(head->size == before && head->content_length == stated);
        return 0;
    }
    expect(wire, name.bytes, name.size);
    expect(wire, ": ", 2);
    expect(wire, value.bytes, value.size);
    expect(wire, "\r\n", 2);
    check_line(head, wire, before);
    MUST(name.size > 0 && !is_any(name, minded));
    for (size_t i = 0; i < name.size; i++) MUST(is(TOKEN, name.bytes[i]));
    if (is_name(name, "content-length")) {
        const char *said = head->wire + before + 16;
        MUST(stated == -1 && code >= 200 && code != 204);
        MUST(value.size > 0 && value.size <= 18 && strspn(said, "0123456789") == value.size);
        MUST(head->content_length == strtoll(said, NULL, 10));
    } else {
        MUST(head->content_length == stated);
    }
    *common &= !is_any(name, uncommon) && name.size + value.size + 4 <= LONGEST_KNOWN_LINE;
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    response_head *head = malloc(sizeof *head);
    expected wire;
    size_t end = until(0x1e, data, size), colon;
    text status = copy_of(data, end), name, value;
    int fields = 0, common = end <= LONGEST_KNOWN_STATUS;
    memset(head, 0xaa, sizeof *head);
    wire.size = 0;
    check_controls(status);
    if (put_status(head, status.bytes, status.size)) {
        check_status(head, status, &wire);
        while (end < size) {
            data += end + 1;
            size -= end + 1;
            end = until(0x1e, data, size);
            colon = until(0x1f, data, end);
            name = copy_of(data, colon);
            value = copy_of(data + colon + (colon < end), end - colon - (colon < end));
            check_controls(value);
            fields += check_field(head, name, value, &wire, &common);
            free(name.bytes);
            free(value.bytes);
        }
        MUST(head->common == (common && fields <= MOST_KNOWN_FIELDS));
        MUST(!memcmp(head->wire, wire.bytes, wire.size));
    }
    free(status.bytes);
    free(head);
    return 0;
}

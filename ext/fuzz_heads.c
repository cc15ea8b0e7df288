/* What libFuzzer does with heads.h and names.h: spans lie in the head, in order, and hold what the grammar allows; what
 * is remembered of a name is what a fresh look finds; without SSE2 it all comes out the same.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -o build/fuzz_heads \
 *         ext/fuzz_heads.c ext/fuzz_portable.c
 *     build/fuzz_heads -max_len=4096 -max_total_time=60 build/corpus tests/fuzz/corpus/head
 */
#include <strings.h>

#include "heads.h"
#include "fuzz.h"

int scan_request_head_portably(const char *, size_t, int, request_head *, field_span *);

static const char *const governing_names[GOVERNING] = {
    "host", "connection", "content-length", "transfer-encoding", "expect",
};

static int is_name(const char *p, int n, const char *wanted)
{
    return (int)strlen(wanted) == n && !strncasecmp(p, wanted, (size_t)n);
}

static void check_line(const char *begin, const request_head *head)
{
    MUST(head->method_end > 0 && head->target == head->method_end + 1 && begin[head->target] == '/');
    for (int at = 0; at < head->method_end; at++) MUST(is(TOKEN, begin[at]));
    MUST(head->target_end > head->target);
    MUST(!head->query || (head->query > head->target && head->query <= head->target_end && begin[head->query - 1] == '?'));
    for (int at = head->target; at < head->target_end; at++) {
        MUST(is(TARGET, begin[at]) || begin[at] == '?');
        MUST(begin[at] != '?' || (head->query && at >= head->query - 1)); /* the first of them ends the path */
    }
}

static void check_field(const char *begin, const request_head *head, int index, field_span f)
{
    const char *name = begin + f.name;
    int size = f.name_end - f.name;
    for (int at = f.name; at < f.name_end; at++) MUST(is(TOKEN, begin[at]));
    for (int at = f.value; at < f.value_end; at++) MUST(!is(CONTROL, begin[at]));
    MUST(begin[f.name_end] == ':');
    for (int at = f.name_end + 1; at < f.value; at++) MUST(begin[at] == ' ' || begin[at] == '\t');
    if (f.value < f.value_end) {
        MUST(begin[f.value] != ' ' && begin[f.value] != '\t');
        MUST(begin[f.value_end - 1] != ' ' && begin[f.value_end - 1] != '\t');
    }
    for (int kind = 0; kind < GOVERNING; kind++)
        MUST(is_name(name, size, governing_names[kind]) == (head->governing[kind] == index + 1));
    MUST(!is_name(name, size, "upgrade"));
    if (f.known) {
        const known_name *known = &known_names[f.known - 1];
        MUST(f.known <= KNOWN_NAMES && known->size == size && !memcmp(known->text, name, (size_t)size));
        MUST(known->kind == kind_of(name, (size_t)size) && known->use == use_of(name, (size_t)size));
    } else {
        MUST(size > LONGEST_NAME || known_names[hash_of(name, (size_t)size) % KNOWN_NAMES].size);
    }
}

/* The size of the head, or UNUSUAL. */
static int check(const char *begin, size_t size, int max_fields, request_head *found)
{
    field_span fields[MAX_FIELDS], others[MAX_FIELDS];
    request_head head, other;
    int whole = scan_request_head(begin, size, max_fields, &head, fields), end;
    MUST(scan_request_head_portably(begin, size, max_fields, &other, others) == whole);
    *found = head;
    if (whole == UNUSUAL) return UNUSUAL;
    MUST(!memcmp(&head, &other, sizeof head));
    MUST(!memcmp(fields, others, (size_t)head.count * sizeof *fields));
    MUST(whole > 0 && (size_t)whole <= size && !memcmp(begin + whole - 4, "\r\n\r\n", 4));
    MUST(head.count <= max_fields && head.governing[HOST] > 0);
    for (int kind = 0; kind < GOVERNING; kind++) MUST(head.governing[kind] >= 0 && head.governing[kind] <= head.count);
    check_line(begin, &head);
    end = head.target_end;
    for (int i = 0; i < head.count; i++) {
        field_span f = fields[i];
        MUST(end < f.name && f.name < f.name_end && f.name_end < f.value && f.value <= f.value_end && f.value_end < whole);
        check_field(begin, &head, i, f);
        end = f.value_end;
    }
    for (int cut = 1; cut <= 5; cut++) /* what is behind the head does not matter, and all of it does */
        MUST(scan_request_head(begin, (size_t)(whole - cut), max_fields, &other, others) == UNUSUAL);
    MUST(scan_request_head(begin, (size_t)whole, max_fields, &other, others) == whole);
    MUST(!memcmp(&head, &other, sizeof head) && !memcmp(fields, others, (size_t)head.count * sizeof *fields));
    return whole;
}

/* The same head with a path so long that it ends about where spans can reach. */
static void check_longest(const char *begin, int whole, int target)
{
    for (int size = MAX_SIZE - 1; size <= MAX_SIZE + 1; size++) {
        char *longer = malloc((size_t)size);
        request_head head;
        memcpy(longer, begin, (size_t)target + 1);
        memset(longer + target + 1, 'a', (size_t)(size - whole));
        memcpy(longer + target + 1 + size - whole, begin + target + 1, (size_t)(whole - target - 1));
        MUST(check(longer, (size_t)size, MAX_FIELDS, &head) == (size <= MAX_SIZE ? size : UNUSUAL));
        MUST(size > MAX_SIZE || head.target == target);
        free(longer);
    }
}

/* A place is taken once and for good, by a token. */
static void check_known_names(void)
{
    static known_name before[KNOWN_NAMES];
    for (int place = 0; place < KNOWN_NAMES; place++) {
        const known_name *name = &known_names[place];
        if (before[place].size) {
            MUST(!memcmp(&before[place], name, sizeof *name));
            continue;
        }
        MUST(name->size <= LONGEST_NAME);
        for (int at = 0; at < name->size; at++) MUST(is(TOKEN, name->text[at]));
        before[place] = *name;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1); /* exactly as large, so that one byte too far is seen */
    request_head head;
    int whole;
    memcpy(copy, data, size);
    check(copy, size, 2, &head);
    whole = check(copy, size, MAX_FIELDS, &head);
    if (size % 64 == 0) { /* now and then: it takes long */
        if (whole != UNUSUAL) check_longest(copy, whole, head.target);
        check_known_names();
    }
    free(copy);
    return 0;
}

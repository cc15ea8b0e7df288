/* What libFuzzer does with heads.h: spans must lie in the head, in order, and hold what the grammar allows.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -o build/fuzz_heads ext/fuzz_heads.c
 *     build/fuzz_heads -max_len=4096 -max_total_time=60
 */
#include <stdlib.h>

#include "heads.h"

#define MUST(condition) do { if (!(condition)) __builtin_trap(); } while (0)

static void check(const char *begin, size_t size, int max_fields)
{
    field_span fields[MAX_FIELDS];
    request_head head;
    int whole = scan_request_head(begin, size, max_fields, &head, fields), end;
    if (whole == UNUSUAL) return;
    MUST(whole > 0 && (size_t)whole <= size && !memcmp(begin + whole - 4, "\r\n\r\n", 4));
    MUST(head.count <= max_fields && head.method_end > 0 && head.target == head.method_end + 1);
    MUST(head.target_end > head.target && (!head.query || (head.query > head.target && head.query <= head.target_end)));
    end = head.target_end;
    for (int i = 0; i < head.count; i++) {
        field_span f = fields[i];
        MUST(end < f.name && f.name < f.name_end && f.name_end < f.value && f.value <= f.value_end && f.value_end < whole);
        MUST(!memchr(begin + f.name, ':', f.name_end - f.name) && begin[f.name_end] == ':');
        for (int at = f.value; at < f.value_end; at++) MUST(!is(CONTROL, begin[at]));
        end = f.value_end;
    }
    MUST(head.governing[HOST] > 0 && head.governing[HOST] <= head.count);
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
    char *copy = malloc(size ? size : 1); /* exactly as large, so that one byte too far is seen */
    memcpy(copy, data, size);
    check(copy, size, MAX_FIELDS);
    check(copy, size, 2);
    free(copy);
    return 0;
}

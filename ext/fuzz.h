/* What the programs for libFuzzer have in common. Comes behind the header that is fuzzed. */
#include <stdint.h>
#include <stdlib.h>

#define MUST(condition) do { if (!(condition)) __builtin_trap(); } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef GEVENTGATE_BYTES_H
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    init_kinds();
    return 0;
}
#endif

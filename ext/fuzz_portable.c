/* heads.h as a compiler without SSE2 sees it, for the other fuzz_*.c to compare with. */
#undef __SSE2__
#include "heads.h"

int scan_request_head_portably(const char *, size_t, int, request_head *, field_span *);
int scan_request_head_portably(const char *begin, size_t size, int max_fields, request_head *head, field_span *fields)
{
    if (!kinds['a']) init_kinds();
    return scan_request_head(begin, size, max_fields, head, fields);
}

const char *find_control_portably(const char *, const char *);
const char *find_control_portably(const char *p, const char *end)
{
    if (!kinds['a']) init_kinds();
    return find_control(p, end);
}

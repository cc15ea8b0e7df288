/* Where the fields of a head lie in it. */
#ifndef GEVENTGATE_SPANS_H
#define GEVENTGATE_SPANS_H
#include <stdint.h>

typedef struct { uint16_t name, name_end, value, value_end, known; /* of names.h: 1 + its place, or 0 */ } field_span;
#endif

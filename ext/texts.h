/* Strings that come again and again: the same bytes give the same str, without making it anew. */
#ifndef GEVENTGATE_TEXTS_H
#define GEVENTGATE_TEXTS_H
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { KNOWN_TEXTS = 1024, LONGEST_KNOWN = 128, KNOWN_KEYS = 512, LONGEST_KEY = 40 };

static inline uint32_t hash_of(const char *p, size_t n)
{
    uint64_t a = 0, b = 0;
    uint32_t x, y;
    if (n >= 8) { memcpy(&a, p, 8); memcpy(&b, p + n - 8, 8); }
    else if (n >= 4) { memcpy(&x, p, 4); memcpy(&y, p + n - 4, 4); a = x; b = y; }
    else if (n) { a = (unsigned char)p[0]; b = (unsigned char)p[n - 1]; }
    return (uint32_t)(((a ^ (b * 0x9E3779B97F4A7C15u) ^ n) * 0xff51afd7ed558ccdu) >> 40);
}

/* str of Latin-1 bytes; a new reference */
static inline PyObject *known_text(const char *p, Py_ssize_t n)
{
    static PyObject *known[KNOWN_TEXTS];
    PyObject **slot, *text;
    if (n == 0 || n > LONGEST_KNOWN) return PyUnicode_DecodeLatin1(p, n, NULL);
    slot = &known[hash_of(p, (size_t)n) % KNOWN_TEXTS];
    text = *slot;
    if (text && PyUnicode_GET_LENGTH(text) == n && !memcmp(PyUnicode_1BYTE_DATA(text), p, (size_t)n))
        return Py_NewRef(text);
    text = PyUnicode_DecodeLatin1(p, n, NULL);
    if (text) Py_XSETREF(*slot, Py_NewRef(text));
    return text;
}

/* The environ's key of the field "X-Some-Name": HTTP_X_SOME_NAME; a new reference */
static inline PyObject *new_key(const char *p, Py_ssize_t n, int bare)
{
    PyObject *key = PyUnicode_New(n + (bare ? 0 : 5), 127);
    char *out;
    if (!key) return NULL;
    out = (char *)PyUnicode_1BYTE_DATA(key);
    if (!bare) { memcpy(out, "HTTP_", 5); out += 5; }
    for (Py_ssize_t i = 0; i < n; i++) out[i] = p[i] == '-' ? '_' : p[i] >= 'a' && p[i] <= 'z' ? p[i] - 32 : p[i];
    return key;
}

/* The same, remembered by its name as sent. */
static inline PyObject *known_key(const char *p, Py_ssize_t n, int bare)
{
    static struct { char name[LONGEST_KEY]; Py_ssize_t n; PyObject *key; } known[KNOWN_KEYS], *slot;
    PyObject *key;
    if (n > LONGEST_KEY) return new_key(p, n, bare);
    slot = &known[hash_of(p, (size_t)n) % KNOWN_KEYS];
    if (slot->n == n && !memcmp(slot->name, p, (size_t)n)) return Py_NewRef(slot->key);
    key = new_key(p, n, bare);
    if (!key) return NULL;
    PyUnicode_InternInPlace(&key); /* as the names in an application's code are: they are found without comparing */
    memcpy(slot->name, p, (size_t)n);
    slot->n = n;
    Py_XSETREF(slot->key, Py_NewRef(key));
    return key;
}
#endif

/* Strings that come again and again: the same bytes give the same str, without making it anew. */
#ifndef GEVENTGATE_TEXTS_H
#define GEVENTGATE_TEXTS_H
#include <Python.h>

#include "names.h"

enum { KNOWN_TEXTS = 1024, LONGEST_KNOWN = 128 };

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

/* The same of a known name, remembered too. */
static inline PyObject *known_key(int place)
{
    static PyObject *keys[KNOWN_NAMES];
    const known_name *name = &known_names[place];
    if (keys[place] == NULL) {
        keys[place] = new_key(name->text, name->size, name->use & BARE);
        if (keys[place] == NULL) return NULL;
        PyUnicode_InternInPlace(&keys[place]); /* as the names in an application's code are: found without comparing */
    }
    return Py_NewRef(keys[place]);
}
#endif

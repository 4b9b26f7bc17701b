/* What Python hands over is read by its attributes' names, and what it gets has names. Python.h comes before this. */
#ifndef MIRRORD_FIELDS_H
#define MIRRORD_FIELDS_H

#include <stdbool.h>
#include <stdint.h>

/* The attribute of this name as a number of at least 0, a number, or a truth. False with an exception set: there is none,
 * or it is of another type or too large. */
bool read_unsigned(PyObject *object, const char *name, uint64_t most, uint64_t *number);
bool read_u32(PyObject *object, const char *name, uint32_t *number);
bool read_int(PyObject *object, const char *name, int *number);
bool read_bool(PyObject *object, const char *name, bool *truth);

/* The members of a Python enumeration that is numbered as one of C: names in order, the first of which has this number. */
struct names {
	const char *enumeration;
	const char *const *names;
	int first, count;
};

/* Put them into a dictionary, as a dictionary of numbers by name. False with an exception set. */
bool add_names(PyObject *dictionary, const struct names *names);

/* A new tuple of this type, made by PyStructSequence_NewType, of values that it takes over, one a field. NULL with an
 * exception set, also when one of the values is NULL. */
PyObject *new_named(PyTypeObject *type, PyObject *const *values, int count);

#endif

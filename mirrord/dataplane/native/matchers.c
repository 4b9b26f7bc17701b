/* The programs that tell whose a frame may be, as Python made them: several.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "fields.h"
#include "module.h"

/* One set's candidates: their places, twice, and one where they want the frame for certain. */
static bool read_set(PyObject *set, struct matcher *matcher, uint32_t *at)
{
	Py_ssize_t size = PyTuple_Size(set);

	for (Py_ssize_t n = 0; n < size; n++) {
		PyObject *candidate = PyTuple_GetItem(set, n);
		uint32_t place;
		bool certain;

		if (!read_u32(candidate, "place", &place) || !read_bool(candidate, "certain", &certain))
			return false;
		matcher->candidates[(*at)++] = place << 1 | (uint32_t)certain;
	}
	return size >= 0;
}

static bool read_sets(PyObject *sets, struct matcher *matcher)
{
	Py_ssize_t count = PyTuple_Size(sets), total = 0;
	uint32_t at = 0;

	for (Py_ssize_t n = 0; n < count; n++) {
		Py_ssize_t size = PyTuple_Size(PyTuple_GetItem(sets, n));

		if (size < 0)
			return false;
		total += size;
	}
	if (count <= 0 || total > INT32_MAX) {
		PyErr_SetString(PyExc_ValueError, "no set");
		return false;
	}
	matcher->sets = calloc((size_t)count + 1, sizeof(*matcher->sets));
	matcher->candidates = calloc((size_t)total + 1, sizeof(*matcher->candidates));
	if (!matcher->sets || !matcher->candidates) {
		PyErr_NoMemory();
		return false;
	}
	for (Py_ssize_t n = 0; n < count; n++) {
		if (!read_set(PyTuple_GetItem(sets, n), matcher, &at))
			return false;
		matcher->sets[n + 1] = at;
	}
	matcher->set_count = (uint32_t)count;
	return true;
}

static bool read_matcher(PyObject *object, struct matcher *matcher)
{
	PyObject *program = PyObject_GetAttrString(object, "program"), *sets = PyObject_GetAttrString(object, "sets");
	char *bytes;
	Py_ssize_t length;
	bool done = program && sets && PyBytes_AsStringAndSize(program, &bytes, &length) == 0 &&
		    read_program(bytes, length, &matcher->program, &matcher->length) && read_sets(sets, matcher);

	Py_XDECREF(program);
	Py_XDECREF(sets);
	return done;
}

bool read_matchers(PyObject *list, struct tap *tap)
{
	Py_ssize_t count = PyTuple_Size(list);

	if (count < 0)
		return false;
	tap->matchers = calloc((size_t)count + 1, sizeof(*tap->matchers));
	if (!tap->matchers) {
		PyErr_NoMemory();
		return false;
	}
	while (tap->matcher_count < (size_t)count) {
		PyObject *object = PyTuple_GetItem(list, tap->matcher_count);

		if (!read_matcher(object, &tap->matchers[tap->matcher_count++]))
			return false;
	}
	return true;
}

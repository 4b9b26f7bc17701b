/* A plan of Python's (forward.py: ForwardPlan) into one of the core's. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "plan.h"

static bool read_number(PyObject *object, const char *name, uint64_t *number)
{
	PyObject *value = PyObject_GetAttrString(object, name);

	if (!value)
		return false;
	*number = PyLong_AsUnsignedLongLong(value);
	Py_DECREF(value);
	return !PyErr_Occurred();
}

static bool read_overhead(PyObject *object, struct plan *plan)
{
	PyObject *value = PyObject_GetAttrString(object, "overhead");

	if (!value)
		return false;
	plan->overhead = (int32_t)PyLong_AsLong(value);
	Py_DECREF(value);
	return !PyErr_Occurred();
}

static bool read_header(PyObject *object, struct plan *plan)
{
	PyObject *template = PyObject_GetAttrString(object, "template");
	PyObject *header = template ? PyObject_GetAttrString(template, "header") : NULL;
	char *bytes;
	Py_ssize_t length;
	bool done = false;

	if (header && PyBytes_AsStringAndSize(header, &bytes, &length) == 0) {
		if (length > MAX_TEMPLATE) {
			PyErr_SetString(PyExc_ValueError, "the header template is too long");
		} else {
			memcpy(plan->header, bytes, (size_t)length);
			plan->header_length = (uint32_t)length;
			done = true;
		}
	}
	Py_XDECREF(header);
	Py_XDECREF(template);
	return done;
}

/* The template's patches: pairs of a field and its offset. */
static bool read_patches(PyObject *object, struct plan *plan)
{
	static const uint32_t sizes[] = { [SEQUENCE] = 4, [ERSPAN_II] = 4, [ERSPAN_III] = 12,
					  [PACKET_BLOCK] = PACKET_HEADER };
	PyObject *template = PyObject_GetAttrString(object, "template");
	PyObject *patches = template ? PyObject_GetAttrString(template, "patches") : NULL;
	Py_ssize_t count = patches ? PyTuple_Size(patches) : -1;
	bool done = count >= 0 && count <= MAX_PATCHES;

	for (Py_ssize_t n = 0; done && n < count; n++) {
		unsigned int field, at;

		done = PyArg_ParseTuple(PyTuple_GetItem(patches, n), "II", &field, &at) && field >= SEQUENCE &&
		       field <= PACKET_BLOCK && at + sizes[field] <= plan->header_length;
		if (done)
			plan->patches[plan->patch_count++] = (struct patch){ field, at };
	}
	if (!done && !PyErr_Occurred())
		PyErr_SetString(PyExc_ValueError, "a patch that does not fit its template");
	Py_XDECREF(patches);
	Py_XDECREF(template);
	return done;
}

static bool read_on_mtu_exceeded(PyObject *object, struct plan *plan)
{
	PyObject *value = PyObject_GetAttrString(object, "on_mtu_exceeded");

	if (!value)
		return false;
	plan->on_mtu_exceeded = PyUnicode_CompareWithASCIIString(value, "drop") == 0	   ? DROP
				: PyUnicode_CompareWithASCIIString(value, "fragment") == 0 ? FRAGMENT
											   : TRUNCATE;
	Py_DECREF(value);
	return true;
}

/* The program that matches exactly: struct sock_filter after struct sock_filter, or None. */
static bool read_program(PyObject *program, struct plan *plan)
{
	char *bytes;
	Py_ssize_t length;

	plan->exact = NULL;
	plan->exact_length = 0;
	if (program == Py_None)
		return true;
	if (PyBytes_AsStringAndSize(program, &bytes, &length) < 0)
		return false;
	size_t count = (size_t)length / sizeof(struct sock_filter);
	struct sock_filter *copy = malloc((size_t)length + 1);
	if (!copy) {
		PyErr_NoMemory();
		return false;
	}
	memcpy(copy, bytes, (size_t)length);
	if ((size_t)length % sizeof(struct sock_filter) || mirrord_bpf_check(copy, count) < 0) {
		free(copy);
		PyErr_SetString(PyExc_ValueError, "not a program that may be run");
		return false;
	}
	plan->exact = copy;
	plan->exact_length = (uint32_t)count;
	return true;
}

bool read_plan(PyObject *object, PyObject *program, struct plan *plan)
{
	uint64_t paused, snaplen, frame_limit, sampling_rate, strip_tag, push_tag;

	memset(plan, 0, sizeof(*plan));
	if (!read_number(object, "paused", &paused) || !read_number(object, "snaplen", &snaplen) || !read_number(object, "frame_limit", &frame_limit) ||
	    !read_number(object, "sampling_rate", &sampling_rate) || !read_overhead(object, plan) ||
	    !read_number(object, "strip_tag", &strip_tag) || !read_number(object, "push_tag", &push_tag) ||
	    !read_number(object, "rate_limit", &plan->rate_limit) || !read_header(object, plan) ||
	    !read_patches(object, plan) || !read_on_mtu_exceeded(object, plan) || !read_program(program, plan))
		return false;
	plan->paused = paused;
	plan->snaplen = (uint32_t)snaplen;
	plan->frame_limit = (uint32_t)frame_limit;
	plan->sampling_rate = (uint32_t)sampling_rate;
	plan->strip_tag = strip_tag;
	plan->push_tag = (uint32_t)push_tag;
	return true;
}

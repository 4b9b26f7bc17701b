/* What pipelines of one mirror and destination remember together, as Python holds it: a capsule. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "module.h"

static const char NAME[] = "mirrord.dataplane._native.duplicates";

static void end(PyObject *capsule)
{
	free_duplicates(PyCapsule_GetPointer(capsule, NAME));
}

PyObject *make_duplicates(PyObject *module, PyObject *unused)
{
	struct duplicates *made = new_duplicates();

	(void)module;
	(void)unused;
	PyObject *capsule = made ? PyCapsule_New(made, NAME, end) : PyErr_NoMemory();
	if (!capsule)
		free_duplicates(made);
	return capsule;
}

bool watch_duplicates(PyObject *arguments, PyObject **held, struct state *state)
{
	PyObject *capsule;
	unsigned int place;

	if (!PyArg_ParseTuple(arguments, "OI", &capsule, &place))
		return false;
	struct duplicates *duplicates = PyCapsule_GetPointer(capsule, NAME);
	if (!duplicates)
		return false;
	PyObject *before = *held;
	*held = Py_NewRef(capsule);
	state->duplicates = duplicates;
	state->place = place % 64;
	Py_XDECREF(before);
	return true;
}

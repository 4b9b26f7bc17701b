/* The numbers of a tunnel's packets as Python sees them: capture/numbers.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "module.h"

typedef struct {
	PyObject_HEAD
	struct numbers numbers;
} Numbers;

static void Numbers_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	release(object);
	Py_DECREF(type);
}

struct numbers *numbers_in(PyObject *object)
{
	if (PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) != (void *)Numbers_dealloc) {
		PyErr_SetString(PyExc_TypeError, "not numbers");
		return NULL;
	}
	return &((Numbers *)object)->numbers;
}

static PyObject *Numbers_note(PyObject *object, PyObject *arguments)
{
	uint8_t sender[16] = { 0 };
	const char *bytes;
	Py_ssize_t length;
	unsigned int ident, number;

	if (!PyArg_ParseTuple(arguments, "y#II", &bytes, &length, &ident, &number))
		return NULL;
	memcpy(sender, bytes, (size_t)length < sizeof(sender) ? (size_t)length : sizeof(sender));
	return PyLong_FromUnsignedLongLong(note_number(&((Numbers *)object)->numbers, sender, ident, number));
}

static PyObject *Numbers_settle(PyObject *object, PyObject *unused)
{
	bool waits;
	uint64_t found = settle_numbers(&((Numbers *)object)->numbers, &waits);

	(void)unused;
	return Py_BuildValue("KN", (unsigned long long)found, PyBool_FromLong(waits));
}

static PyMethodDef numbers_methods[] = {
	{ "note", Numbers_note, METH_VARARGS,
	  "note(sender, ident, number): how many are known to be missing by that." },
	{ "settle", Numbers_settle, METH_NOARGS,
	  "How many are known to be missing by now, and whether some may still come late." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot numbers_slots[] = {
	{ Py_tp_doc, "Numbers(): see numbers.py, whose Numbers does the same in Python." },
	{ Py_tp_dealloc, Numbers_dealloc },
	{ Py_tp_methods, numbers_methods },
	{ 0, NULL },
};

PyType_Spec numbers_spec = {
	.name = "mirrord.dataplane._native.Numbers",
	.basicsize = sizeof(Numbers),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = numbers_slots,
};

/* What Python hands over, read by its attributes' names; and what it gets, by name. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fields.h"

bool read_unsigned(PyObject *object, const char *name, uint64_t most, uint64_t *number)
{
	PyObject *value = PyObject_GetAttrString(object, name);

	if (!value)
		return false;
	*number = PyLong_AsUnsignedLongLong(value);
	Py_DECREF(value);
	if (PyErr_Occurred())
		return false;
	if (*number > most)
		PyErr_Format(PyExc_OverflowError, "%s is too large", name);
	return *number <= most;
}

bool read_u32(PyObject *object, const char *name, uint32_t *number)
{
	uint64_t value;
	bool done = read_unsigned(object, name, UINT32_MAX, &value);

	if (done)
		*number = (uint32_t)value;
	return done;
}

bool read_int(PyObject *object, const char *name, int *number)
{
	PyObject *value = PyObject_GetAttrString(object, name);

	if (!value)
		return false;
	long found = PyLong_AsLong(value);
	Py_DECREF(value);
	if (PyErr_Occurred())
		return false;
	*number = (int)found;
	if (*number != found)
		PyErr_Format(PyExc_OverflowError, "%s is too large", name);
	return *number == found;
}

bool read_bool(PyObject *object, const char *name, bool *truth)
{
	PyObject *value = PyObject_GetAttrString(object, name);

	if (!value)
		return false;
	int found = PyObject_IsTrue(value);
	Py_DECREF(value);
	*truth = found > 0;
	return found >= 0;
}

bool add_names(PyObject *dictionary, const struct names *names)
{
	PyObject *numbers = PyDict_New();
	bool done = numbers;

	for (int n = 0; done && n < names->count; n++) {
		PyObject *number = PyLong_FromLong(names->first + n);

		done = number && PyDict_SetItemString(numbers, names->names[n], number) == 0;
		Py_XDECREF(number);
	}
	done = done && PyDict_SetItemString(dictionary, names->enumeration, numbers) == 0;
	Py_XDECREF(numbers);
	return done;
}

PyObject *new_named(PyTypeObject *type, PyObject *const *values, int count)
{
	PyObject *made = PyStructSequence_New(type);
	bool whole = made;

	for (int n = 0; n < count; n++) {
		whole = whole && values[n];
		if (made && values[n])
			PyStructSequence_SetItem(made, n, values[n]);
		else
			Py_XDECREF(values[n]);
	}
	if (!whole)
		Py_CLEAR(made);
	return made;
}

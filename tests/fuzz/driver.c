/* libFuzzer's main for tests/fuzz/targets.py: Python in this process calls the native core, which is built with the same
 * sanitizers and tells libFuzzer what it has covered. An exception of a target is a find, as is a sanitizer's report.
 *
 * Environment: MIRRORD_FUZZ names the target, MIRRORD_FUZZ_SEEDS a directory that its seeds are written to first. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>

static PyObject *target;

static void die(void)
{
	PyErr_Print();
	abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	PyConfig config;

	(void)argc;
	(void)argv;
	PyConfig_InitPythonConfig(&config);
	config.install_signal_handlers = 0;
	if (PyStatus_Exception(PyConfig_SetBytesString(&config, &config.executable, getenv("MIRRORD_FUZZ_PYTHON"))) ||
	    PyStatus_Exception(Py_InitializeFromConfig(&config)))
		abort();
	PyConfig_Clear(&config);

	PyObject *module = PyImport_ImportModule("tests.fuzz.run");
	if (!module)
		die();
	target = PyObject_CallMethod(module, "begin", NULL);
	Py_DECREF(module);
	if (!target)
		die();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	PyObject *result = PyObject_CallFunction(target, "y#", (const char *)data, (Py_ssize_t)size);

	if (!result)
		die();
	Py_DECREF(result);
	return 0;
}

/* A tap as Python sees it: where its frames come from, and who wants them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "fields.h"
#include "module.h"

typedef struct {
	PyObject_HEAD
	struct tap tap;
	Py_buffer ring, seen;
	PyObject *members; /* holds on to them */
} Tap;

/* Read the ring's memory, or the plain socket where there is none. */
static bool set_ring(Tap *self, PyObject *ring, unsigned int block_size)
{
	struct tap *tap = &self->tap;

	PyBuffer_Release(&self->ring);
	self->ring = (Py_buffer){ 0 };
	if (ring != Py_None && PyObject_GetBuffer(ring, &self->ring, PyBUF_WRITABLE) < 0)
		return false;
	if (self->ring.buf && !block_size) {
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		return false;
	}
	tap->ring = self->ring.buf;
	tap->block = 0;
	tap->left = 0;
	tap->block_size = block_size;
	tap->block_count = self->ring.buf ? (uint32_t)((size_t)self->ring.len / block_size) : 0;
	return true;
}

static PyObject *Tap_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = {
		"descriptor", "ring", "block_size", "seen", "tunnel", "ip_header", "raw", "pvid", NULL
	};
	PyObject *ring, *seen;
	int descriptor, ip_header, raw;
	unsigned int block_size, tunnel, pvid;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$iOIOIppI", names, &descriptor, &ring, &block_size,
					 &seen, &tunnel, &ip_header, &raw, &pvid))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Tap *self = (Tap *)allocate(type, 0);
	if (!self)
		return NULL;
	self->tap.descriptor = descriptor;
	self->tap.tunnel = (enum tunnel)tunnel;
	self->tap.ip_header = ip_header;
	self->tap.raw = raw;
	self->tap.pvid = (uint16_t)pvid;
	if (PyObject_GetBuffer(seen, &self->seen, PyBUF_WRITABLE) < 0 || !set_ring(self, ring, block_size))
		goto failed;
	if (self->seen.len != SEENS * (Py_ssize_t)sizeof(uint64_t)) {
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		goto failed;
	}
	self->tap.seen = self->seen.buf;
	return (PyObject *)self;
failed:
	Py_DECREF(self);
	return NULL;
}

/* What belongs to who its members are. */
static void clear_members(struct tap *tap)
{
	free(tap->members);
	free(tap->program);
	free(tap->sets);
	free(tap->candidates);
	free(tap->theirs);
	free(tap->their_count);
	tap->members = NULL;
	tap->program = NULL;
	tap->sets = tap->candidates = NULL;
	tap->theirs = tap->their_count = NULL;
	tap->count = tap->set_count = 0;
}

static void Tap_dealloc(PyObject *object)
{
	Tap *self = (Tap *)object;
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	PyBuffer_Release(&self->ring);
	PyBuffer_Release(&self->seen);
	clear_members(&self->tap);
	Py_XDECREF(self->members);
	release(object);
	Py_DECREF(type);
}

struct tap *tap_in(PyObject *object)
{
	if (PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) != (void *)Tap_dealloc) {
		PyErr_SetString(PyExc_TypeError, "not a tap");
		return NULL;
	}
	return &((Tap *)object)->tap;
}

static PyObject *Tap_run(PyObject *object, PyObject *unused)
{
	struct work work;
	bool more;

	(void)unused;
	if (!open_work(&work))
		return PyErr_NoMemory();
	Py_BEGIN_ALLOW_THREADS
	more = run_tap(&((Tap *)object)->tap, &work);
	Py_END_ALLOW_THREADS
	close_work(&work);
	return PyBool_FromLong(more);
}

static PyObject *Tap_error(PyObject *object, PyObject *unused)
{
	struct tap *tap = &((Tap *)object)->tap;
	int error = tap->error;

	(void)unused;
	tap->error = 0;
	return PyLong_FromLong(error);
}

static PyObject *Tap_most_waiting(PyObject *object, PyObject *forget)
{
	struct tap *tap = &((Tap *)object)->tap;
	uint32_t blocks = tap->most_waiting;

	if (forget == Py_True)
		tap->most_waiting = 0;
	return PyLong_FromUnsignedLong(blocks);
}

static PyObject *Tap_move(PyObject *object, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "descriptor", "ring", "block_size", NULL };
	Tap *self = (Tap *)object;
	PyObject *ring;
	int descriptor;
	unsigned int block_size;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$iOI", names, &descriptor, &ring, &block_size) ||
	    !set_ring(self, ring, block_size))
		return NULL;
	self->tap.descriptor = descriptor;
	Py_RETURN_NONE;
}

static struct pipeline *read_member(PyObject *member)
{
	PyObject *object = PyObject_GetAttrString(member, "pipeline");
	struct pipeline *pipeline = object ? pipeline_in(object) : NULL;

	Py_XDECREF(object); /* the member holds on to it */
	if (!pipeline || !read_unsigned(member, "since", UINT64_MAX, &pipeline->since) ||
	    !read_unsigned(member, "until", UINT64_MAX, &pipeline->until))
		return NULL;
	return pipeline;
}

static bool read_members(PyObject *list, struct tap *tap)
{
	Py_ssize_t count = PyTuple_Size(list);

	if (count < 0)
		return false;
	tap->members = calloc((size_t)count + 1, sizeof(*tap->members));
	tap->theirs = calloc((size_t)count + 1, STAGED * sizeof(*tap->theirs));
	tap->their_count = calloc((size_t)count + 1, sizeof(*tap->their_count));
	if (!tap->members || !tap->theirs || !tap->their_count) {
		PyErr_NoMemory();
		return false;
	}
	for (; tap->count < (size_t)count; tap->count++) {
		tap->members[tap->count] = read_member(PyTuple_GetItem(list, tap->count));
		if (!tap->members[tap->count])
			return false;
	}
	return true;
}

/* One set's candidates: their places, twice, and one where they want the frame for certain. */
static bool read_set(PyObject *set, struct tap *tap, uint32_t *at)
{
	Py_ssize_t size = PyTuple_Size(set);

	for (Py_ssize_t n = 0; n < size; n++) {
		PyObject *candidate = PyTuple_GetItem(set, n);
		uint32_t place;
		bool certain;

		if (!read_u32(candidate, "place", &place) || !read_bool(candidate, "certain", &certain))
			return false;
		if (place >= tap->count) {
			PyErr_SetString(PyExc_ValueError, "a set has a member that is none");
			return false;
		}
		tap->candidates[(*at)++] = place << 1 | (uint32_t)certain;
	}
	return size >= 0;
}

static bool read_sets(PyObject *sets, struct tap *tap)
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
	tap->sets = calloc((size_t)count + 1, sizeof(*tap->sets));
	tap->candidates = calloc((size_t)total + 1, sizeof(*tap->candidates));
	if (!tap->sets || !tap->candidates) {
		PyErr_NoMemory();
		return false;
	}
	for (Py_ssize_t n = 0; n < count; n++) {
		if (!read_set(PyTuple_GetItem(sets, n), tap, &at))
			return false;
		tap->sets[n + 1] = at;
	}
	tap->set_count = (uint32_t)count;
	return true;
}

static PyObject *Tap_have(PyObject *object, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "members", "program", "sets", NULL };
	Tap *self = (Tap *)object;
	PyObject *list, *program, *sets;
	char *bytes;
	Py_ssize_t length;
	struct tap next = { .count = 0 };

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$OSO", names, &list, &program, &sets))
		return NULL;
	if (PyBytes_AsStringAndSize(program, &bytes, &length) < 0 || !read_members(list, &next) ||
	    !read_program(bytes, length, &next.program, &next.program_length) || !read_sets(sets, &next)) {
		clear_members(&next);
		return NULL;
	}
	clear_members(&self->tap);
	self->tap.members = next.members;
	self->tap.eager = false;
	for (uint32_t n = 0; n < next.count; n++)
		self->tap.eager |= next.members[n]->file.output != NULL;
	self->tap.count = next.count;
	self->tap.program = next.program;
	self->tap.program_length = next.program_length;
	self->tap.sets = next.sets;
	self->tap.set_count = next.set_count;
	self->tap.candidates = next.candidates;
	self->tap.theirs = next.theirs;
	self->tap.their_count = next.their_count;
	Py_XDECREF(self->members);
	self->members = Py_NewRef(list);
	Py_RETURN_NONE;
}

static PyMethodDef tap_methods[] = {
	{ "run", Tap_run, METH_NOARGS,
	  "Forward what has been captured: at most a few blocks. Tells whether there is more. Without the GIL, and on\n"
	  "memory of its own: a worker runs its taps by Rounds." },
	{ "error", Tap_error, METH_NOARGS, "The errno that a reading came upon, and clear it; or 0." },
	{ "most_waiting", Tap_most_waiting, METH_O,
	  "most_waiting(forget): the most blocks of the ring that waited when it was run, since they were forgotten." },
	{ "move", (PyCFunction)(void (*)(void))Tap_move, METH_VARARGS | METH_KEYWORDS,
	  "move(*, descriptor, ring, block_size): read another packet socket from now on." },
	{ "have", (PyCFunction)(void (*)(void))Tap_have, METH_VARARGS | METH_KEYWORDS,
	  "have(*, members, program, sets): give frames to these from now on; what was captured before `since`, or not before\n"
	  "`until`, in nanoseconds since 1970, is not theirs. The program gives the number of a set of those that may want a\n"
	  "frame, see several.py; with one member it is not run." },
	{ NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(
	tap_doc,
	"Tap(*, descriptor, ring, block_size, seen, tunnel, ip_header)\n\n"
	"Frames out of one packet socket, or the raw socket where a tunnel ends (0: no tunnel), to the pipelines that\n"
	"want them; `seen` is memory for tap.py's Seen. The caller keeps all of them open, and lets one thread at a\n"
	"time in.");

static PyType_Slot tap_slots[] = {
	{ Py_tp_doc, (void *)tap_doc },
	{ Py_tp_new, Tap_new },
	{ Py_tp_dealloc, Tap_dealloc },
	{ Py_tp_methods, tap_methods },
	{ 0, NULL },
};

PyType_Spec tap_spec = {
	.name = "mirrord.dataplane._native.Tap",
	.basicsize = sizeof(Tap),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = tap_slots,
};

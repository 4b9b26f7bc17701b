/* A tap as Python sees it: where its frames come from, and who wants them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "fields.h"
#include "module.h"

enum { FEW = 16 }; /* outlets that may each have a share of every frame at hand */

typedef struct {
	PyObject_HEAD
	struct tap tap;
	Py_buffer ring, seen;
	PyObject *members, *numbers; /* holds on to them */
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
	static char *names[] = { "descriptor", "ring", "block_size", "seen",	"tunnel", "ip_header",
				 "raw",	       "pvid", "told",	     "numbers", "sender", NULL };
	PyObject *ring, *seen, *numbers, *sender;
	int descriptor, ip_header, raw, told;
	unsigned int block_size, tunnel, pvid;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$iOIOIppIpOO", names, &descriptor, &ring, &block_size,
					 &seen, &tunnel, &ip_header, &raw, &pvid, &told, &numbers, &sender))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Tap *self = (Tap *)allocate(type, 0);
	if (!self)
		return NULL;
	self->tap.descriptor = descriptor;
	self->tap.tunnel = (enum tunnel)tunnel;
	self->tap.ip_header = ip_header;
	self->tap.raw = raw;
	self->tap.directed = told;
	self->tap.pvid = (uint16_t)pvid;
	if (numbers != Py_None) {
		self->tap.numbers = numbers_in(numbers);
		if (!self->tap.numbers)
			goto failed;
		self->numbers = Py_NewRef(numbers);
	}
	if (!read_sender(sender, &self->tap.sender))
		goto failed;
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
	for (uint32_t n = 0; n < tap->matcher_count; n++) {
		free(tap->matchers[n].program);
		free(tap->matchers[n].sets);
		free(tap->matchers[n].candidates);
	}
	free(tap->matchers);
	free(tap->stretches);
	free(tap->members);
	free(tap->outlet_of);
	free(tap->outlets);
	free(tap->awaited);
	free(tap->shares);
	tap->matchers = NULL;
	tap->stretches = NULL;
	tap->members = NULL;
	tap->outlet_of = tap->awaited = NULL;
	tap->outlets = NULL;
	tap->shares = NULL;
	tap->count = tap->stretch_count = tap->matcher_count = tap->outlet_count = 0;
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
	Py_XDECREF(self->numbers);
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
	send_all(&work);
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

static PyObject *Tap_busiest(PyObject *object, PyObject *unused)
{
	struct tap *tap = &((Tap *)object)->tap;
	uint64_t frames = 0, octets = 0;

	(void)unused;
	for (uint32_t n = 0; n < tap->outlet_count; n++) {
		struct outlet *outlet = &tap->outlets[n];

		frames = outlet->frames > frames ? outlet->frames : frames;
		octets = outlet->octets > octets ? outlet->octets : octets;
		outlet->frames = outlet->octets = 0;
	}
	if (tap->split)
		Py_RETURN_NONE;
	return Py_BuildValue("KK", (unsigned long long)frames, (unsigned long long)octets);
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
	tap->outlet_of = calloc((size_t)count + 1, sizeof(*tap->outlet_of));
	if (!tap->members || !tap->outlet_of) {
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

/* Whether all that a matcher gives are members of the stretch. */
static bool fits(const struct tap *tap, const struct stretch *stretch)
{
	if (stretch->first >= tap->count || stretch->count > tap->count - stretch->first || !stretch->count ||
	    stretch->matcher >= (int)tap->matcher_count)
		return false;
	if (stretch->matcher < 0)
		return stretch->count == 1;
	const struct matcher *matcher = &tap->matchers[stretch->matcher];

	for (uint32_t n = 0; n < matcher->sets[matcher->set_count]; n++)
		if (matcher->candidates[n] >> 1 >= stretch->count)
			return false;
	return true;
}

static bool read_stretch(PyObject *object, struct stretch *stretch)
{
	return read_int(object, "device", &stretch->device) && read_u32(object, "first", &stretch->first) &&
	       read_u32(object, "members", &stretch->count) && read_int(object, "matcher", &stretch->matcher);
}

static bool read_stretches(PyObject *list, struct tap *tap)
{
	Py_ssize_t count = PyTuple_Size(list);

	if (count < 0)
		return false;
	tap->stretches = calloc((size_t)count + 1, sizeof(*tap->stretches));
	if (!tap->stretches) {
		PyErr_NoMemory();
		return false;
	}
	for (Py_ssize_t n = 0; n < count; n++) {
		struct stretch *stretch = &tap->stretches[n];

		if (!read_stretch(PyTuple_GetItem(list, n), stretch))
			return false;
		bool ascends = n == 0 || (stretch[-1].device > 0 && stretch[-1].device < stretch->device);

		if (!ascends || !fits(tap, stretch)) {
			PyErr_SetString(PyExc_ValueError, "a device whose members are none, or out of order");
			return false;
		}
	}
	tap->stretch_count = (uint32_t)count;
	if (tap->count && !count)
		PyErr_SetString(PyExc_ValueError, "members without a device");
	return !tap->count || count;
}

/* For the shares of as many frames as are at hand, where few want each; where many do, they are given out sooner. */
static bool make_room(struct tap *tap)
{
	uint32_t few = tap->outlet_count < FEW ? tap->outlet_count : FEW;

	tap->share_room = few * STAGED + tap->outlet_count;
	tap->shares = calloc((size_t)tap->share_room + 1, sizeof(*tap->shares));
	tap->outlets = calloc((size_t)tap->outlet_count + 1, sizeof(*tap->outlets));
	tap->awaited = calloc((size_t)tap->outlet_count + 1, sizeof(*tap->awaited));
	for (uint32_t n = 0; tap->outlets && n < tap->outlet_count; n++)
		tap->outlets[n].first = END;
	if (!tap->shares || !tap->outlets || !tap->awaited)
		PyErr_NoMemory();
	return tap->shares && tap->outlets && tap->awaited;
}

/* Members that leave by one way are of one outlet, so that what they send is in order; but of one device only one is, for
 * a frame is in each outlet once. */
static bool find_outlets(struct tap *tap)
{
	for (uint32_t n = 0; n < tap->count; n++)
		tap->members[n]->exits->outlet = UINT32_MAX;
	for (uint32_t s = 0; s < tap->stretch_count; s++) {
		const struct stretch *stretch = &tap->stretches[s];

		for (uint32_t n = stretch->first; n < stretch->first + stretch->count; n++) {
			struct exits *exits = tap->members[n]->exits;

			if (exits->outlet == UINT32_MAX) {
				exits->outlet = tap->outlet_count++;
			} else if (exits->stretch == s) {
				tap->outlet_of[n] = tap->outlet_count++;
				tap->split = true;
				continue;
			}
			exits->stretch = s;
			tap->outlet_of[n] = exits->outlet;
		}
	}
	return make_room(tap);
}

static PyObject *Tap_have(PyObject *object, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "members", "matchers", "stretches", NULL };
	Tap *self = (Tap *)object;
	PyObject *list, *matchers, *stretches;
	struct tap next = { .count = 0 }, *tap = &self->tap;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$OOO", names, &list, &matchers, &stretches))
		return NULL;
	if (!read_members(list, &next) || !read_matchers(matchers, &next) || !read_stretches(stretches, &next) ||
	    !find_outlets(&next)) {
		clear_members(&next);
		return NULL;
	}
	clear_members(tap);
	tap->members = next.members;
	tap->count = next.count;
	tap->eager = false;
	for (uint32_t n = 0; n < next.count; n++)
		tap->eager |= next.members[n]->file.output != NULL;
	tap->stretches = next.stretches;
	tap->stretch_count = next.stretch_count;
	tap->matchers = next.matchers;
	tap->matcher_count = next.matcher_count;
	tap->outlet_of = next.outlet_of;
	tap->outlets = next.outlets;
	tap->split = next.split;
	tap->outlet_count = next.outlet_count;
	tap->shares = next.shares;
	tap->share_room = next.share_room;
	tap->awaited = next.awaited;
	tap->awaited_count = tap->share_count = 0;
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
	{ "busiest", Tap_busiest, METH_NOARGS,
	  "busiest(): the most frames, and bytes, that one way out may have had since this was last asked; None where that is\n"
	  "not known." },
	{ "move", (PyCFunction)(void (*)(void))Tap_move, METH_VARARGS | METH_KEYWORDS,
	  "move(*, descriptor, ring, block_size): read another packet socket from now on." },
	{ "have", (PyCFunction)(void (*)(void))Tap_have, METH_VARARGS | METH_KEYWORDS,
	  "have(*, members, matchers, stretches): give frames to these from now on; what was captured before `since`, or not\n"
	  "before `until`, in nanoseconds since 1970, is not theirs. Members of a device follow one another, see tap.py:\n"
	  "Stretch; devices ascend. A matcher's program gives the number of a set of those that may want a frame, see\n"
	  "several.py; places count from the stretch's first member on." },
	{ NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(
	tap_doc,
	"Tap(*, descriptor, ring, block_size, seen, tunnel, ip_header, ..., sender)\n\n"
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

/* Single steps on single frames, for what holds the two planes together: the forward step, and decapsulation. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "module.h"

typedef struct {
	PyObject_HEAD
	struct plan plan;
	struct state state;
	uint32_t sequence;
} Forward;

static PyObject *Forward_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	PyObject *object, *matcher;

	(void)keywords;
	if (!PyArg_ParseTuple(arguments, "OO", &object, &matcher))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Forward *self = (Forward *)allocate(type, 0);
	if (self && !read_plan(object, matcher, &self->plan)) {
		Py_DECREF(self);
		return NULL;
	}
	if (self) {
		fill_buckets(&self->plan, &self->state);
		self->state.sequence = &self->sequence;
	}
	return (PyObject *)self;
}

static void Forward_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	clear_plan(&((Forward *)object)->plan);
	release(object);
	Py_DECREF(type);
}

/* Move a batch's copies to a Python list. */
static void collect(struct batch *batch, void *list)
{
	for (uint32_t n = 0; n < batch->count; n++) {
		const struct message *message = &batch->messages[n];
		PyObject *head = PyBytes_FromStringAndSize((const char *)message->head, message->head_length);
		PyObject *tail = PyBytes_FromStringAndSize((const char *)message->tail, message->tail_length);

		PyObject *trailer = PyBytes_FromStringAndSize((const char *)room_of(batch, message)->trailer, message->trailer_length);

		if (head && tail)
			PyBytes_Concat(&head, tail);
		if (head && trailer)
			PyBytes_Concat(&head, trailer);
		if (head && tail && trailer)
			PyList_Append(list, head);
		Py_XDECREF(head);
		Py_XDECREF(trailer);
		Py_XDECREF(tail);
	}
	batch->count = 0;
}

static PyObject *Forward_call(PyObject *object, PyObject *arguments, PyObject *keywords)
{
	Forward *self = (Forward *)object;
	const char *data, *vnet;
	Py_ssize_t length, vnet_length;
	unsigned int wire_length, tpid, tci;
	int egress, tagged;
	unsigned long long time;

	(void)keywords;
	if (!PyArg_ParseTuple(arguments, "y#IppIIy#K", &data, &length, &wire_length, &egress, &tagged, &tpid, &tci,
			      &vnet, &vnet_length, &time))
		return NULL;
	if (vnet_length != sizeof(struct vnet)) {
		PyErr_SetString(PyExc_ValueError, "a vnet header has 10 bytes");
		return NULL;
	}
	/* In memory of exactly its length, so that a sanitizer sees a read past its end. */
	uint8_t *exact = malloc(length ? (size_t)length : 1);
	struct batch *batch = malloc(sizeof(*batch));
	PyObject *copies = PyList_New(0);
	uint64_t counters[SLOTS] = { 0 };
	if (exact && batch && copies) {
		struct parsed parsed = { .hashed = false };
		struct frame frame = { .data = exact, .captured = (uint32_t)length, .length = wire_length,
				       .egress = egress, .tagged = tagged, .tpid = (uint16_t)tpid,
				       .tci = (uint16_t)tci, .time = time };

		memcpy(exact, data, (size_t)length);
		memcpy(&frame.vnet, vnet, sizeof(frame.vnet));
		batch->count = 0;
		batch->flush = collect;
		batch->context = copies;
		parse(&frame, &parsed.headers);
		unsigned long long flow = flow_hash(&parsed.headers);	/* before the memory goes that the addresses lie in */
		int reason = SKIPPED_UNMATCHED;
		if (wants(&self->plan, &frame))
			reason = forward(&self->plan, &self->state, &frame, &parsed, batch, counters);
		collect(batch, copies);
		free(exact);
		free(batch);
		return Py_BuildValue("NKiIIIII", copies, flow, reason, (unsigned int)counters[TRUNCATED],
				     (unsigned int)counters[SEGMENTED], (unsigned int)counters[FRAGMENTED],
				     (unsigned int)counters[UNPLACED], (unsigned int)counters[FLOW_TABLE_FULL]);
	}
	free(exact);
	free(batch);
	Py_XDECREF(copies);
	return PyErr_NoMemory();
}

PyDoc_STRVAR(forward_doc, "Forward(plan, matcher)(data, length, egress, tagged, tpid, tci, vnet, time)\n\n"
			  "The forward step on one frame: (copies, flow, reason or -1, truncated, segmented, fragmented,\n"
			  "unplaced, flow_table_full).");

static PyType_Slot forward_slots[] = {
	{ Py_tp_doc, (void *)forward_doc },
	{ Py_tp_new, Forward_new },
	{ Py_tp_dealloc, Forward_dealloc },
	{ Py_tp_call, Forward_call },
	{ 0, NULL },
};

PyType_Spec forward_spec = {
	.name = "mirrord.dataplane._native.Forward",
	.basicsize = sizeof(Forward),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = forward_slots,
};

PyObject *decapsulate_one(PyObject *module, PyObject *arguments)
{
	const char *bytes;
	Py_ssize_t length;
	unsigned int tunnel, limit;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "Iy#I", &tunnel, &bytes, &length, &limit))
		return NULL;
	/* In memory of exactly its length, so that a sanitizer sees a read past its end. */
	uint8_t *packet = malloc(length ? (size_t)length : 1);
	if (!packet)
		return PyErr_NoMemory();
	struct frame frame = { 0 };
	PyObject *found = NULL;

	memcpy(packet, bytes, (size_t)length);
	if (decapsulate((enum tunnel)tunnel, &frame, packet, (uint32_t)length)) {
		unfinished(&frame, limit);
		found = Py_BuildValue("y#y#", frame.data, (Py_ssize_t)frame.captured, &frame.vnet,
				      (Py_ssize_t)sizeof(frame.vnet));
	}
	free(packet);
	return found || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}

/* Single steps on single frames, for what holds the two planes together: the forward step, what a device without Ethernet
 * lacks, and decapsulation. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "fields.h"
#include "module.h"

typedef struct {
	PyObject_HEAD
	struct plan plan;
	struct state state;
	uint32_t sequences[2 * MAX_REMOTES];
	PyObject *duplicates; /* or NULL */
} Forward;

static PyObject *Forward_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	PyObject *object, *matcher, *recorder = Py_None;

	(void)keywords;
	if (!PyArg_ParseTuple(arguments, "OO|O", &object, &matcher, &recorder))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Forward *self = (Forward *)allocate(type, 0);
	if (self && !read_plan(object, matcher, recorder, &self->plan)) {
		Py_DECREF(self);
		return NULL;
	}
	if (self) {
		fill_buckets(&self->plan, &self->state);
		self->state.sequences = self->sequences;
	}
	return (PyObject *)self;
}

static void Forward_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	clear_plan(&((Forward *)object)->plan);
	Py_XDECREF(((Forward *)object)->duplicates);
	release(object);
	Py_DECREF(type);
}

/* What has become of a frame so far. */
struct collected {
	PyObject *copies; /* a list */
	uint64_t flow;
	int remote; /* or NONE, where there are no copies */
};

/* The places of the collectors that a frame's copies are for. */
static PyObject *recipients(const struct remotes *remotes, int remote)
{
	PyObject *places = PyList_New(0), *tuple;

	for (uint32_t n = 0; places && n < (remotes->count ? remotes->count : 1); n++) {
		bool is_one = remote == EACH ? remotes->alive[n] : remote == (int)n;
		PyObject *place = is_one ? PyLong_FromUnsignedLong(n) : NULL;

		if (place)
			PyList_Append(places, place);
		Py_XDECREF(place);
	}
	tuple = places ? PyList_AsTuple(places) : NULL;
	Py_XDECREF(places);
	return tuple;
}

/* Move a batch's copies to a Python list. */
static void collect(struct batch *batch, void *context)
{
	struct collected *collected = context;
	PyObject *list = collected->copies;

	for (uint32_t n = 0; n < batch->count; n++) {
		const struct message *message = &batch->messages[n];
		PyObject *head = PyBytes_FromStringAndSize((const char *)message->head, message->head_length);
		PyObject *tail = PyBytes_FromStringAndSize((const char *)message->tail, message->tail_length);

		PyObject *zeros = PyBytes_FromStringAndSize(NULL, message->zeros);
		PyObject *trailer = PyBytes_FromStringAndSize((const char *)room_of(batch, message)->trailer,
							      message->trailer_length);

		if (zeros)
			memset(PyBytes_AsString(zeros), 0, message->zeros);
		if (head && tail)
			PyBytes_Concat(&head, tail);
		if (head && zeros)
			PyBytes_Concat(&head, zeros);
		if (head && trailer)
			PyBytes_Concat(&head, trailer);
		if (head && tail && zeros && trailer)
			PyList_Append(list, head);
		collected->flow = message->flow;
		collected->remote = message->remote;
		Py_XDECREF(head);
		Py_XDECREF(trailer);
		Py_XDECREF(zeros);
		Py_XDECREF(tail);
	}
	batch->count = 0;
}

static PyStructSequence_Field outcome_field[] = {
	{ "copies", "A list of bytes." },
	{ "flow", "The hash of the frame's flow." },
	{ "reason", "The slot of why there are no copies, or None." },
	{ "truncated", "As of step.py's Outcome; so are the next." },
	{ "segmented", NULL },
	{ "fragmented", NULL },
	{ "zeroed", NULL },
	{ "unfollowed", NULL },
	{ "unplaced", NULL },
	{ "flow_table_full", NULL },
	{ "to", NULL },
	{ NULL, NULL },
};

enum { OUTCOME_FIELDS = sizeof(outcome_field) / sizeof(*outcome_field) - 1 };

PyStructSequence_Desc outcome_fields = { "mirrord.dataplane._native.Outcome", "What one frame became.", outcome_field,
					 OUTCOME_FIELDS };
PyTypeObject *outcome_type;

/* The virtio_net header of a frame, from its fields. */
static bool read_vnet(PyObject *object, struct vnet *vnet)
{
	PyObject *fields = PyObject_GetAttrString(object, "vnet");
	uint64_t flags, gso_type, header_length, gso_size, csum_start, csum_offset;
	bool done = fields && read_unsigned(fields, "flags", UINT8_MAX, &flags) &&
		    read_unsigned(fields, "gso_type", UINT8_MAX, &gso_type) &&
		    read_unsigned(fields, "header_length", UINT16_MAX, &header_length) &&
		    read_unsigned(fields, "gso_size", UINT16_MAX, &gso_size) &&
		    read_unsigned(fields, "csum_start", UINT16_MAX, &csum_start) &&
		    read_unsigned(fields, "csum_offset", UINT16_MAX, &csum_offset);

	Py_XDECREF(fields);
	if (done)
		*vnet = (struct vnet){ (uint8_t)flags,	   (uint8_t)gso_type,	 (uint16_t)header_length,
				       (uint16_t)gso_size, (uint16_t)csum_start, (uint16_t)csum_offset };
	return done;
}

static bool read_tag(PyObject *object, struct frame *frame)
{
	PyObject *tag = PyObject_GetAttrString(object, "tag");
	uint64_t tpid = 0, tci = 0;
	bool done = tag == Py_None || (tag && read_unsigned(tag, "tpid", UINT16_MAX, &tpid) &&
				       read_unsigned(tag, "tci", UINT16_MAX, &tci));

	frame->tagged = tag != Py_None;
	frame->tpid = (uint16_t)tpid;
	frame->tci = (uint16_t)tci;
	Py_XDECREF(tag);
	return done;
}

static bool read_told(PyObject *object, struct told *told)
{
	PyObject *fields = PyObject_GetAttrString(object, "told");
	uint64_t direction, vlan, cos, en;
	bool done = fields && read_unsigned(fields, "direction", TOLD_EGRESS, &direction) &&
		    read_unsigned(fields, "time", UINT64_MAX, &told->time) &&
		    read_unsigned(fields, "vlan", 0xFFF, &vlan) && read_unsigned(fields, "cos", 7, &cos) &&
		    read_unsigned(fields, "en", 3, &en) && read_bool(fields, "truncated", &told->truncated) &&
		    read_u32(fields, "device", &told->device);

	Py_XDECREF(fields);
	if (done) {
		told->direction = (uint8_t)direction;
		told->vlan = (uint16_t)vlan;
		told->cos = (uint8_t)cos;
		told->en = (uint8_t)en;
	}
	return done;
}

/* A Frame of wire.py. Its bytes are in memory of exactly their length, so that a sanitizer sees a read past their end: the
 * caller's to free, whatever is returned. */
static bool read_frame(PyObject *object, struct frame *frame, uint8_t **memory)
{
	PyObject *data = PyObject_GetAttrString(object, "data");
	char *bytes;
	Py_ssize_t length;
	bool done = data && PyBytes_AsStringAndSize(data, &bytes, &length) == 0;

	if (done) {
		*memory = malloc(length ? (size_t)length : 1);
		if (*memory)
			memcpy(*memory, bytes, (size_t)length);
		else
			PyErr_NoMemory();
		frame->data = *memory;
		frame->captured = (uint32_t)length;
	}
	Py_XDECREF(data);
	return done && *memory && read_u32(object, "length", &frame->length) &&
	       read_bool(object, "egress", &frame->egress) && read_tag(object, frame) &&
	       read_vnet(object, &frame->vnet) && read_told(object, &frame->told) &&
	       read_unsigned(object, "time", UINT64_MAX, &frame->time);
}

static PyObject *forward_frame(Forward *self, const struct frame *frame, struct batch *batch)
{
	struct collected collected = { .copies = PyList_New(0), .remote = NONE };
	uint64_t counters[SLOTS] = { 0 };
	struct parsed parsed = { .hashed = false };
	int reason = SKIPPED_UNMATCHED;

	if (!collected.copies)
		return NULL;
	batch->count = 0;
	batch->counters = counters;
	batch->flush = collect;
	batch->context = &collected;
	parse(frame, &parsed.headers);
	collected.flow = flow_hash(&parsed.headers);
	if (wants(&self->plan, frame, &parsed.headers))
		reason = forward(&self->plan, &self->state, frame, &parsed, batch);
	collect(batch, &collected);
	PyObject *values[] = { collected.copies,
			       PyLong_FromUnsignedLongLong(collected.flow),
			       reason == NO_REASON ? Py_NewRef(Py_None) : PyLong_FromLong(reason),
			       PyLong_FromUnsignedLongLong(counters[TRUNCATED]),
			       PyLong_FromUnsignedLongLong(counters[SEGMENTED]),
			       PyLong_FromUnsignedLongLong(counters[FRAGMENTED]),
			       PyLong_FromUnsignedLongLong(counters[ZEROED]),
			       PyLong_FromUnsignedLongLong(counters[UNFOLLOWED]),
			       PyLong_FromUnsignedLongLong(counters[UNPLACED]),
			       PyLong_FromUnsignedLongLong(counters[FLOW_TABLE_FULL]),
			       recipients(&self->plan.remotes, collected.remote) };

	_Static_assert(sizeof(values) / sizeof(*values) == OUTCOME_FIELDS, "a value for each field");
	return new_named(outcome_type, values, OUTCOME_FIELDS);
}

static PyObject *Forward_call(PyObject *object, PyObject *arguments, PyObject *keywords)
{
	struct batch *batch = malloc(sizeof(*batch));
	struct frame frame = { 0 };
	uint8_t *memory = NULL;
	PyObject *given, *outcome = NULL;

	(void)keywords;
	if (!batch)
		PyErr_NoMemory();
	else if (PyArg_ParseTuple(arguments, "O", &given) && read_frame(given, &frame, &memory))
		outcome = forward_frame((Forward *)object, &frame, batch);
	free(memory);
	free(batch);
	return outcome;
}

static PyObject *Forward_watch(PyObject *object, PyObject *arguments)
{
	Forward *self = (Forward *)object;

	return watch_duplicates(arguments, &self->duplicates, &self->state) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *Forward_guard(PyObject *object, PyObject *packed)
{
	return guard(&((Forward *)object)->plan, packed) ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef forward_methods[] = {
	{ "guard", Forward_guard, METH_O, "guard(packed): as Pipeline's." },
	{ "watch", Forward_watch, METH_VARARGS, "watch(duplicates, place): as Pipeline's." },
	{ NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(forward_doc, "Forward(plan, matcher)(frame): the forward step on one frame, an Outcome.");

static PyType_Slot forward_slots[] = {
	{ Py_tp_doc, (void *)forward_doc }, { Py_tp_new, Forward_new },		{ Py_tp_dealloc, Forward_dealloc },
	{ Py_tp_call, Forward_call },	    { Py_tp_methods, forward_methods }, { 0, NULL },
};

PyType_Spec forward_spec = {
	.name = "mirrord.dataplane._native.Forward",
	.basicsize = sizeof(Forward),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = forward_slots,
};

static PyStructSequence_Field unwrapped_field[] = {
	{ "data", "The frame inside." },
	{ "vnet", "What its sender left to a device, as struct virtio_net_hdr." },
	{ "told", "What is told of it: the fields of told.py's Told." },
	{ NULL, NULL },
};

PyStructSequence_Desc unwrapped_fields = { "mirrord.dataplane._native.Unwrapped", "What a tunnel's packet carries.",
					   unwrapped_field, 3 };
PyTypeObject *unwrapped_type;

static PyObject *told_of(const struct told *told)
{
	PyObject *number = told->numbered ? PyLong_FromUnsignedLong(told->number) : Py_NewRef(Py_None);

	return Py_BuildValue("iKiiiiIIN", told->direction, (unsigned long long)told->time, told->vlan, told->cos,
			     told->en, told->truncated, told->device, told->ident, number);
}

PyObject *decapsulate_one(PyObject *module, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "tunnel", "packet", "limit", NULL };
	PyObject *given, *found = NULL;
	char *bytes;
	Py_ssize_t length;
	unsigned int tunnel, limit;

	(void)module;
	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$ISI", names, &tunnel, &given, &limit) ||
	    PyBytes_AsStringAndSize(given, &bytes, &length) < 0)
		return NULL;
	/* In memory of exactly its length, so that a sanitizer sees a read past its end. */
	uint8_t *packet = malloc(length ? (size_t)length : 1);
	if (!packet)
		return PyErr_NoMemory();
	struct frame frame = { 0 };

	memcpy(packet, bytes, (size_t)length);
	if (decapsulate((enum tunnel)tunnel, &frame, packet, (uint32_t)length)) {
		unfinished(&frame, limit);
		PyObject *values[] = { PyBytes_FromStringAndSize((const char *)frame.data, frame.captured),
				       PyBytes_FromStringAndSize((const char *)&frame.vnet, sizeof(frame.vnet)),
				       told_of(&frame.told) };

		found = new_named(unwrapped_type, values, 3);
	} else {
		found = Py_NewRef(Py_None);
	}
	free(packet);
	return found;
}

PyObject *with_ethernet(PyObject *module, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "packet", "vnet", "protocol", NULL };
	const char *bytes, *vnet;
	Py_ssize_t length, vnet_length;
	unsigned int protocol;

	(void)module;
	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$y#y#I", names, &bytes, &length, &vnet, &vnet_length,
					 &protocol))
		return NULL;
	if (vnet_length != sizeof(struct vnet)) {
		PyErr_SetString(PyExc_ValueError, "a vnet header has 10 bytes");
		return NULL;
	}
	/* In memory of exactly its length and the header's, so that a sanitizer sees an access beyond. */
	uint8_t *memory = malloc((size_t)length + ETH_HEADER);
	if (!memory)
		return PyErr_NoMemory();
	uint8_t *packet = memory + ETH_HEADER;
	struct frame frame = { .data = packet, .captured = (uint32_t)length, .length = (uint32_t)length };

	memcpy(packet, bytes, (size_t)length);
	memcpy(&frame.vnet, vnet, sizeof(frame.vnet));
	put_ethernet(&frame, packet, (uint16_t)protocol);
	PyObject *values[] = { PyBytes_FromStringAndSize((const char *)frame.data, frame.captured),
			       PyBytes_FromStringAndSize((const char *)&frame.vnet, sizeof(frame.vnet)) };

	free(memory);
	return new_named(unwrapped_type, values, 2);
}

PyObject *classify_one(PyObject *module, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "frame", "pvid", NULL };
	struct frame frame = { 0 };
	uint8_t *memory = NULL;
	PyObject *given, *tag = NULL;
	unsigned int pvid;

	(void)module;
	if (PyArg_ParseTupleAndKeywords(arguments, keywords, "$OI", names, &given, &pvid) &&
	    read_frame(given, &frame, &memory)) {
		classify(&frame, (uint16_t)pvid);
		tag = frame.tagged ? Py_BuildValue("HH", frame.tpid, frame.tci) : Py_NewRef(Py_None);
	}
	free(memory);
	return tag;
}

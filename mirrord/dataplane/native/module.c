/* The core's face to Python: a plan and memory in, counters out. Limited API of CPython 3.11. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>

#include "fields.h"
#include "forward/table.h"
#include "module.h"

typedef struct {
	PyObject_HEAD
	struct pipeline pipeline;
	Py_buffer counters, sequence, output, queues;
	Py_buffer *tx_rings; /* one for each way, empty where it has none */
	PyObject *callback; /* gives the next file, or a lane its socket */
	PyObject *beside; /* whose state it shares, or NULL */
	PyObject *leader; /* whose way out it shares, or NULL */
	PyObject *duplicates; /* or NULL */
} Pipeline;

/* Called in the middle of a turn, which runs without the GIL. */
static void call_next_file(void *self)
{
	PyGILState_STATE state = PyGILState_Ensure();
	PyObject *done = PyObject_CallNoArgs(((Pipeline *)self)->callback);

	if (!done) {
		PyErr_WriteUnraisable(((Pipeline *)self)->callback);
		((Pipeline *)self)->pipeline.file.output->error = EIO;
	}
	Py_XDECREF(done);
	PyGILState_Release(state);
}

static void call_open_lane(void *self, uint32_t place, uint32_t lane)
{
	PyGILState_STATE state = PyGILState_Ensure();
	struct transmit *transmit = &((Pipeline *)self)->pipeline.own_exits.transmits[place];
	PyObject *opened = PyObject_CallFunction(((Pipeline *)self)->callback, "II", place, lane);

	if (!opened || !open_lane(opened, transmit, lane))
		PyErr_WriteUnraisable(((Pipeline *)self)->callback);
	Py_XDECREF(opened);
	PyGILState_Release(state);
}

static bool open_output(Pipeline *self, PyObject *output)
{
	if (PyObject_GetBuffer(output, &self->output, PyBUF_WRITABLE) < 0)
		return false;
	if (self->output.len != sizeof(struct output)) {
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		return false;
	}
	self->pipeline.file = (struct file){ .output = self->output.buf, .next = call_next_file, .context = self };
	return true;
}

static bool open_queues(Pipeline *self, PyObject *queues)
{
	if (PyObject_GetBuffer(queues, &self->queues, PyBUF_WRITABLE) < 0)
		return false;
	if (self->queues.len != sizeof(struct queues)) {
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		return false;
	}
	self->pipeline.queued.queues = self->queues.buf;
	return true;
}

static PyObject *Pipeline_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "plan", "ways", "counters", "sequence", "output", "queues", "callback", NULL };
	PyObject *plan, *ways, *counters, *sequence, *output, *queues, *callback;

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$OOOOOOO", names, &plan, &ways, &counters, &sequence,
					 &output, &queues, &callback))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Pipeline *self = (Pipeline *)allocate(type, 0);
	if (!self)
		return NULL;
	struct pipeline *pipeline = &self->pipeline;
	if (!read_plan(plan, Py_None, Py_None, &pipeline->plan) ||
	    !read_ways(ways, &pipeline->own_exits, &self->tx_rings) ||
	    PyObject_GetBuffer(counters, &self->counters, PyBUF_WRITABLE) < 0 ||
	    PyObject_GetBuffer(sequence, &self->sequence, PyBUF_WRITABLE) < 0 ||
	    (output != Py_None && !open_output(self, output)) || (queues != Py_None && !open_queues(self, queues)))
		goto failed;
	/* Of several collectors there may be no way to any yet. */
	bool sends = pipeline->own_exits.count > 1 || pipeline->own_exits.transmits->lanes;
	if (!pipeline->file.output && !pipeline->queued.queues && !sends) {
		PyErr_SetString(PyExc_ValueError, "neither sockets, an output nor queues");
		goto failed;
	}
	if (self->counters.len != COUNTER_ROW * (Py_ssize_t)sizeof(uint64_t) ||
	    self->sequence.len != 2 * MAX_REMOTES * sizeof(uint32_t)) {
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		goto failed;
	}
	pipeline->counters = self->counters.buf;
	self->callback = Py_NewRef(callback);
	pipeline->exits = &pipeline->own_exits;
	for (uint32_t n = 0; n < pipeline->exits->count; n++) {
		pipeline->exits->transmits[n].open_lane = call_open_lane;
		pipeline->exits->transmits[n].context = self;
	}
	follow_plan(pipeline->exits, &pipeline->plan);
	fill_buckets(&pipeline->plan, &pipeline->own);
	pipeline->own.sequences = self->sequence.buf;
	pipeline->state = &pipeline->own;
	return (PyObject *)self;
failed:
	Py_DECREF(self);
	return NULL;
}

static void Pipeline_dealloc(PyObject *object)
{
	Pipeline *self = (Pipeline *)object;
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	PyBuffer_Release(&self->counters);
	PyBuffer_Release(&self->sequence);
	PyBuffer_Release(&self->output);
	PyBuffer_Release(&self->queues);
	clear_exits(&self->pipeline.own_exits, self->tx_rings);
	Py_XDECREF(self->callback);
	Py_XDECREF(self->beside);
	Py_XDECREF(self->leader);
	Py_XDECREF(self->duplicates);
	clear_plan(&self->pipeline.plan);
	release(object);
	Py_DECREF(type);
}

struct pipeline *pipeline_in(PyObject *object)
{
	if (PyType_GetSlot(Py_TYPE(object), Py_tp_dealloc) != (void *)Pipeline_dealloc) {
		PyErr_SetString(PyExc_TypeError, "not a pipeline");
		return NULL;
	}
	return &((Pipeline *)object)->pipeline;
}

/* The pipeline that has the way out which this one leaves by. */
static Pipeline *leader_of(Pipeline *self)
{
	return self->leader ? (Pipeline *)self->leader : self;
}

/* Send by the next ways, which are as many: what the ones before have begun goes on. */
static void replace_exits(Pipeline *leader, struct exits *next, Py_buffer *rings)
{
	struct exits *exits = &leader->pipeline.own_exits;

	for (uint32_t n = 0; n < exits->count; n++) {
		struct transmit *before = &exits->transmits[n], *after = &next->transmits[n];

		if (rings[n].obj == leader->tx_rings[n].obj)
			after->ring.next = before->ring.next;
		after->open_lane = before->open_lane;
		after->context = before->context;
		after->outer.id = before->outer.id;
		after->jammed = before->jammed;
	}
	next->outlet = exits->outlet;
	next->stretch = exits->stretch;
	next->batch = exits->batch;
	next->pile = exits->pile;
	clear_exits(exits, leader->tx_rings);
	leader->tx_rings = rings;
	*exits = *next;
}

static PyObject *Pipeline_replace(PyObject *object, PyObject *arguments, PyObject *keywords)
{
	static char *names[] = { "plan", "matcher", "recorder", "ways", "shares", NULL };
	Pipeline *self = (Pipeline *)object;
	struct pipeline *pipeline = &self->pipeline;
	PyObject *plan, *matcher, *recorder, *ways;
	int shares;
	struct exits exits = { .count = 0 };
	struct plan next = { 0 };
	Py_buffer *rings = NULL;
	Pipeline *leader = leader_of(self);

	if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "$OOOOp", names, &plan, &matcher, &recorder, &ways,
					 &shares) ||
	    !read_ways(ways, &exits, &rings) || !read_plan(plan, matcher, recorder, &next) ||
	    exits.count != leader->pipeline.own_exits.count) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "another number of ways");
		clear_exits(&exits, rings);
		clear_plan(&next);
		return NULL;
	}
	replace_plan(&pipeline->plan, &next);
	pipeline->shares = shares;
	replace_exits(leader, &exits, rings);
	follow_plan(&leader->pipeline.own_exits, &pipeline->plan);
	Py_RETURN_NONE;
}

static PyObject *Pipeline_guard(PyObject *object, PyObject *packed)
{
	return guard(&((Pipeline *)object)->pipeline.plan, packed) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *Pipeline_gso_refused(PyObject *object, PyObject *unused)
{
	(void)unused;
	const struct exits *exits = ((Pipeline *)object)->pipeline.exits;
	int error = 0;

	for (uint32_t n = 0; n < exits->count && !error; n++)
		error = exits->transmits[n].gso_refused;
	return PyLong_FromLong(error);
}

static PyObject *Pipeline_share(PyObject *object, PyObject *other)
{
	Pipeline *self = (Pipeline *)object;

	if (!Py_IS_TYPE(other, Py_TYPE(object)) || self->beside) {
		PyErr_SetString(PyExc_TypeError, "shares once, with another pipeline");
		return NULL;
	}
	self->beside = Py_NewRef(other);
	self->pipeline.state = ((Pipeline *)other)->pipeline.state;
	self->pipeline.state->shared = true;
	Py_RETURN_NONE;
}

static PyObject *Pipeline_flows(PyObject *object, PyObject *unused)
{
	const struct flows *flows = ((Pipeline *)object)->pipeline.plan.flows;

	(void)unused;
	return PyLong_FromUnsignedLong(flows ? count_flows(flows) : 0);
}

static PyObject *flow_skipped(const struct skipped *skipped)
{
	const struct pair *pair = skipped->pair;
	Py_ssize_t length = pair->family == 6 ? 16 : 4;

	return Py_BuildValue("i(y#i)(y#i)K", pair->kind, (const char *)pair->ends, length, pair->ports[0],
			     (const char *)(pair->ends + 2), length, pair->ports[1],
			     (unsigned long long)skipped->octets);
}

static PyObject *Pipeline_take_skipped(PyObject *object, PyObject *unused)
{
	struct flows *flows = ((Pipeline *)object)->pipeline.plan.flows;
	struct skipped skipped[BUSIEST];
	uint32_t count = flows ? take_skipped(flows, skipped) : 0;
	PyObject *list = PyList_New(0);

	(void)unused;
	for (uint32_t n = 0; list && n < count; n++) {
		PyObject *one = flow_skipped(&skipped[n]);

		if (!one || PyList_Append(list, one) < 0)
			Py_CLEAR(list);
		Py_XDECREF(one);
	}
	return list;
}

static PyObject *Pipeline_leave_with(PyObject *object, PyObject *other)
{
	Pipeline *self = (Pipeline *)object;

	if (!Py_IS_TYPE(other, Py_TYPE(object)) || self->leader || other == object) {
		PyErr_SetString(PyExc_TypeError, "leaves once, with another pipeline");
		return NULL;
	}
	self->leader = Py_NewRef((PyObject *)leader_of((Pipeline *)other));
	self->pipeline.exits = ((Pipeline *)other)->pipeline.exits;
	Py_RETURN_NONE;
}

static PyObject *Pipeline_sampling_rate(PyObject *object, PyObject *unused)
{
	const struct pipeline *pipeline = &((Pipeline *)object)->pipeline;

	(void)unused;
	return PyLong_FromUnsignedLong(rate_in_force(&pipeline->plan, pipeline->state));
}

static PyObject *Pipeline_watch(PyObject *object, PyObject *arguments)
{
	Pipeline *self = (Pipeline *)object;

	return watch_duplicates(arguments, &self->duplicates, &self->pipeline.own) ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef pipeline_methods[] = {
	{ "replace", (PyCFunction)(void (*)(void))Pipeline_replace, METH_VARARGS | METH_KEYWORDS,
	  "replace(*, plan, matcher, recorder, ways, shares): forward by another plan, and other ways, from now on, and keep\n"
	  "the copies in this ring (recorder.py) or None; `shares`: what the matcher does not want is another session's." },
	{ "guard", Pipeline_guard, METH_O, "guard(packed): skip what these guards tell (own_copies.py) from now on." },
	{ "gso_refused", Pipeline_gso_refused, METH_NOARGS,
	  "The errno that the kernel refused GSO with, after which copies leave one by one; or 0." },
	{ "sampling_rate", Pipeline_sampling_rate, METH_NOARGS, "The sampling rate in force." },
	{ "flows", Pipeline_flows, METH_NOARGS, "How many flows are known." },
	{ "take_skipped", Pipeline_take_skipped, METH_NOARGS,
	  "The busiest flows that their limit has skipped since this was last asked: protocol, ends, bytes." },
	{ "leave_with", Pipeline_leave_with, METH_O,
	  "leave_with(pipeline): send by its way out, which is described alike. Before either runs, and on its thread ever "
	  "after." },
	{ "watch", Pipeline_watch, METH_VARARGS,
	  "watch(duplicates, place): remember copies there, as of this source. Before it runs." },
	{ "share", Pipeline_share, METH_O, "share(pipeline): use its rate limit's bucket. Before either runs." },
	{ NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(
	pipeline_doc,
	"Pipeline(*, plan, ways, counters, sequence, output, queues, callback)\n\n"
	"The way of the frames that one session wants of a tap, to transmits (see way.py; callback(way, n) opens a\n"
	"lane, see lanes.py), to a file (output, see file.py; callback() is called when it is full), or into queues (queue.py).\n"
	"The caller keeps them open, and lets one thread at a time in.");

static PyType_Slot pipeline_slots[] = {
	{ Py_tp_doc, (void *)pipeline_doc },
	{ Py_tp_new, Pipeline_new },
	{ Py_tp_dealloc, Pipeline_dealloc },
	{ Py_tp_methods, pipeline_methods },
	{ 0, NULL },
};

static PyType_Spec pipeline_spec = {
	.name = "mirrord.dataplane._native.Pipeline",
	.basicsize = sizeof(Pipeline),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = pipeline_slots,
};

/* A ring's row, see recorder.py. */
static PyObject *recorded(PyObject *module, PyObject *row)
{
	Py_buffer view;

	(void)module;
	if (PyObject_GetBuffer(row, &view, PyBUF_WRITABLE) < 0)
		return NULL;
	if (view.len != sizeof(struct recorded)) {
		PyBuffer_Release(&view);
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		return NULL;
	}
	struct recorded found = read_recorded(view.buf);
	PyBuffer_Release(&view);
	return Py_BuildValue("KKK", (unsigned long long)found.head, (unsigned long long)found.tail,
			     (unsigned long long)found.evicted);
}

static PyMethodDef module_methods[] = {
	{ "duplicates", make_duplicates, METH_NOARGS, "duplicates(): memory for what was copied, see duplicates.py." },
	{ "recorded", recorded, METH_O,
	  "recorded(row): the head, the tail and the evicted blocks of a ring, between two blocks." },
	{ "classify", (PyCFunction)(void (*)(void))classify_one, METH_VARARGS | METH_KEYWORDS,
	  "classify(*, frame, pvid): the frame's tag, (tpid, tci) or None, on a bridge's port." },
	{ "with_ethernet", (PyCFunction)(void (*)(void))with_ethernet, METH_VARARGS | METH_KEYWORDS,
	  "with_ethernet(*, packet, vnet, protocol): Unwrapped, of a device without Ethernet." },
	{ "decapsulate", (PyCFunction)(void (*)(void))decapsulate_one, METH_VARARGS | METH_KEYWORDS,
	  "decapsulate(*, tunnel, packet, limit): Unwrapped, or None for a malformed packet." },
	{ NULL, NULL, 0, NULL },
};

/* The enumerations' names, in the order of C's. */
static const char *const slot_names[] = {
	"captured",
	"read_ingress_frames",
	"read_ingress_bytes",
	"read_egress_frames",
	"read_egress_bytes",
	"mirrored",
	"sent_packets",
	"sent_bytes",
	"skipped_sampled_out",
	"skipped_rate_limited",
	"skipped_paused",
	"skipped_unmatched",
	"skipped_own_copy",
	"skipped_flow_limit",
	"skipped_duplicate",
	"dropped_ring_full",
	"dropped_send_error",
	"dropped_mtu_exceeded",
	"dropped_no_route",
	"dropped_malformed",
	"dropped_write_error",
	"dropped_link_down",
	"dropped_queue_full",
	"truncated",
	"segmented",
	"fragmented",
	"unplaced",
	"flow_table_full",
	"zeroed",
	"unfollowed",
	"missing",
	"latency_sum",
	"latency_bucket",
};
_Static_assert(sizeof(slot_names) / sizeof(*slot_names) == LATENCY_BUCKET + 1, "a name for each slot");

static const char *const on_mtu_exceeded_names[] = { "truncate", "fragment", "drop" };
static const char *const payload_names[] = { "keep", "zero", "tls" };
static const char *const field_names[] = {
	"SEQUENCE", "ERSPAN_II", "ERSPAN_III", "PACKET_BLOCK", "EGRESS", "METADATA"
};
static const char *const tunnel_names[] = { "VXLAN", "GRE", "ERSPAN", "GENEVE", "TZSP" };

static const struct names enumerations[] = {
	{ "Slot", slot_names, CAPTURED, LATENCY_BUCKET + 1 },
	{ "OnMtuExceeded", on_mtu_exceeded_names, TRUNCATE, DROP + 1 },
	{ "Payload", payload_names, KEEP, TLS + 1 },
	{ "Field", field_names, SEQUENCE, METADATA },
	{ "Tunnel", tunnel_names, TUNNEL_VXLAN, TUNNEL_TZSP },
};

static bool add_enumerations(PyObject *module)
{
	PyObject *all = PyDict_New();
	bool done = all;

	for (size_t n = 0; done && n < sizeof(enumerations) / sizeof(*enumerations); n++)
		done = add_names(all, &enumerations[n]);
	done = done && PyModule_AddObjectRef(module, "ENUMERATIONS", all) == 0;
	Py_XDECREF(all);
	return done;
}

/* What readings give back: a type for all modules of a process, which it outlives. */
static bool add_named(PyObject *module, PyTypeObject **type, PyStructSequence_Desc *fields, const char *name)
{
	if (!*type)
		*type = PyStructSequence_NewType(fields);
	return *type && PyModule_AddObjectRef(module, name, (PyObject *)*type) == 0;
}

static bool add_type(PyObject *module, PyType_Spec *spec, const char *name)
{
	PyObject *type = PyType_FromSpec(spec);
	bool done = type && PyModule_AddObjectRef(module, name, type) == 0;

	Py_XDECREF(type);
	return done;
}

static int execute(PyObject *module)
{
	bool done = PyModule_AddStringConstant(module, "VERSION", MIRRORD_VERSION) == 0 && add_enumerations(module) &&
		    add_named(module, &news_type, &news_fields, "News") &&
		    add_named(module, &outcome_type, &outcome_fields, "Outcome") &&
		    add_named(module, &unwrapped_type, &unwrapped_fields, "Unwrapped") &&
		    add_type(module, &forward_spec, "Forward") && add_type(module, &pipeline_spec, "Pipeline") &&
		    add_type(module, &tap_spec, "Tap") && add_type(module, &rounds_spec, "Rounds") &&
		    add_type(module, &numbers_spec, "Numbers");

	return done ? 0 : -1;
}

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, execute },
	{ 0, NULL },
};

static struct PyModuleDef module_definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "mirrord.dataplane._native",
	.m_doc = "The forward step and the pipelines around it, at full speed.",
	.m_methods = module_methods,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&module_definition);
}

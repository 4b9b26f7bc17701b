/* What Python planned (forward/step.py: ForwardPlan, transmit/sockets.py: Transmit.native) into the core's own. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "transmit/pcapng.h"

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

/* A slot, or None. */
static bool read_blocked(PyObject *object, struct plan *plan)
{
	PyObject *value = PyObject_GetAttrString(object, "blocked");

	if (!value)
		return false;
	plan->blocked = value == Py_None ? NO_REASON : (int)PyLong_AsLong(value);
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

bool read_program(const char *bytes, Py_ssize_t length, struct sock_filter **program, uint32_t *count)
{
	*program = malloc((size_t)length + 1);
	if (!*program) {
		PyErr_NoMemory();
		return false;
	}
	memcpy(*program, bytes, (size_t)length);
	*count = (uint32_t)((size_t)length / sizeof(struct sock_filter));
	if ((size_t)length % sizeof(struct sock_filter) || mirrord_bpf_check(*program, *count) < 0) {
		PyErr_SetString(PyExc_ValueError, "not a program that may be run");
		return false;
	}
	return true;
}

/* Where frames are counted by the rule that accepted them. The memory is Python's, and held. */
static bool read_matches(PyObject *matches, struct plan *plan)
{
	Py_buffer *view = calloc(1, sizeof(*view));

	if (!view) {
		PyErr_NoMemory();
		return false;
	}
	if (PyObject_GetBuffer(matches, view, PyBUF_WRITABLE) < 0) {
		free(view);
		return false;
	}
	plan->matches_owner = view;
	plan->matches = view->buf;
	plan->match_count = (uint32_t)((size_t)view->len / sizeof(*plan->matches));
	return true;
}

static bool read_matcher(PyObject *matcher, struct plan *plan)
{
	const char *bytes;
	Py_ssize_t length;
	PyObject *matches;

	if (matcher == Py_None)
		return true;
	return PyArg_ParseTuple(matcher, "y#O", &bytes, &length, &matches) && read_program(bytes, length, &plan->exact, &plan->exact_length) &&
	       (matches == Py_None || read_matches(matches, plan));
}

void clear_plan(struct plan *plan)
{
	free(plan->exact);
	plan->exact = NULL;
	if (plan->matches_owner)
		PyBuffer_Release(plan->matches_owner);
	free(plan->matches_owner);
	plan->matches_owner = NULL;
	free(plan->firsts);
	plan->firsts = NULL;
	free_flows(plan->flows);
	plan->flows = NULL;
	free_own_copies(plan->own);
	plan->own = NULL;
	Py_XDECREF((PyObject *)plan->guards_owner);
	plan->guards_owner = NULL;
}

void replace_plan(struct plan *plan, struct plan *next)
{
	if (plan->firsts && next->firsts) {
		struct fragments *seen = plan->firsts;

		plan->firsts = next->firsts;
		next->firsts = seen;
	}
	if (plan->flows && next->flows && plan->flow_limit.flows == next->flow_limit.flows) {
		struct flows *seen = plan->flows;

		plan->flows = next->flows;
		next->flows = seen;
	} else if (plan->flows && next->flows) {
		keep_flows(plan->flows, next->flows);
	}
	if (plan->own && next->own)
		keep_firsts(plan->own, next->own);
	clear_plan(plan);
	*plan = *next;
}

/* What first fragments told, where conversations are sampled. */
static bool make_firsts(struct plan *plan)
{
	if (plan->sampling_rate == 1)
		return true;
	plan->firsts = new_fragments();
	if (!plan->firsts)
		PyErr_NoMemory();
	return plan->firsts;
}

/* FlowLimit, or None. */
static bool read_flow_limit(PyObject *object, struct plan *plan)
{
	PyObject *value = PyObject_GetAttrString(object, "flow_limit");
	struct flow_limit *limit = &plan->flow_limit;
	uint64_t headers, flows;
	bool done = value == Py_None;

	if (value && !done && read_number(value, "packets", &limit->packets) && read_number(value, "octets", &limit->octets) &&
	    read_number(value, "headers", &headers) && read_number(value, "idle", &limit->idle) &&
	    read_number(value, "flows", &flows)) {
		limit->headers = headers;
		limit->flows = (uint32_t)flows;
		plan->flows = new_flows(limit);
		done = plan->flows;
		if (!done)
			PyErr_NoMemory();
	}
	Py_XDECREF(value);
	return done;
}

/* The guards against mirroring a copy again, as own_copies.pack gives them: all sessions' plans hold the same bytes. */
static bool read_guards(PyObject *object, struct plan *plan)
{
	PyObject *packed = PyObject_GetAttrString(object, "packed_guards");
	char *bytes;
	Py_ssize_t length;

	if (!packed)
		return false;
	bool done = PyBytes_AsStringAndSize(packed, &bytes, &length) == 0;
	if (done && length) {
		plan->own = new_own_copies(bytes, (size_t)length);
		if (!plan->own)
			PyErr_NoMemory();
		done = plan->own;
	}
	plan->guards_owner = packed;
	return done;
}

bool read_plan(PyObject *object, PyObject *matcher, struct plan *plan)
{
	uint64_t snaplen, frame_limit, longest, sampling_rate, strip_tag, push_tag;

	memset(plan, 0, sizeof(*plan));
	if (!read_blocked(object, plan) || !read_number(object, "snaplen", &snaplen) ||
	    !read_number(object, "frame_limit", &frame_limit) || !read_number(object, "longest", &longest) ||
	    !read_number(object, "sampling_rate", &sampling_rate) || !read_overhead(object, plan) ||
	    !read_number(object, "strip_tag", &strip_tag) || !read_number(object, "push_tag", &push_tag) ||
	    !read_number(object, "rate_limit", &plan->rate_limit) ||
	    !read_number(object, "packet_limit", &plan->packet_limit) || !read_header(object, plan) ||
	    !read_patches(object, plan) || !read_on_mtu_exceeded(object, plan) || !read_matcher(matcher, plan) ||
	    !read_flow_limit(object, plan) || !read_guards(object, plan))
		return false;
	plan->snaplen = (uint32_t)snaplen;
	plan->frame_limit = (uint32_t)frame_limit;
	plan->longest = (uint32_t)longest;
	plan->sampling_rate = (uint32_t)sampling_rate;
	plan->strip_tag = strip_tag;
	plan->push_tag = (uint32_t)push_tag;
	return make_firsts(plan);
}

static bool read_lanes(PyObject *sockets, PyObject *ports, struct transmit *transmit)
{
	Py_ssize_t count = PyTuple_Size(sockets);

	if (count > MAX_SOCKETS || PyTuple_Size(ports) != count) {
		PyErr_SetString(PyExc_ValueError, "64 sockets at most, and a port for each");
		return false;
	}
	for (Py_ssize_t n = 0; n < count; n++) {
		transmit->sockets[n] = (int)PyLong_AsLong(PyTuple_GetItem(sockets, n));
		transmit->ports[n] = (uint16_t)PyLong_AsUnsignedLong(PyTuple_GetItem(ports, n));
	}
	transmit->lanes = (uint32_t)count;
	return !PyErr_Occurred();
}

static bool read_ring(PyObject *memory, struct tx_ring *ring, Py_buffer *view)
{
	if (memory == Py_None)
		return true;
	if (PyObject_GetBuffer(memory, view, PyBUF_WRITABLE) < 0)
		return false;
	ring->memory = view->buf;
	ring->slots = ring->slot_size ? (uint32_t)((size_t)view->len / ring->slot_size) : 0;
	if (!ring->slots)
		PyErr_SetString(PyExc_ValueError, "a TX ring without slots");
	return ring->slots;
}

bool read_transmit(PyObject *description, struct transmit *transmit, Py_buffer *ring)
{
	PyObject *sockets, *ports, *memory;
	const char *outer;
	Py_ssize_t length;
	int gso, overtakes;

	if (!PyArg_ParseTuple(description, "O!O!iy#ppiOI", &PyTuple_Type, &sockets, &PyTuple_Type, &ports,
			      &transmit->packet, &outer, &length, &gso, &overtakes, &transmit->ring.descriptor, &memory,
			      &transmit->ring.slot_size) ||
	    !read_lanes(sockets, ports, transmit) || !read_ring(memory, &transmit->ring, ring))
		return false;
	transmit->gso = gso;
	transmit->overtakes = overtakes;
	if (transmit->packet >= 0 && !open_outer(&transmit->outer, (const uint8_t *)outer, (size_t)length)) {
		PyErr_SetString(PyExc_ValueError, "not the headers of a packet");
		return false;
	}
	return true;
}

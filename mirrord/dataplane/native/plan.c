/* What Python planned (plans.py: ForwardPlan; transmit/way.py: Way) into the core's own. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "fields.h"
#include "module.h"
#include "transmit/pcapng.h"

/* A number, or None, which is -1 here. */
static bool read_optional(PyObject *object, const char *name, int *number)
{
	PyObject *value = PyObject_GetAttrString(object, name);

	if (!value)
		return false;
	*number = value == Py_None ? -1 : (int)PyLong_AsLong(value);
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

/* The template's patches. */
static bool read_patches(PyObject *object, struct plan *plan)
{
	static const uint32_t sizes[] = { [SEQUENCE] = 4,    [ERSPAN_II] = 4,
					  [ERSPAN_III] = 12, [PACKET_BLOCK] = PACKET_HEADER,
					  [EGRESS] = 4,	     [METADATA] = 20 };
	PyObject *template = PyObject_GetAttrString(object, "template");
	PyObject *patches = template ? PyObject_GetAttrString(template, "patches") : NULL;
	Py_ssize_t count = patches ? PyTuple_Size(patches) : -1;
	bool done = count >= 0 && count <= MAX_PATCHES;

	for (Py_ssize_t n = 0; done && n < count; n++) {
		PyObject *patch = PyTuple_GetItem(patches, n);
		uint32_t field, at, value;

		done = read_u32(patch, "field", &field) && read_u32(patch, "at", &at) &&
		       read_u32(patch, "value", &value) && field >= SEQUENCE && field <= METADATA &&
		       at + sizes[field] <= plan->header_length;
		if (done)
			plan->patches[plan->patch_count++] = (struct patch){ field, at, value };
		plan->two_ids |= done && field == EGRESS;
	}
	if (!done && !PyErr_Occurred())
		PyErr_SetString(PyExc_ValueError, "a patch that does not fit its template");
	Py_XDECREF(patches);
	Py_XDECREF(template);
	return done;
}

static bool read_on_mtu_exceeded(PyObject *object, struct plan *plan)
{
	uint64_t value;

	if (!read_unsigned(object, "on_mtu_exceeded", DROP, &value))
		return false;
	plan->on_mtu_exceeded = (enum on_mtu_exceeded)value;
	return true;
}

static bool read_payload(PyObject *object, struct plan *plan)
{
	uint64_t value;

	if (!read_unsigned(object, "payload", TLS, &value))
		return false;
	plan->payload = (enum payload)value;
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
	if ((size_t)length % sizeof(struct sock_filter) || !may_run(*program, *count)) {
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

/* A program by its name; NULL where it is empty. */
static bool read_named_program(PyObject *object, const char *name, struct sock_filter **program, uint32_t *count)
{
	PyObject *value = PyObject_GetAttrString(object, name);
	char *bytes;
	Py_ssize_t length;
	bool done = value && PyBytes_AsStringAndSize(value, &bytes, &length) == 0 &&
		    (!length || read_program(bytes, length, program, count));

	Py_XDECREF(value);
	return done;
}

/* What holds on to the memory of a ring of recorder.py. */
struct ring_views {
	Py_buffer memory, row;
};

static void release_ring(struct ring_views *views)
{
	if (!views)
		return;
	PyBuffer_Release(&views->memory);
	PyBuffer_Release(&views->row);
	free(views);
}

/* Where copies are kept in memory; None: nowhere. */
static bool read_recorder(PyObject *ring, struct plan *plan)
{
	if (ring == Py_None)
		return true;
	struct ring_views *views = calloc(1, sizeof(*views));
	if (!views) {
		PyErr_NoMemory();
		return false;
	}
	plan->recorder_owner = views;
	PyObject *memory = PyObject_GetAttrString(ring, "memory");
	PyObject *row = memory ? PyObject_GetAttrString(ring, "row") : NULL;
	bool done = row && PyObject_GetBuffer(memory, &views->memory, PyBUF_WRITABLE) == 0 &&
		    PyObject_GetBuffer(row, &views->row, PyBUF_WRITABLE) == 0;

	Py_XDECREF(memory);
	Py_XDECREF(row);
	if (done && (views->row.len != sizeof(struct recorded) || views->memory.len == 0 || views->memory.len % 4)) {
		PyErr_SetString(PyExc_ValueError, "memory of the wrong size");
		done = false;
	}
	if (done)
		plan->recorder = (struct recorder){ views->memory.buf, (uint64_t)views->memory.len, views->row.buf };
	return done;
}

static bool read_matcher(PyObject *matcher, struct plan *plan)
{
	if (matcher == Py_None)
		return true;
	PyObject *counts = PyObject_GetAttrString(matcher, "counts");
	bool done = counts && read_named_program(matcher, "program", &plan->exact, &plan->exact_length) &&
		    read_named_program(matcher, "inside", &plan->inside.program, &plan->inside.program_length) &&
		    (counts == Py_None || read_matches(counts, plan));

	Py_XDECREF(counts);
	return done;
}

static bool read_inside(PyObject *object, struct inside *inside)
{
	PyObject *value = PyObject_GetAttrString(object, "inside");
	bool done = value == Py_None ||
		    (value && read_u32(value, "vxlan_port", &inside->vxlan_port) &&
		     read_u32(value, "geneve_port", &inside->geneve_port) && read_bool(value, "gre", &inside->gre) &&
		     read_u32(value, "ident", &inside->ident) && read_bool(value, "any_ident", &inside->any_ident) &&
		     read_bool(value, "strip", &inside->strip));

	Py_XDECREF(value);
	return done;
}

void clear_plan(struct plan *plan)
{
	free(plan->exact);
	plan->exact = NULL;
	free(plan->inside.program);
	plan->inside.program = NULL;
	if (plan->matches_owner)
		PyBuffer_Release(plan->matches_owner);
	free(plan->matches_owner);
	plan->matches_owner = NULL;
	release_ring(plan->recorder_owner);
	plan->recorder_owner = NULL;
	plan->recorder.memory = NULL;
	free(plan->firsts);
	plan->firsts = NULL;
	free_connections(plan->connections);
	plan->connections = NULL;
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
	if (plan->connections && next->connections) {
		struct connections *followed = plan->connections;

		plan->connections = next->connections;
		next->connections = followed;
	}
	if (plan->flows && next->flows && plan->flow_limit.flows == next->flow_limit.flows) {
		struct flows *seen = plan->flows;

		plan->flows = next->flows;
		next->flows = seen;
	} else if (plan->flows && next->flows) {
		keep_flows(plan->flows, next->flows);
	}
	next->own = plan->own;
	next->guards_owner = plan->guards_owner;
	plan->own = NULL;
	plan->guards_owner = NULL;
	clear_plan(plan);
	*plan = *next;
}

/* The connections that are followed, where application data are hidden. */
static bool make_connections(struct plan *plan)
{
	if (plan->payload != TLS)
		return true;
	plan->connections = new_connections();
	if (!plan->connections)
		PyErr_NoMemory();
	return plan->connections;
}

/* What first fragments told, where conversations are sampled, or spread over collectors. */
static bool make_firsts(struct plan *plan)
{
	if (plan->sampling_rate == 1 && !plan->overload && (!plan->remotes.count || plan->remotes.all))
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
	bool done = value && value != Py_None && read_unsigned(value, "packets", UINT64_MAX, &limit->packets) &&
		    read_unsigned(value, "octets", UINT64_MAX, &limit->octets) &&
		    read_bool(value, "headers", &limit->headers) &&
		    read_unsigned(value, "idle", UINT64_MAX, &limit->idle) && read_u32(value, "flows", &limit->flows);

	if (done) {
		plan->flows = new_flows(limit);
		done = plan->flows;
		if (!done)
			PyErr_NoMemory();
	}
	done = done || value == Py_None;
	Py_XDECREF(value);
	return done;
}

/*
 * What these guards tell; NULL where there are none, or no memory. Each session of a host is given the same, so they are
 * gone through once: the last ones are kept until there are others.
 */
static struct own_copies *told_by(PyObject *packed, const char *bytes, size_t length)
{
	static PyObject *owner;
	static struct own_copies *last;

	if (!length)
		return NULL;
	if (packed != owner) {
		free_own_copies(last);
		last = new_own_copies(bytes, length);
		Py_XDECREF(owner);
		owner = last ? Py_NewRef(packed) : NULL;
	}
	return last ? own_copies_as(last) : NULL;
}

bool guard(struct plan *plan, PyObject *packed)
{
	struct own_copies *own;
	char *bytes;
	Py_ssize_t length;

	if (PyBytes_AsStringAndSize(packed, &bytes, &length) < 0)
		return false;
	own = told_by(packed, bytes, (size_t)length);
	if (length && !own) {
		PyErr_NoMemory();
		return false;
	}
	if (own && plan->own)
		keep_firsts(plan->own, own);
	free_own_copies(plan->own);
	Py_XDECREF((PyObject *)plan->guards_owner);
	plan->own = own;
	plan->guards_owner = Py_NewRef(packed);
	return true;
}

static bool read_reach(PyObject *object, struct reach *reach)
{
	return read_u32(object, "frame_limit", &reach->frame_limit) && read_u32(object, "longest", &reach->longest) &&
	       read_int(object, "overhead", &reach->overhead);
}

static bool read_remote(PyObject *object, struct remotes *remotes, Py_ssize_t n)
{
	return read_unsigned(object, "seed", UINT64_MAX, &remotes->seeds[n]) &&
	       read_bool(object, "alive", &remotes->alive[n]) && read_reach(object, &remotes->reaches[n]);
}

/* The collectors, where there are several: one of them is alive. */
static bool read_remotes(PyObject *object, struct plan *plan)
{
	struct remotes *remotes = &plan->remotes;
	PyObject *list = PyObject_GetAttrString(object, "remotes");
	Py_ssize_t count = list ? PyTuple_Size(list) : -1;
	bool done = count >= 0 && count <= MAX_REMOTES && read_bool(object, "spread_all", &remotes->all);
	uint32_t alive = 0;
	int32_t overheads = 0;

	for (Py_ssize_t n = 0; done && n < count; n++) {
		done = read_remote(PyTuple_GetItem(list, n), remotes, n);
		alive += remotes->alive[n];
		overheads += remotes->alive[n] ? remotes->reaches[n].overhead : 0;
	}
	remotes->count = done ? (uint32_t)count : 0;
	remotes->all = remotes->all && count > 0;
	plan->recipients = remotes->all ? alive : 1;
	if (remotes->all)
		plan->reach.overhead = overheads;
	if ((!done || (count && !alive)) && !PyErr_Occurred()) {
		PyErr_Format(PyExc_ValueError, "%d collectors at most, one of them alive", MAX_REMOTES);
		done = false;
	}
	Py_XDECREF(list);
	return done;
}

/* What becomes of a frame's tags, and of its Ethernet header. */
static bool read_retagging(PyObject *object, struct plan *plan)
{
	bool done = read_bool(object, "strip_tag", &plan->strip_tag) && read_u32(object, "push_tag", &plan->push_tag) &&
		    read_u32(object, "tpid", &plan->tpid) && read_bool(object, "strip_ethernet", &plan->strip_ethernet);

	plan->retags = plan->strip_tag || plan->push_tag || plan->tpid || plan->strip_ethernet;
	return done;
}

bool read_plan(PyObject *object, PyObject *matcher, PyObject *recorder, struct plan *plan)
{
	memset(plan, 0, sizeof(*plan));
	return read_optional(object, "blocked", &plan->blocked) &&
	       read_optional(object, "past_headers", &plan->past_headers) &&
	       read_u32(object, "snaplen", &plan->snaplen) && read_reach(object, &plan->reach) &&
	       read_remotes(object, plan) && read_u32(object, "sampling_rate", &plan->sampling_rate) &&
	       read_bool(object, "overload", &plan->overload) && read_u32(object, "least_level", &plan->least_level) &&
	       read_unsigned(object, "duplicate_window", UINT64_MAX, &plan->duplicate_window) &&
	       read_retagging(object, plan) && read_unsigned(object, "rate_limit", UINT64_MAX, &plan->rate_limit) &&
	       read_unsigned(object, "packet_limit", UINT64_MAX, &plan->packet_limit) && read_header(object, plan) &&
	       read_patches(object, plan) && read_on_mtu_exceeded(object, plan) && read_payload(object, plan) &&
	       read_matcher(matcher, plan) && read_inside(object, &plan->inside) && read_recorder(recorder, plan) &&
	       read_flow_limit(object, plan) && make_firsts(plan) && make_connections(plan);
}

static bool read_lane(PyObject *lane, int *descriptor, uint16_t *port)
{
	uint64_t number;

	if (!read_int(lane, "descriptor", descriptor) || !read_unsigned(lane, "port", UINT16_MAX, &number))
		return false;
	*port = (uint16_t)number;
	return true;
}

bool open_lane(PyObject *lane, struct transmit *transmit, uint32_t n)
{
	return read_lane(lane, &transmit->sockets[n], &transmit->ports[n]);
}

static bool read_lanes(PyObject *way, struct transmit *transmit)
{
	PyObject *lanes = PyObject_GetAttrString(way, "lanes");
	Py_ssize_t count = lanes ? PyTuple_Size(lanes) : -1;
	bool done = count >= 0 && count <= MAX_SOCKETS;

	if (count > MAX_SOCKETS)
		PyErr_Format(PyExc_ValueError, "%d lanes at most", MAX_SOCKETS);
	for (Py_ssize_t n = 0; done && n < count; n++)
		done = open_lane(PyTuple_GetItem(lanes, n), transmit, (uint32_t)n);
	transmit->lanes = done ? (uint32_t)count : 0;
	Py_XDECREF(lanes);
	return done;
}

/* Of a Way or a Sender that has a packet socket. */
static bool read_alike(PyObject *object, uint64_t alike[2])
{
	PyObject *packed = PyObject_GetAttrString(object, "alike");
	char *bytes;
	Py_ssize_t length;
	bool done = packed && PyBytes_AsStringAndSize(packed, &bytes, &length) == 0;

	if (done && length != 2 * sizeof(*alike)) {
		PyErr_SetString(PyExc_ValueError, "what the packet socket leaves by is 16 bytes");
		done = false;
	}
	if (done)
		memcpy(alike, bytes, (size_t)length);
	Py_XDECREF(packed);
	return done;
}

bool read_sender(PyObject *object, struct sender *sender)
{
	return read_int(object, "packet", &sender->packet) && read_alike(object, sender->alike);
}

/* The headers before each copy that leaves by the packet socket, if it does. */
static bool read_outer(PyObject *way, struct transmit *transmit)
{
	PyObject *outer = PyObject_GetAttrString(way, "outer");
	char *bytes;
	Py_ssize_t length;
	bool done = outer && PyBytes_AsStringAndSize(outer, &bytes, &length) == 0;

	if (done && transmit->packet >= 0 && !open_outer(&transmit->outer, (uint8_t *)bytes, (size_t)length)) {
		PyErr_SetString(PyExc_ValueError, "not the headers of a packet");
		done = false;
	}
	Py_XDECREF(outer);
	return done;
}

static bool read_ring_memory(PyObject *ring, struct tx_ring *into, Py_buffer *view)
{
	PyObject *memory = PyObject_GetAttrString(ring, "memory");
	bool done = memory && PyObject_GetBuffer(memory, view, PyBUF_WRITABLE) == 0;

	Py_XDECREF(memory);
	if (!done)
		return false;
	into->memory = view->buf;
	into->slots = into->slot_size ? (uint32_t)((size_t)view->len / into->slot_size) : 0;
	if (!into->slots)
		PyErr_SetString(PyExc_ValueError, "a TX ring without slots");
	return into->slots;
}

static bool read_ring(PyObject *way, struct tx_ring *into, Py_buffer *view)
{
	PyObject *ring = PyObject_GetAttrString(way, "ring");
	bool done = ring == Py_None ||
		    (ring && read_int(ring, "descriptor", &into->descriptor) &&
		     read_u32(ring, "slot_size", &into->slot_size) && read_ring_memory(ring, into, view));

	Py_XDECREF(ring);
	return done;
}

static bool read_way(PyObject *way, struct transmit *transmit, Py_buffer *ring)
{
	return read_lanes(way, transmit) && read_int(way, "packet", &transmit->packet) &&
	       read_alike(way, transmit->alike) && read_u32(way, "ports", &transmit->source_ports) &&
	       read_outer(way, transmit) && read_bool(way, "gso", &transmit->gso) &&
	       read_bool(way, "overtakes", &transmit->overtakes) && read_ring(way, &transmit->ring, ring);
}

void clear_exits(struct exits *exits, Py_buffer *rings)
{
	for (uint32_t n = 0; rings && n < exits->count; n++)
		PyBuffer_Release(&rings[n]);
	free(exits->transmits);
	exits->transmits = NULL;
	exits->count = 0;
	free(rings);
}

bool read_ways(PyObject *ways, struct exits *exits, Py_buffer **rings)
{
	Py_ssize_t count = PyTuple_Size(ways);

	if (count < 1 || count > MAX_REMOTES) {
		PyErr_Format(PyExc_ValueError, "1 to %d ways", MAX_REMOTES);
		return false;
	}
	exits->transmits = calloc((size_t)count, sizeof(*exits->transmits));
	*rings = calloc((size_t)count, sizeof(**rings));
	exits->count = exits->transmits && *rings ? (uint32_t)count : 0;
	if (!exits->count) {
		PyErr_NoMemory();
		return false;
	}
	for (uint32_t n = 0; n < exits->count; n++) {
		exits->transmits[n].place = n;
		if (!read_way(PyTuple_GetItem(ways, n), &exits->transmits[n], &(*rings)[n]))
			return false;
	}
	return true;
}

void follow_plan(struct exits *exits, const struct plan *plan)
{
	const struct remotes *remotes = &plan->remotes;

	exits->all = remotes->all;
	for (uint32_t n = 0; n < exits->count; n++) {
		struct transmit *transmit = &exits->transmits[n];

		transmit->overhead = n < remotes->count ? remotes->reaches[n].overhead : plan->reach.overhead;
		transmit->takes = !remotes->count || remotes->alive[n];
		transmit->settles = !remotes->all;
	}
}

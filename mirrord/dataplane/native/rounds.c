/* A worker's wait for its pipelines' frames, and the rounds in which it runs those that have some. See rounds.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "module.h"

enum {
	MANY = 64,	/* descriptors told of at a time; frames that a plain socket lags by */
	SECOND = 1000000000,
};

static const uint64_t SHORTEST_ROUND = 500000, LONGEST_AWAY = 20000000;	/* nanoseconds; rounds.py tells why */

typedef struct {
	PyObject_HEAD
	int epoll;
	uint64_t last;	/* when the last round began */
	bool lagging;	/* a pipeline had more than its turn took */
	struct work work;
} Rounds;

/* What a wait found out about one descriptor. */
struct news {
	int descriptor;
	uint32_t events;
	bool ran;
};

struct wait {
	struct news news[MANY];
	struct pipeline *pipelines[MANY];	/* or NULL: Python's to look after */
	int count;
	bool pressing;
	int error;	/* the errno that the wait itself failed with, or 0 */
};

/* What is watched is a pipeline by its address, which is even, or a descriptor, twice and one. */
static struct pipeline *pipeline_of(const struct epoll_event *event)
{
	return event->data.u64 & 1 ? NULL : (void *)(uintptr_t)event->data.u64;
}

static struct news *news_of(struct wait *wait, const struct epoll_event *event)
{
	struct pipeline *pipeline = pipeline_of(event);
	int n = 0;

	while (n < wait->count && (!pipeline || wait->pipelines[n] != pipeline))
		n++;
	if (n == wait->count) {
		int descriptor = pipeline ? pipeline->descriptor : (int)(event->data.u64 >> 1);

		wait->news[n] = (struct news){ .descriptor = descriptor };
		wait->pipelines[n] = pipeline;
		wait->count++;
	}
	return &wait->news[n];
}

/* One round: run what has frames and no error. */
static void run_round(Rounds *self, struct wait *wait, const struct epoll_event *events, int count)
{
	uint64_t early = self->last + SHORTEST_ROUND, time = monotonic();

	if (time < early && !self->lagging) {
		struct timespec end = { (time_t)(early / SECOND), (long)(early % SECOND) };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
		time = monotonic();
	}
	self->last = time;
	self->lagging = false;
	for (int n = 0; n < count; n++) {
		struct pipeline *pipeline = pipeline_of(&events[n]);
		struct news *news = news_of(wait, &events[n]);

		news->events |= events[n].events;
		if (!pipeline || events[n].events & EPOLLERR) {
			wait->pressing = true;
			continue;
		}
		news->ran = true;
		uint64_t left = run_pipeline(pipeline, &self->work);
		wait->pressing |= pipeline->error != 0;
		self->lagging |= left > 0;
		wait->pressing |= left >= MANY && !pipeline->ring;	/* it may have to move to one */
	}
}

static void go_round(Rounds *self, struct wait *wait, uint64_t until)
{
	struct epoll_event events[MANY];
	uint64_t time = monotonic(), first = 0;

	do {
		uint64_t left = time < until ? until - time : 0;
		int count = epoll_wait(self->epoll, events, MANY - wait->count, (int)((left + 999999) / 1000000));

		if (count < 0 && errno != EINTR)
			wait->error = errno;
		if (count <= 0)
			return;
		run_round(self, wait, events, count);
		time = self->last;
		first = first ? first : time;
	} while (!wait->pressing && wait->count < MANY && time < until && time - first < LONGEST_AWAY);
}

static PyObject *Rounds_wait(PyObject *object, PyObject *arguments)
{
	Rounds *self = (Rounds *)object;
	struct wait wait = { .count = 0 };
	double seconds;
	int lagging;

	if (!PyArg_ParseTuple(arguments, "dp", &seconds, &lagging))
		return NULL;
	self->lagging |= lagging;
	Py_BEGIN_ALLOW_THREADS
	go_round(self, &wait, monotonic() + (uint64_t)(seconds * SECOND));
	Py_END_ALLOW_THREADS
	if (wait.error && !wait.count) {
		errno = wait.error;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	PyObject *list = PyList_New(wait.count);
	for (int n = 0; list && n < wait.count; n++) {
		const struct news *news = &wait.news[n];
		PyObject *item = Py_BuildValue("iIN", news->descriptor, news->events, PyBool_FromLong(news->ran));

		if (!item || PyList_SetItem(list, n, item) < 0)
			Py_CLEAR(list);
	}
	return list;
}

static PyObject *Rounds_register(PyObject *object, PyObject *arguments)
{
	Rounds *self = (Rounds *)object;
	struct epoll_event event = { .events = EPOLLIN };
	PyObject *pipeline;
	int descriptor;

	if (!PyArg_ParseTuple(arguments, "iO", &descriptor, &pipeline))
		return NULL;
	event.data.u64 = pipeline == Py_None ? (uint64_t)descriptor << 1 | 1 : (uint64_t)(uintptr_t)pipeline_in(pipeline);
	if (PyErr_Occurred())
		return NULL;
	if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, descriptor, &event) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	Py_RETURN_NONE;
}

static PyObject *Rounds_unregister(PyObject *object, PyObject *descriptor)
{
	int number = (int)PyLong_AsLong(descriptor);

	if (PyErr_Occurred())
		return NULL;
	if (epoll_ctl(((Rounds *)object)->epoll, EPOLL_CTL_DEL, number, NULL) < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	Py_RETURN_NONE;
}

static PyObject *Rounds_close(PyObject *object, PyObject *unused)
{
	Rounds *self = (Rounds *)object;

	(void)unused;
	if (self->epoll >= 0)
		close(self->epoll);
	self->epoll = -1;
	close_work(&self->work);
	Py_RETURN_NONE;
}

static PyObject *Rounds_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	(void)keywords;
	if (!PyArg_ParseTuple(arguments, ""))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Rounds *self = (Rounds *)allocate(type, 0);
	if (!self)
		return NULL;
	self->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (self->epoll < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
		Py_CLEAR(self);
	} else if (!open_work(&self->work)) {
		PyErr_NoMemory();
		Py_CLEAR(self);
	}
	return (PyObject *)self;
}

static void Rounds_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

	Py_XDECREF(Rounds_close(object, NULL));
	release(object);
	Py_DECREF(type);
}

static PyMethodDef rounds_methods[] = {
	{ "register", Rounds_register, METH_VARARGS, "register(descriptor, Pipeline or None)" },
	{ "unregister", Rounds_unregister, METH_O, "unregister(descriptor)" },
	{ "wait", Rounds_wait, METH_VARARGS, "wait(seconds, lagging): [(descriptor, events, ran)]. Without the GIL." },
	{ "close", Rounds_close, METH_NOARGS, "Wait no more." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot rounds_slots[] = {
	{ Py_tp_doc, "Rounds(): see rounds.py, whose Rounds does the same in Python." },
	{ Py_tp_new, Rounds_new },
	{ Py_tp_dealloc, Rounds_dealloc },
	{ Py_tp_methods, rounds_methods },
	{ 0, NULL },
};

PyType_Spec rounds_spec = {
	.name = "mirrord.dataplane._native.Rounds",
	.basicsize = sizeof(Rounds),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = rounds_slots,
};

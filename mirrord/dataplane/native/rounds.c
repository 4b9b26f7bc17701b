/* A worker's wait for its taps' frames, and the rounds in which it runs those that have some. See rounds.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "fields.h"
#include "module.h"

enum {
	MANY = 64, /* descriptors told of at a time */
	READY = 512, /* descriptors looked after in one round */
	ENOUGH = 200, /* frames of a tap after which Python has to see whether they are too many */
	SECOND = 1000000000,
};

/* Nanoseconds; rounds.py tells why. */
static const uint64_t SHORTEST_ROUND = 500000, FOR_EACH = 20000, LONGEST_AWAY = 20000000, LONE_RING = 250000000;
static const uint64_t FOR_EACH_MEMBER = 500000; /* parting.py: LOOK_SECONDS_A_MEMBER */

typedef struct {
	PyObject_HEAD
	int epoll;
	uint64_t last; /* when the last round began */
	uint64_t pause; /* how long after it the next one begins, at the soonest */
	uint64_t latency; /* the longest pause */
	bool lagging; /* a tap had more than its turn took */
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
	struct tap *taps[MANY]; /* or NULL: Python's to look after */
	int count;
	bool pressing;
	int error; /* the errno that the wait itself failed with, or 0 */
};

/* What is watched is a tap by its address, which is even, or a descriptor, twice and one. */
static struct tap *tap_of(const struct epoll_event *event)
{
	return event->data.u64 & 1 ? NULL : (void *)(uintptr_t)event->data.u64;
}

/* NULL where there is no room to tell of more: what is ready and untold is ready again. */
static struct news *news_of(struct wait *wait, const struct epoll_event *event)
{
	struct tap *tap = tap_of(event);
	int n = 0;

	while (n < wait->count && (!tap || wait->taps[n] != tap))
		n++;
	if (n == MANY)
		return NULL;
	if (n == wait->count) {
		int descriptor = tap ? tap->descriptor : (int)(event->data.u64 >> 1);

		wait->news[n] = (struct news){ .descriptor = descriptor };
		wait->taps[n] = tap;
		wait->count++;
	}
	return &wait->news[n];
}

/* How long a ring may go without a look of Python's: it is the right capture for seconds, but members may have to part. */
static uint64_t untold(const struct tap *tap)
{
	uint64_t judged = tap->count * FOR_EACH_MEMBER;

	return tap->count == 1 || judged > LONE_RING ? LONE_RING : judged;
}

/* Whether Python has to look at a tap that ran: its capture may not be the right one any more, its members may have to part,
 * or time matters to it. */
static bool worth_telling(const struct tap *tap, bool more, uint64_t time)
{
	if (tap->eager || tap->error || more)
		return true;
	if (tap->ring)
		return time - tap->told_at >= untold(tap);
	return tap->seen[SEEN_READ] - tap->told >= ENOUGH;
}

static void tell(struct wait *wait, const struct epoll_event *event, bool ran, uint64_t time)
{
	struct news *news = news_of(wait, event);

	if (!news)
		return;
	news->events |= event->events;
	news->ran |= ran;
	if (ran) {
		tap_of(event)->told = tap_of(event)->seen[SEEN_READ];
		tap_of(event)->told_at = time;
	}
}

/* The more taps had frames, the longer the next round waits for more of each. */
static void set_pause(Rounds *self, int count)
{
	uint64_t pause = (uint64_t)count * FOR_EACH;

	if (pause < SHORTEST_ROUND)
		pause = SHORTEST_ROUND;
	self->pause = pause < self->latency ? pause : self->latency;
}

/* One round: run what has frames and no error. */
static void run_round(Rounds *self, struct wait *wait, const struct epoll_event *events, int count)
{
	uint64_t early = self->last + self->pause, time = monotonic();

	if (time < early && !self->lagging) {
		struct timespec end = { (time_t)(early / SECOND), (long)(early % SECOND) };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL);
		time = monotonic();
	}
	self->last = time;
	self->lagging = false;
	for (int n = 0; n < count; n++) {
		struct tap *tap = tap_of(&events[n]);

		if (!tap || events[n].events & EPOLLERR) {
			wait->pressing = true;
			tell(wait, &events[n], false, time);
			continue;
		}
		bool more = run_tap(tap, &self->work);
		self->lagging |= more;
		wait->pressing |= tap->error || (more && !tap->ring); /* it may have to move to one */
		if (worth_telling(tap, more, time))
			tell(wait, &events[n], true, time);
	}
	send_all(&self->work);
	set_pause(self, count);
}

static void go_round(Rounds *self, struct wait *wait, uint64_t until)
{
	struct epoll_event events[READY];
	uint64_t time = monotonic(), first = 0;

	do {
		uint64_t left = time < until ? until - time : 0;
		int count = epoll_wait(self->epoll, events, READY, (int)((left + 999999) / 1000000));

		if (count < 0 && errno != EINTR)
			wait->error = errno;
		if (count <= 0)
			return;
		run_round(self, wait, events, count);
		time = self->last;
		first = first || !wait->count ? first : time;
	} while (!wait->pressing && time < until && (!first || time - first < LONGEST_AWAY));
}

static PyStructSequence_Field news_field[] = {
	{ "descriptor", "What it is about." },
	{ "events", "EPOLLIN, EPOLLERR, ..." },
	{ "ran", "Whether it is a tap, which was run already." },
	{ NULL, NULL },
};

PyStructSequence_Desc news_fields = { "mirrord.dataplane._native.News", "What a wait found out.", news_field, 3 };
PyTypeObject *news_type;

static PyObject *new_news(const struct news *news)
{
	PyObject *values[] = { PyLong_FromLong(news->descriptor), PyLong_FromUnsignedLong(news->events),
			       PyBool_FromLong(news->ran) };

	return new_named(news_type, values, 3);
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
		PyObject *item = new_news(&wait.news[n]);

		if (!item || PyList_SetItem(list, n, item) < 0)
			Py_CLEAR(list);
	}
	return list;
}

static PyObject *Rounds_register(PyObject *object, PyObject *arguments)
{
	Rounds *self = (Rounds *)object;
	struct epoll_event event = { .events = EPOLLIN };
	PyObject *tap;
	int descriptor;

	if (!PyArg_ParseTuple(arguments, "iO", &descriptor, &tap))
		return NULL;
	event.data.u64 = tap == Py_None ? (uint64_t)descriptor << 1 | 1 : (uint64_t)(uintptr_t)tap_in(tap);
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
	double latency;

	(void)keywords;
	if (!PyArg_ParseTuple(arguments, "d", &latency))
		return NULL;
	allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	Rounds *self = (Rounds *)allocate(type, 0);
	if (!self)
		return NULL;
	self->latency = (uint64_t)(latency * SECOND);
	set_pause(self, 0);
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
	{ "register", Rounds_register, METH_VARARGS, "register(descriptor, Tap or None)" },
	{ "unregister", Rounds_unregister, METH_O, "unregister(descriptor)" },
	{ "wait", Rounds_wait, METH_VARARGS, "wait(seconds, lagging): a list of News. Without the GIL." },
	{ "close", Rounds_close, METH_NOARGS, "End the wait and give its memory back." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot rounds_slots[] = {
	{ Py_tp_doc, "Rounds(latency): see rounds.py, whose Rounds does the same in Python." },
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

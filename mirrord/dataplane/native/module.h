/* Between module.c and what it is put together from. Python.h comes before it. */
#ifndef MIRRORD_MODULE_H
#define MIRRORD_MODULE_H

#include "tap.h"

/* plan.c: read a ForwardPlan, what matches for it: a Matcher or None, and what keeps its copies: a Ring or None. False with
 * an exception set. Either way the plan is the caller's to clear. */
bool read_plan(PyObject *object, PyObject *matcher, PyObject *recorder, struct plan *plan);
/* Mirror nothing again that these guards tell, as Guards.packed gives them: all sessions' plans hold the same bytes. */
bool guard(struct plan *plan, PyObject *packed);

/* A program to be run: struct sock_filter after struct sock_filter. False with an exception set; it is the caller's to free. */
bool read_program(const char *bytes, Py_ssize_t length, struct sock_filter **program, uint32_t *count);

void clear_plan(struct plan *plan);

/* Put the next plan in the place of this one; what was seen for both stays. */
void replace_plan(struct plan *plan, struct plan *next);

/* Read a tuple of Ways; the same. `rings` hold the TX rings' memory, one for each; both are the caller's to clear. */
bool read_ways(PyObject *ways, struct exits *exits, Py_buffer **rings);
void clear_exits(struct exits *exits, Py_buffer *rings);

/* Send as this plan wants from now on. */
void follow_plan(struct exits *exits, const struct plan *plan);

/* What copies of a tap may leave by: a Sender. */
bool read_sender(PyObject *object, struct sender *sender);

/* Read the nth lane, which has a socket now. */
bool open_lane(PyObject *lane, struct transmit *transmit, uint32_t n);

/* module.c, tap_type.c: what a Pipeline or Tap of Python's stands for. NULL with an exception set for anything else. */
struct pipeline *pipeline_in(PyObject *object);
struct tap *tap_in(PyObject *object);

/* matchers.c: from a tuple of membership.py's NativeMatchers. False with an exception set; either way the tap's to clear. */
bool read_matchers(PyObject *list, struct tap *tap);

/* duplicates_memory.c */
PyObject *make_duplicates(PyObject *module, PyObject *unused);
/* From the arguments (a capsule, a place): what the state remembers copies in from now on. `held` is the capsule. */
bool watch_duplicates(PyObject *arguments, PyObject **held, struct state *state);

/* tap_type.c */
extern PyType_Spec tap_spec;

/* numbers_type.c */
extern PyType_Spec numbers_spec;
/* What a Numbers of Python's stands for. NULL with an exception set for anything else. */
struct numbers *numbers_in(PyObject *object);

/* rounds.c */
extern PyType_Spec rounds_spec;
extern PyStructSequence_Desc news_fields;
extern PyTypeObject *news_type;

/* single.c */
extern PyType_Spec forward_spec;
extern PyStructSequence_Desc outcome_fields, unwrapped_fields;
extern PyTypeObject *outcome_type, *unwrapped_type;
PyObject *classify_one(PyObject *module, PyObject *arguments, PyObject *keywords);
PyObject *with_ethernet(PyObject *module, PyObject *arguments, PyObject *keywords);
PyObject *decapsulate_one(PyObject *module, PyObject *arguments, PyObject *keywords);

#endif

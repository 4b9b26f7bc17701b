/* Between module.c and plan.c. Python.h comes before it. */
#ifndef MIRRORD_PLAN_H
#define MIRRORD_PLAN_H

#include "core.h"

/* Read a ForwardPlan, and the program that matches for it (bytes, or None). plan->exact is the caller's to free.
 * False with an exception set. */
bool read_plan(PyObject *object, PyObject *program, struct plan *plan);

/* From the tuple that Transmit.native gives; the same. */
bool read_transmit(PyObject *description, struct transmit *transmit);

#endif

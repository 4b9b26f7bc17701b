/* Copies into a file. */
#ifndef MIRRORD_FILE_H
#define MIRRORD_FILE_H

#include "forward/forward.h"

/* Output of file.py, which Python reads and writes between two turns and in next(). */
struct output {
	int64_t descriptor;
	int64_t error; /* why nothing is written, or 0 */
	int64_t written; /* bytes in the file, whole blocks all of them */
	int64_t start; /* bytes before its first packet */
	int64_t limit; /* bytes that it may have, or 0 */
};

struct file {
	struct output *output;
	bool failed; /* a copy of the frame at hand was refused */
	void (*next)(void *context); /* to another file; without one, sets the error */
	void *context;
};

void write_batch(struct batch *batch, void *file);

#endif

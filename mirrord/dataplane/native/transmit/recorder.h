/* The flight recorder. See transmit/recorder.py. */
#ifndef MIRRORD_RECORDER_H
#define MIRRORD_RECORDER_H

#include <stdint.h>

struct facts;
struct piece;

/* Ring.row of recorder.py. Positions are counted in bytes from the beginning of time. */
struct recorded {
	uint64_t locked;
	uint64_t head; /* where the next block begins */
	uint64_t tail; /* where the oldest one does */
	uint64_t evicted; /* blocks before that one */
};

/* Memory of Python's. */
struct recorder {
	uint8_t *memory; /* or NULL: nothing is kept */
	uint64_t size;
	struct recorded *row;
};

/* Keep a copy: the first facts->kept bytes of the piece. */
void record(const struct recorder *recorder, const struct facts *facts, const struct piece *piece);

/* The row as it is between two blocks. */
struct recorded read_recorded(struct recorded *row);

#endif

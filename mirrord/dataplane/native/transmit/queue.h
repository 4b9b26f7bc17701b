/* Copies into the queues of a stream's clients. See transmit/queue.py, which has the same memory. */
#ifndef MIRRORD_QUEUE_H
#define MIRRORD_QUEUE_H

#include "forward/forward.h"

enum { MOST_CLIENTS = 16 };

/* Queue of queue.py: one client's. Positions are counted in bytes from the beginning of time. */
struct queue {
	uint8_t *memory;
	uint64_t size;
	uint64_t head; /* of what was ever put in */
	uint64_t tail; /* of what the client has taken out: its thread's */
	uint64_t *ends; /* where frames end, a row that begins again behind the last one */
	uint64_t slots; /* of the row */
	uint64_t frames; /* whose ends were ever noted */
	uint64_t settled; /* of these, those whose ends are not needed any more */
	uint64_t wakes_at; /* the client's thread waits for the bell until the head is here; 0: it is awake */
	int64_t bell; /* an eventfd */
	uint64_t refused; /* there was no room for a copy of the frame at hand */
	uint64_t base; /* the position that is at the memory's beginning */
};

/* Queues of queue.py: those of one source. */
struct queues {
	uint64_t count;
	uint64_t interface; /* that the packets are of, in each stream */
	uint64_t pcap; /* records of a pcap file, or blocks of a pcapng file */
	uint64_t queued; /* frames that are or were in every queue that there was */
	struct queue *each[MOST_CLIENTS];
};

struct queued {
	struct queues *queues; /* Python's */
	bool midway; /* the frame at hand has copies in an earlier batch, */
	bool refused; /* one of which not every queue had room for */
};

void queue_batch(struct batch *batch, void *queued);

#endif

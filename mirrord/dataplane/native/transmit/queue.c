/* Copies into the queues of a stream's clients: a worker copies, and never waits. See transmit/queue.py. */
#define _GNU_SOURCE
#include "transmit/queue.h"

#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "clock.h"
#include "transmit/pcapng.h"

enum { RECORD = 16 }; /* bytes before the packet in a pcap file */

_Static_assert(sizeof(struct queue) == 96, "Queue of queue.py");
_Static_assert(sizeof(struct queues) == 32 + 8 * MOST_CLIENTS, "Queues of queue.py");

/* Where the next bytes go. */
struct place {
	uint8_t *at, *end; /* of the memory, */
	uint8_t *begin; /* where it goes on then */
};

static struct place place_of(const struct queue *queue)
{
	uint64_t at = (queue->head - queue->base) % queue->size;

	return (struct place){ queue->memory + at, queue->memory + queue->size, queue->memory };
}

static void put(struct place *place, const void *data, uint64_t length)
{
	uint64_t first = (uint64_t)(place->end - place->at);

	if (length <= first) {
		memcpy(place->at, data, length);
		place->at += length;
		return;
	}
	memcpy(place->at, data, first);
	memcpy(place->begin, (const uint8_t *)data + first, length - first);
	place->at = place->begin + (length - first);
}

/* The header of a packet block as that of a record, which counts nanoseconds. */
static void record_header(const uint8_t *block, uint8_t *header)
{
	uint64_t time = (uint64_t)le32(block + 12) << 32 | le32(block + 16);

	put_le32(header, (uint32_t)(time / 1000000000));
	put_le32(header + 4, (uint32_t)(time % 1000000000));
	memcpy(header + 8, block + 20, 8);
}

/* Put a copy in whole, or leave it and the rest of its frame out. */
static bool put_copy(const struct queues *queues, struct queue *queue, const struct message *message,
		     const uint8_t *trailer)
{
	uint32_t header_length = queues->pcap ? RECORD : PACKET_HEADER;
	uint64_t length =
		length_of(message) - PACKET_HEADER + header_length + (queues->pcap ? 0 : message->trailer_length);
	uint64_t tail = __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE);
	uint8_t header[PACKET_HEADER];

	if (queue->refused || queue->head + length - tail > queue->size) {
		queue->refused = 1;
		return false;
	}
	if (tail == queue->head) /* what keeps up takes little of the memory */
		queue->base = tail;
	struct place place = place_of(queue);
	if (queues->pcap) {
		record_header(message->head, header);
	} else {
		memcpy(header, message->head, PACKET_HEADER);
		put_le32(header + 8, (uint32_t)queues->interface);
	}
	put(&place, header, header_length);
	put(&place, message->head + PACKET_HEADER, message->head_length - PACKET_HEADER);
	put(&place, message->tail, message->tail_length);
	if (message->zeros)
		put(&place, zero_bytes, message->zeros);
	if (!queues->pcap)
		put(&place, trailer, message->trailer_length);
	__atomic_store_n(&queue->head, queue->head + length, __ATOMIC_RELEASE);
	return true;
}

static void begin_frame(struct queued *queued)
{
	queued->refused = queued->queues->count == 0;
	for (uint64_t n = 0; n < queued->queues->count; n++) {
		struct queue *queue = queued->queues->each[n];

		queue->refused = queue->frames - queue->settled >= queue->slots;
	}
}

/* All of its copies are in, or it is lost. */
static void end_frame(struct queued *queued, const struct message *last, uint64_t now)
{
	struct queues *queues = queued->queues;

	if (queued->refused) {
		last->counters[DROPPED_QUEUE_FULL]++;
		return;
	}
	queues->queued++;
	last->counters[MIRRORED]++;
	observe_latency(last->counters, last->time, now);
	for (uint64_t n = 0; n < queues->count; n++) {
		struct queue *queue = queues->each[n];

		queue->ends[queue->frames % queue->slots] = queue->head;
		__atomic_store_n(&queue->frames, queue->frames + 1, __ATOMIC_RELEASE);
	}
}

/* A client that is at work comes upon what is new by itself; one that waits for more is let wait. */
static void wake(struct queue *queue)
{
	static const uint64_t one = 1;

	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the head is out before it is looked who waits for it */
	uint64_t at = __atomic_load_n(&queue->wakes_at, __ATOMIC_RELAXED);
	if (at && queue->head >= at && __atomic_exchange_n(&queue->wakes_at, 0, __ATOMIC_SEQ_CST)) {
		ssize_t done = write((int)queue->bell, &one, sizeof(one));
		(void)done; /* it looks by itself after a while */
	}
}

void queue_batch(struct batch *batch, void *context)
{
	struct queued *queued = context;
	struct queues *queues = queued->queues;
	uint64_t now = wall_clock();

	for (uint32_t n = 0; n < batch->count; n++) {
		const struct message *message = &batch->messages[n];
		bool taken = queues->count > 0;

		if (!queued->midway)
			begin_frame(queued);
		for (uint64_t each = 0; each < queues->count; each++)
			taken &= put_copy(queues, queues->each[each], message, room_of(batch, message)->trailer);
		if (taken) {
			message->counters[SENT_PACKETS]++;
			message->counters[SENT_BYTES] += length_of(message) - PACKET_HEADER;
		}
		queued->refused |= !taken;
		queued->midway = !message->last;
		if (message->last)
			end_frame(queued, message, now);
	}
	for (uint64_t each = 0; batch->count && each < queues->count; each++)
		wake(queues->each[each]);
	batch->count = 0;
}

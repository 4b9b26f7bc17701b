/* The flight recorder: packet blocks in a ring, the new ones in the place of the oldest. See transmit/recorder.py. */
#include "transmit/recorder.h"

#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "forward/forward.h"
#include "transmit/pcapng.h"

enum { LENGTH_AT = 4 }; /* of a block */

/* Held for the copy of one packet. */
static void lock(struct recorded *row)
{
	while (__atomic_exchange_n(&row->locked, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void unlock(struct recorded *row)
{
	__atomic_store_n(&row->locked, 0, __ATOMIC_RELEASE);
}

/* Blocks are multiples of four bytes long, as the ring is: the length of one lies in one piece. */
static uint32_t length_of_block(const struct recorder *recorder, uint64_t position)
{
	const uint8_t *at = recorder->memory + (position + LENGTH_AT) % recorder->size;

	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Copy to this offset, or on from the beginning of the memory; gives the offset behind it. Of nothing: zeros. */
static uint64_t put(const struct recorder *recorder, uint64_t at, const uint8_t *bytes, uint32_t length)
{
	uint64_t room = recorder->size - at, first = length < room ? length : room;

	if (bytes) {
		memcpy(recorder->memory + at, bytes, first);
		memcpy(recorder->memory, bytes + first, length - first);
	} else {
		memset(recorder->memory + at, 0, first);
		memset(recorder->memory, 0, length - first);
	}
	return length < room ? at + length : length - room;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static void put_block(const struct recorder *recorder, uint64_t at, const struct facts *facts,
		      const struct piece *piece, const uint8_t *trailer, uint32_t trailer_length)
{
	uint8_t header[PACKET_HEADER];
	uint32_t head = least(facts->kept, piece->head_length), tail = least(facts->kept - head, piece->tail_length);

	packet_header(facts, facts->frame->time, header);
	at = put(recorder, at, header, PACKET_HEADER);
	at = put(recorder, at, piece->head, head);
	at = put(recorder, at, piece->tail, tail);
	at = put(recorder, at, NULL, facts->kept - head - tail);
	put(recorder, at, trailer, trailer_length);
}

void record(const struct recorder *recorder, const struct facts *facts, const struct piece *piece)
{
	uint8_t trailer[MAX_TRAILER];
	uint32_t trailer_length = packet_trailer(facts, trailer);
	uint32_t length = PACKET_HEADER + facts->kept + trailer_length;
	struct recorded *row = recorder->row;

	if (length > recorder->size)
		return;
	lock(row);
	for (; row->head + length - row->tail > recorder->size; row->evicted++)
		row->tail += length_of_block(recorder, row->tail);
	/* Who reads without the lock has to see the tail before what is written behind it. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	put_block(recorder, row->head % recorder->size, facts, piece, trailer, trailer_length);
	row->head += length;
	unlock(row);
}

struct recorded read_recorded(struct recorded *row)
{
	/* What was read of the memory before was read before. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	lock(row);
	struct recorded found = *row;
	unlock(row);
	return found;
}

/* What is counted: counters.py. */
#ifndef MIRRORD_COUNTERS_H
#define MIRRORD_COUNTERS_H

#include <stdint.h>

/* counters.py: Slot. module.c gives the names to Python, which compares. */
enum slot {
	CAPTURED,
	READ_INGRESS_FRAMES,
	READ_INGRESS_BYTES,
	READ_EGRESS_FRAMES,
	READ_EGRESS_BYTES,
	MIRRORED,
	SENT_PACKETS,
	SENT_BYTES,
	SKIPPED_SAMPLED_OUT,
	SKIPPED_RATE_LIMITED,
	SKIPPED_PAUSED,
	SKIPPED_UNMATCHED,
	SKIPPED_OWN_COPY,
	SKIPPED_FLOW_LIMIT,
	SKIPPED_DUPLICATE,
	DROPPED_RING_FULL,
	DROPPED_SEND_ERROR,
	DROPPED_MTU_EXCEEDED,
	DROPPED_NO_ROUTE,
	DROPPED_MALFORMED,
	DROPPED_WRITE_ERROR,
	DROPPED_LINK_DOWN,
	DROPPED_QUEUE_FULL,
	TRUNCATED,
	SEGMENTED,
	FRAGMENTED,
	UNPLACED,
	FLOW_TABLE_FULL,
	ZEROED,
	UNFOLLOWED,
	MISSING,
	LATENCY_SUM,
	LATENCY_BUCKET,
	LATENCY_BOUNDS = 14,
	SLOTS = LATENCY_BUCKET + LATENCY_BOUNDS + 1,
	NO_REASON = -1,
};

/* counters.py: ROW. Behind the slots, for each of the collectors by its place, copies and bytes that were accepted. */
enum { MAX_REMOTES = 16, REMOTE_PACKETS = SLOTS, REMOTE_BYTES, COUNTER_ROW = SLOTS + 2 * MAX_REMOTES };

/* counters.py: Seen, what a tap counts itself. */
enum seen { SEEN_TAKEN, SEEN_LOST, SEEN_READ, SEEN_READ_BYTES, SEENS };

enum { FIRST_BOUND = 50000 }; /* nanoseconds; counters.py: LATENCY_BOUNDS, each of which is twice the one before */

/* Count one frame's time from capture to `now`, both in nanoseconds since 1970. */
static inline void observe_latency(uint64_t *counters, uint64_t time, uint64_t now)
{
	uint64_t taken = now > time ? now - time : 0;
	uint64_t bounds = taken > FIRST_BOUND ? (taken - 1) / FIRST_BOUND : 0;
	int bucket = bounds ? 64 - __builtin_clzll(bounds) : 0;

	counters[LATENCY_SUM] += taken;
	counters[LATENCY_BUCKET + (bucket < LATENCY_BOUNDS ? bucket : LATENCY_BOUNDS)]++;
}

#endif

/* When there is too much: fewer conversations, each of them whole. See overload.py. */
#ifndef MIRRORD_OVERLOAD_H
#define MIRRORD_OVERLOAD_H

#include <stdbool.h>
#include <stdint.h>

enum bucket { BITS, PACKETS, BUCKETS };

/* What is in a bucket, and what is used of it, counts in nanoseconds times its rate. */
struct thinning {
	uint32_t level;
	bool pressed; /* the ring was found half full */
	uint64_t raised, fell, hold, began; /* fell: or 0; hold: 0 for the least */
	__int128 used[BUCKETS];
	__int128 marks[BUCKETS];
};

/* The sampling rate in force. */
uint32_t thinned_rate(const struct thinning *thinning, uint32_t planned, uint32_t least);
/* A frame was captured at this time; `rates` by bucket, 0 for no limit. */
void tick_thinning(struct thinning *thinning, uint64_t time, const uint64_t *rates);
void see_bucket(struct thinning *thinning, enum bucket bucket, __int128 tokens, __int128 depth, uint64_t time);
/* A limit has left a frame out. */
void note_refusal(struct thinning *thinning, uint64_t time);

#endif

/* The two clocks, in nanoseconds: one that is never set, and the one that frames are stamped by. */
#ifndef MIRRORD_CLOCK_H
#define MIRRORD_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t read_clock(clockid_t which)
{
	struct timespec clock;

	clock_gettime(which, &clock);
	return (uint64_t)clock.tv_sec * 1000000000u + (uint64_t)clock.tv_nsec;
}

static inline uint64_t monotonic(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

/* Since 1970. */
static inline uint64_t wall_clock(void)
{
	return read_clock(CLOCK_REALTIME);
}

#endif

/* The limits' buckets, and what gives way before they are empty. See step.py. */
#include <sched.h>

#include "forward/forward.h"

static const uint64_t BURST_NANOSECONDS = 20000000, OVERLOAD_NANOSECONDS = 100000000;
static const uint64_t BURST_BITS = 65536 * 8, OVERLOAD_BITS = (1 << 20) * 8;
static const uint64_t BURST_PACKETS = 64, OVERLOAD_PACKETS = 1024;
static const uint64_t CLOCK_STEP_NANOSECONDS = 1000000000;
static const int64_t SECOND = 1000000000;

/* `burst` is the least that a bucket of this rate holds. */
static __int128 bucket_depth(uint64_t rate, uint64_t time, uint64_t burst)
{
	__int128 least = (__int128)burst * SECOND, depth = (__int128)time * rate;

	return depth > least ? depth : least;
}

static __int128 bits_depth(const struct plan *plan)
{
	if (plan->overload)
		return bucket_depth(plan->rate_limit, OVERLOAD_NANOSECONDS, OVERLOAD_BITS);
	return bucket_depth(plan->rate_limit, BURST_NANOSECONDS, BURST_BITS);
}

static __int128 packets_depth(const struct plan *plan)
{
	if (plan->overload)
		return bucket_depth(plan->packet_limit, OVERLOAD_NANOSECONDS, OVERLOAD_PACKETS);
	return bucket_depth(plan->packet_limit, BURST_NANOSECONDS, BURST_PACKETS);
}

void fill_buckets(const struct plan *plan, struct state *state)
{
	state->bits = bits_depth(plan);
	state->packets = packets_depth(plan);
}

static void refill(__int128 *bucket, uint64_t elapsed, uint64_t rate, __int128 depth)
{
	__int128 tokens = *bucket + (__int128)elapsed * rate;

	*bucket = tokens < depth ? tokens : depth;
}

/* Held for some additions: a thread that waits for it need not sleep. */
static void lock(struct state *state)
{
	while (state->shared && __atomic_test_and_set(&state->locked, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void unlock(struct state *state)
{
	if (state->shared)
		__atomic_clear(&state->locked, __ATOMIC_RELEASE);
}

static void see_buckets(const struct plan *plan, struct state *state, uint64_t time)
{
	if (plan->rate_limit)
		see_bucket(&state->thinning, BITS, state->bits, bits_depth(plan), time);
	if (plan->packet_limit)
		see_bucket(&state->thinning, PACKETS, state->packets, packets_depth(plan), time);
}

/* A bucket may fall below zero, so that a frame of any size passes while none is empty. */
static bool take_locked(const struct plan *plan, struct state *state, uint64_t size, uint32_t packets, uint64_t time)
{
	uint64_t elapsed = time > state->filled ? time - state->filled : 0;
	__int128 bits = (__int128)size * 8 * SECOND;

	refill(&state->bits, elapsed, plan->rate_limit, bits_depth(plan));
	refill(&state->packets, elapsed, plan->packet_limit, packets_depth(plan));
	if (elapsed || state->filled - time > CLOCK_STEP_NANOSECONDS)
		state->filled = time;
	if (plan->overload)
		see_buckets(plan, state, time);
	if ((plan->rate_limit && state->bits <= 0) || (plan->packet_limit && state->packets <= 0)) {
		if (plan->overload)
			note_refusal(&state->thinning, time);
		return false;
	}
	if (plan->rate_limit) {
		state->bits -= bits;
		state->thinning.used[BITS] += bits;
	}
	if (plan->packet_limit) {
		state->packets -= (__int128)packets * SECOND;
		state->thinning.used[PACKETS] += (__int128)packets * SECOND;
	}
	return true;
}

bool take(const struct plan *plan, struct state *state, uint64_t size, uint32_t packets, uint64_t time)
{
	lock(state);
	bool taken = take_locked(plan, state, size, packets, time);
	unlock(state);
	return taken;
}

uint32_t rate_now(const struct plan *plan, struct state *state, uint64_t time)
{
	const uint64_t rates[] = { [BITS] = plan->rate_limit, [PACKETS] = plan->packet_limit };

	if (!plan->overload)
		return plan->sampling_rate;
	lock(state);
	tick_thinning(&state->thinning, time, rates);
	unlock(state);
	return rate_in_force(plan, state);
}

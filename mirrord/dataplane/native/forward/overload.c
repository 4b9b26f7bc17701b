/* When there is too much: fewer conversations, each of them whole. */
#include "forward/overload.h"

#include <string.h>

enum { MOST = 16 }; /* overload.py tells of these */

static const uint64_t LARGEST_RATE = UINT32_MAX;
static const uint64_t PERIOD = 1000000000, LEAST_HOLD = 5000000000, LONGEST_HOLD = 60000000000, SOON = 60000000000;
static const uint64_t PAUSE = 50000000;
static const uint64_t CLOCK_STEP_NANOSECONDS = 1000000000;

uint32_t thinned_rate(const struct thinning *thinning, uint32_t planned, uint32_t least)
{
	uint32_t level = __atomic_load_n(&thinning->level, __ATOMIC_RELAXED);

	if (level < least)
		level = least;
	while ((uint64_t)planned << level > LARGEST_RATE)
		level--;
	return planned << level;
}

static void set_level(struct thinning *thinning, uint32_t level)
{
	__atomic_store_n(&thinning->level, level, __ATOMIC_RELAXED);
}

static void rise(struct thinning *thinning, uint64_t time)
{
	if (thinning->level < MOST)
		set_level(thinning, thinning->level + 1);
	if (thinning->fell) {
		uint64_t longer = 2 * thinning->hold < LONGEST_HOLD ? 2 * thinning->hold : LONGEST_HOLD;

		/* A clock that was set back makes it no less soon. */
		thinning->hold = time < thinning->fell || time - thinning->fell < SOON ? longer : LEAST_HOLD;
		thinning->fell = 0;
	}
	thinning->raised = time;
}

static void rise_again(struct thinning *thinning, uint64_t time)
{
	if (time >= thinning->raised && time - thinning->raised >= PAUSE)
		rise(thinning, time);
}

static bool fits(const struct thinning *thinning, const uint64_t *rates, uint64_t elapsed)
{
	for (int n = 0; n < BUCKETS; n++)
		if (rates[n] && thinning->used[n] * 5 > (__int128)rates[n] * elapsed * 2)
			return false;
	return true;
}

static bool may_fall(const struct thinning *thinning, uint64_t time)
{
	return thinning->level && time >= thinning->raised && time - thinning->raised >= thinning->hold;
}

void tick_thinning(struct thinning *thinning, uint64_t time, const uint64_t *rates)
{
	bool back = time < thinning->began;
	uint64_t elapsed = back ? 0 : time - thinning->began;

	if (!thinning->hold)
		thinning->hold = LEAST_HOLD;
	if (__atomic_exchange_n(&thinning->pressed, false, __ATOMIC_RELAXED))
		rise_again(thinning, time);
	if (back ? thinning->began - time <= CLOCK_STEP_NANOSECONDS : elapsed < PERIOD)
		return;
	if (elapsed && may_fall(thinning, time) && fits(thinning, rates, elapsed)) {
		uint64_t periods = elapsed / PERIOD;

		set_level(thinning,
			  thinning->level - (uint32_t)(periods < thinning->level ? periods : thinning->level));
		thinning->fell = time;
	}
	if (back)
		thinning->raised = time;
	thinning->began = time;
	memset(thinning->used, 0, sizeof(thinning->used));
}

void see_bucket(struct thinning *thinning, enum bucket bucket, __int128 tokens, __int128 depth, uint64_t time)
{
	__int128 high = depth * 3 / 4;

	if (tokens >= high) {
		thinning->marks[bucket] = high;
	} else if (tokens < thinning->marks[bucket]) {
		rise(thinning, time);
		thinning->marks[bucket] = tokens - depth / 16;
	}
}

void note_refusal(struct thinning *thinning, uint64_t time)
{
	rise_again(thinning, time);
}

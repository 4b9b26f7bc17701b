/* Which of the numbers are missing that a tunnel's packets carry: the definition is capture/numbers.py. */
#include "capture/numbers.h"

#include <string.h>

static uint64_t bit(uint32_t number)
{
	return (uint64_t)1 << number % 64;
}

static uint64_t *word(struct series *series, uint32_t number)
{
	return &series->came[number % WINDOW / 64];
}

static void begin(struct series *series, uint32_t number)
{
	series->highest = number;
	series->settles = 0;
	series->stale = 0;
	memset(series->came, 0xFF, sizeof(series->came)); /* none is missing that came before */
}

static uint64_t absent(const struct series *series)
{
	uint64_t missing = 0;

	for (int n = 0; n < WINDOW_WORDS; n++)
		missing += (uint64_t)__builtin_popcountll(~series->came[n]);
	return missing;
}

static uint64_t advance(struct series *series, uint32_t number)
{
	uint32_t ahead = number - series->highest;
	uint64_t missing = 0;

	series->settles += ahead;
	if (ahead >= WINDOW) {
		missing = absent(series) + ahead - WINDOW;
		memset(series->came, 0, sizeof(series->came));
	} else {
		for (uint32_t n = series->highest + 1; n != number + 1; n++) {
			missing += !(*word(series, n) & bit(n)); /* of the number that is WINDOW less */
			*word(series, n) &= ~bit(n);
		}
	}
	*word(series, number) |= bit(number);
	series->highest = number;
	return missing;
}

static struct series *find(struct numbers *numbers, const uint8_t sender[16], uint32_t ident)
{
	for (uint32_t n = 0; n < numbers->count; n++) {
		uint32_t at = (numbers->last + n) % numbers->count;
		struct series *series = &numbers->series[at];

		if (series->ident == ident && memcmp(series->sender, sender, sizeof(series->sender)) == 0) {
			numbers->last = at;
			return series;
		}
	}
	return NULL;
}

static void add(struct numbers *numbers, const uint8_t sender[16], uint32_t ident, uint32_t number)
{
	struct series *series = &numbers->series[numbers->oldest];

	numbers->oldest = (numbers->oldest + 1) % SERIES;
	numbers->count += numbers->count < SERIES;
	memcpy(series->sender, sender, sizeof(series->sender));
	series->ident = ident;
	begin(series, number);
}

uint64_t note_number(struct numbers *numbers, const uint8_t sender[16], uint32_t ident, uint32_t number)
{
	struct series *series = find(numbers, sender, ident);

	if (!series) {
		add(numbers, sender, ident, number);
		return 0;
	}
	uint32_t behind = series->highest - number;
	if (behind >= WINDOW && behind <= INT32_MAX) {
		if (++series->stale < STALE)
			return 0;
		uint64_t missing = absent(series);
		begin(series, number);
		return missing;
	}
	series->stale = 0;
	if (behind == 0)
		return 0;
	if (behind > INT32_MAX)
		return advance(series, number);
	*word(series, number) |= bit(number);
	return 0;
}

uint64_t settle_numbers(struct numbers *numbers, bool *waits)
{
	uint64_t found = 0;

	*waits = false;
	for (uint32_t n = 0; n < numbers->count; n++) {
		struct series *series = &numbers->series[n];
		uint64_t late = series->settles < WINDOW ? series->settles : WINDOW; /* newer than the last look */

		series->settles = 0;
		for (uint32_t age = (uint32_t)late; age < WINDOW && absent(series); age++) {
			uint32_t number = series->highest - age;

			found += !(*word(series, number) & bit(number));
			*word(series, number) |= bit(number);
		}
		*waits |= absent(series) > 0;
	}
	return found;
}

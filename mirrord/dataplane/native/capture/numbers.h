/* Which of the numbers are missing that a tunnel's packets carry. See capture/numbers.py. */
#ifndef MIRRORD_NUMBERS_H
#define MIRRORD_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>

enum {
	WINDOW = 1024,
	WINDOW_WORDS = WINDOW / 64,
	STALE = 16,
	SERIES = 64,
};

struct series {
	uint8_t sender[16]; /* its address, zeros behind one of IPv4 */
	uint32_t ident;
	uint32_t highest;
	uint64_t settles; /* so many of the last numbers are not as old as the last look yet */
	uint32_t stale;
	uint64_t came[WINDOW_WORDS]; /* a bit for each of the last numbers, at the number's place modulo WINDOW */
};

/* All zeros: none is followed yet. */
struct numbers {
	struct series series[SERIES];
	uint32_t count;
	uint32_t oldest; /* the next one to give up its place */
	uint32_t last; /* that was found */
};

/* A number came. How many are known to be missing by that. */
uint64_t note_number(struct numbers *numbers, const uint8_t sender[16], uint32_t ident, uint32_t number);
/* To be called each second. How many are known to be missing by now; and whether some may still come late. */
uint64_t settle_numbers(struct numbers *numbers, bool *waits);

#endif

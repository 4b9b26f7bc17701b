/* What is known of pairs of ends: places, in chains by a hash and in a row by when they were seen. Bounded. */
#ifndef MIRRORD_TABLE_H
#define MIRRORD_TABLE_H

#include "frame/frame.h"

/* Two addresses and their ports, whichever is the sender's. */
struct pair {
	uint64_t ends[4]; /* the lesser address, the greater one */
	uint16_t ports[2];
	uint16_t family;
	uint16_t kind; /* what else tells pairs apart */
};

/* What a place begins with. What else it holds is its table's owner's. */
struct place {
	struct pair pair;
	uint32_t next; /* of the same chain, or of those that are free */
	uint32_t older, newer; /* in the row */
	uint32_t turn; /* how many pairs had this place before */
};

enum { NOWHERE = 0 }; /* no place: they count from 1 */

struct table {
	uint64_t seed; /* so that nobody outside knows which pairs share a chain */
	uint8_t *places;
	size_t size; /* of a place */
	uint32_t *chains;
	uint32_t chain_mask;
	uint32_t most, count;
	uint32_t begun; /* places that ever had a pair: memory behind them was not touched */
	uint32_t free; /* the first of those before that have none */
	uint32_t oldest, newest;
};

/* For so many pairs, places of this size; false: no memory. Either way it is to be closed. */
bool open_table(struct table *table, uint32_t most, size_t size);
void close_table(struct table *table);

static inline struct place *place_at(const struct table *table, uint32_t number)
{
	return (struct place *)(table->places + (number - 1) * table->size);
}

static inline uint32_t number_of(const struct table *table, const struct place *place)
{
	return (uint32_t)((size_t)((const uint8_t *)place - table->places) / table->size) + 1;
}

/* The pair whose headers these are. Tells whether the greater end is the sender. */
bool make_pair(struct pair *pair, const struct headers *headers, uint16_t kind);
/* NULL: it has no place. */
struct place *find_place(const struct table *table, const struct pair *pair);
/* Zeros behind its beginning, and the newest; NULL: there is no room. The pair has none yet. */
struct place *add_place(struct table *table, const struct pair *pair);
/* It is the newest from now on. */
void see_place(struct table *table, struct place *place);
void forget_oldest(struct table *table);

#endif

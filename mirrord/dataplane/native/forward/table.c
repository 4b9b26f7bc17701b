#include "forward/table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

bool open_table(struct table *table, uint32_t most, size_t size)
{
	uint32_t chains = 1;

	while (chains < most)
		chains *= 2;
	*table = (struct table){ .size = size, .chain_mask = chains - 1, .most = most };
	table->places = calloc(most ? most : 1, size);
	table->chains = calloc(chains, sizeof(*table->chains));
	if (getrandom(&table->seed, sizeof(table->seed), GRND_NONBLOCK) < 0)
		table->seed = (uintptr_t)table->places; /* the host has just booted */
	return table->places && table->chains;
}

void close_table(struct table *table)
{
	free(table->places);
	free(table->chains);
}

bool make_pair(struct pair *pair, const struct headers *headers, uint16_t kind)
{
	uint16_t from = headers->source_port == NONE ? 0 : (uint16_t)headers->source_port;
	uint16_t to = headers->destination_port == NONE ? 0 : (uint16_t)headers->destination_port;
	int order = memcmp(headers->source, headers->destination, headers->address_length);
	bool turned = order > 0 || (order == 0 && from > to);

	*pair = (struct pair){ .family = headers->family, .kind = kind };
	memcpy(pair->ends, turned ? headers->destination : headers->source, headers->address_length);
	memcpy(pair->ends + 2, turned ? headers->source : headers->destination, headers->address_length);
	pair->ports[0] = turned ? to : from;
	pair->ports[1] = turned ? from : to;
	return turned;
}

static uint32_t *chain_of(const struct table *table, const struct pair *pair)
{
	uint64_t last, hash = table->seed;

	memcpy(&last, pair->ports, sizeof(last));
	hash = mix(hash + pair->ends[0]);
	if (pair->family == 6)
		hash = mix(mix(hash + pair->ends[1]) + pair->ends[3]);
	hash = mix(mix(hash + pair->ends[2]) + last);
	return &table->chains[hash & table->chain_mask];
}

/* --- the row, oldest first --- */

static void take_out(struct table *table, const struct place *place)
{
	*(place->older ? &place_at(table, place->older)->newer : &table->oldest) = place->newer;
	*(place->newer ? &place_at(table, place->newer)->older : &table->newest) = place->older;
}

static void put_last(struct table *table, struct place *place, uint32_t number)
{
	place->older = table->newest;
	place->newer = NOWHERE;
	*(place->older ? &place_at(table, place->older)->newer : &table->oldest) = number;
	table->newest = number;
}

void see_place(struct table *table, struct place *place)
{
	if (place->newer == NOWHERE)
		return;
	uint32_t number = place_at(table, place->newer)->older;

	take_out(table, place);
	put_last(table, place, number);
}

/* --- places --- */

struct place *find_place(const struct table *table, const struct pair *pair)
{
	uint32_t number = *chain_of(table, pair);

	while (number) {
		struct place *place = place_at(table, number);

		if (!memcmp(&place->pair, pair, sizeof(*pair)))
			return place;
		number = place->next;
	}
	return NULL;
}

struct place *add_place(struct table *table, const struct pair *pair)
{
	uint32_t number = table->free, *chain = chain_of(table, pair);

	if (table->count == table->most)
		return NULL;
	if (number)
		table->free = place_at(table, number)->next;
	else
		number = ++table->begun;
	struct place *place = place_at(table, number);
	memset(place + 1, 0, table->size - sizeof(*place));
	place->pair = *pair;
	place->next = *chain;
	*chain = number;
	put_last(table, place, number);
	table->count++;
	return place;
}

void forget_oldest(struct table *table)
{
	uint32_t number = table->oldest;
	struct place *place = place_at(table, number);
	uint32_t *link = chain_of(table, &place->pair);

	while (*link != number)
		link = &place_at(table, *link)->next;
	*link = place->next;
	take_out(table, place);
	place->turn++;
	place->next = table->free;
	table->free = number;
	table->count--;
}

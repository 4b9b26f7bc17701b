/* The first of each flow: a table of places, in chains by a hash and in a row by when they were seen. */
#include "forward/flows.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "forward/forward.h"

enum {
	TIDIED = 2, /* flows.py tells of these */
	TCP_FLAGS = 13,
	TCP_ENDS = 0x07,
	ICMPV6_QUERIES = 128,
	PASSES = 0,
	NOWHERE = 0, /* no place: they count from 1 */
};

static const uint64_t CLOCK_STEP_NANOSECONDS = 1000000000;

struct flow_key {
	uint64_t ends[4]; /* the lesser address, the greater one */
	uint16_t ports[2];
	uint16_t protocol; /* or UINT16_MAX: hidden */
	uint16_t family;
};

struct place {
	struct flow flow; /* the first: who has the one has the other */
	struct flow_key key;
	uint64_t seen; /* on the table's clock */
	uint32_t next; /* of the same chain, or of those that are free */
	uint32_t older, newer; /* in the row */
	uint32_t turn; /* how many flows had this place before */
};

_Static_assert(sizeof(struct place) + 2 * sizeof(uint32_t) <= 88, "flows.py: FLOW_BYTES");

struct flows {
	uint64_t clock, time;
	uint64_t seed; /* so that nobody outside knows which flows share a chain */
	struct fragments *firsts;
	struct place *places;
	uint32_t *chains;
	uint32_t chain_mask;
	uint32_t most, count;
	uint32_t begun; /* places that ever had a flow: memory behind them was not touched */
	uint32_t free; /* the first of those before that have none */
	uint32_t oldest, newest;
};

static struct place *place_at(const struct flows *flows, uint32_t number)
{
	return &flows->places[number - 1];
}

static uint32_t number_of(const struct flows *flows, const struct place *place)
{
	return (uint32_t)(place - flows->places) + 1;
}

struct flows *new_flows(const struct flow_limit *limit)
{
	struct flows *flows = calloc(1, sizeof(*flows));
	uint32_t chains = 1;

	if (!flows)
		return NULL;
	while (chains < limit->flows)
		chains *= 2;
	flows->most = limit->flows;
	flows->chain_mask = chains - 1;
	flows->places = calloc(limit->flows ? limit->flows : 1, sizeof(*flows->places));
	flows->chains = calloc(chains, sizeof(*flows->chains));
	flows->firsts = new_fragments();
	if (getrandom(&flows->seed, sizeof(flows->seed), GRND_NONBLOCK) < 0)
		flows->seed = (uintptr_t)flows; /* the host has just booted */
	if (flows->places && flows->chains && flows->firsts)
		return flows;
	free_flows(flows);
	return NULL;
}

void free_flows(struct flows *flows)
{
	if (!flows)
		return;
	free(flows->places);
	free(flows->chains);
	free(flows->firsts);
	free(flows);
}

uint32_t count_flows(const struct flows *flows)
{
	return flows->count;
}

static struct flow_key key_of(const struct headers *headers, int protocol)
{
	uint16_t from = headers->source_port == NONE ? 0 : (uint16_t)headers->source_port;
	uint16_t to = headers->destination_port == NONE ? 0 : (uint16_t)headers->destination_port;
	int order = memcmp(headers->source, headers->destination, headers->address_length);
	bool turned = order > 0 || (order == 0 && from > to);
	struct flow_key key = { .protocol = (uint16_t)protocol, .family = headers->family };

	memcpy(key.ends, turned ? headers->destination : headers->source, headers->address_length);
	memcpy(key.ends + 2, turned ? headers->source : headers->destination, headers->address_length);
	key.ports[0] = turned ? to : from;
	key.ports[1] = turned ? from : to;
	return key;
}

static uint32_t *chain_of(const struct flows *flows, const struct flow_key *key)
{
	uint64_t last, hash = flows->seed;

	memcpy(&last, key->ports, sizeof(last));
	hash = mix(hash + key->ends[0]);
	if (key->family == 6)
		hash = mix(mix(hash + key->ends[1]) + key->ends[3]);
	hash = mix(mix(hash + key->ends[2]) + last);
	return &flows->chains[hash & flows->chain_mask];
}

/* --- the row, oldest first --- */

static void take_out(struct flows *flows, struct place *place)
{
	*(place->older ? &place_at(flows, place->older)->newer : &flows->oldest) = place->newer;
	*(place->newer ? &place_at(flows, place->newer)->older : &flows->newest) = place->older;
}

static void put_last(struct flows *flows, struct place *place)
{
	uint32_t number = number_of(flows, place);

	place->older = flows->newest;
	place->newer = NOWHERE;
	*(place->older ? &place_at(flows, place->older)->newer : &flows->oldest) = number;
	flows->newest = number;
}

static void see(struct flows *flows, struct place *place)
{
	place->seen = flows->clock;
	if (flows->newest == number_of(flows, place))
		return;
	take_out(flows, place);
	put_last(flows, place);
}

/* --- places --- */

static void forget_oldest(struct flows *flows)
{
	struct place *place = place_at(flows, flows->oldest);
	uint32_t number = flows->oldest, *link = chain_of(flows, &place->key);

	while (*link != number)
		link = &place_at(flows, *link)->next;
	*link = place->next;
	take_out(flows, place);
	place->turn++;
	place->next = flows->free;
	flows->free = number;
	flows->count--;
}

static struct place *add(struct flows *flows, const struct flow_key *key)
{
	uint32_t number = flows->free, *chain = chain_of(flows, key);

	if (flows->count == flows->most)
		return NULL;
	if (number)
		flows->free = place_at(flows, number)->next;
	else
		number = ++flows->begun;
	struct place *place = place_at(flows, number);
	place->key = *key;
	place->flow = (struct flow){ 0 };
	place->next = *chain;
	*chain = number;
	put_last(flows, place);
	flows->count++;
	return place;
}

static void tidy(struct flows *flows, uint64_t idle)
{
	for (int n = 0; n < TIDIED && flows->oldest; n++) {
		if (flows->clock - place_at(flows, flows->oldest)->seen <= idle)
			break;
		forget_oldest(flows);
	}
}

static void tick(struct flows *flows, uint64_t time)
{
	bool on = time > flows->time;

	if (on)
		flows->clock += time - flows->time;
	if (on || flows->time - time > CLOCK_STEP_NANOSECONDS)
		flows->time = time;
}

static struct found find(struct flows *flows, const struct flow_limit *limit, const struct flow_key *key)
{
	uint32_t number = *chain_of(flows, key);

	while (number && memcmp(&place_at(flows, number)->key, key, sizeof(*key)))
		number = place_at(flows, number)->next;
	struct place *place = number ? place_at(flows, number) : add(flows, key);
	if (!place)
		return (struct found){ .full = true };
	if (number && flows->clock - place->seen > limit->idle)
		place->flow = (struct flow){ 0 };
	see(flows, place);
	return (struct found){ .flow = &place->flow };
}

/* --- frames --- */

/* It tells of another flow. */
static bool is_error(const struct headers *headers, const struct frame *frame)
{
	if (headers->transport == NONE || frame->captured <= (uint32_t)headers->transport)
		return false;
	uint8_t type = frame->data[headers->transport];

	if (headers->family == 6)
		return headers->protocol == IPPROTO_ICMPV6 && type < ICMPV6_QUERIES;
	return headers->protocol == IPPROTO_ICMP && (type == 3 || type == 4 || type == 5 || type == 11 || type == 12);
}

/* What later fragments find the flow by: its place, and the turn there. */
static uint64_t told(const struct flows *flows, const struct flow *flow)
{
	const struct place *place = (const void *)flow;

	return flow ? (uint64_t)place->turn << 32 | number_of(flows, place) : PASSES;
}

static struct found find_whole_or_first(struct flows *flows, const struct flow_limit *limit,
					const struct headers *headers, const struct frame *frame)
{
	struct found found = { 0 };

	if (!is_error(headers, frame)) {
		struct flow_key key = key_of(headers, headers->protocol);

		found = find(flows, limit, &key);
	}
	if (headers->fragment && !found.full)
		remember_fragment(flows->firsts, headers, told(flows, found.flow));
	return found;
}

static struct found find_later(struct flows *flows, const struct flow_limit *limit, const struct headers *headers)
{
	uint64_t number;
	struct flow_key key;
	bool known = recall_fragment(flows->firsts, headers, &number);

	if (known && number == PASSES)
		return (struct found){ 0 };
	const struct place *place = known ? place_at(flows, (uint32_t)number) : NULL;
	if (place && place->turn == number >> 32)
		key = place->key;
	else
		place = NULL;
	if (!place)
		key = key_of(headers, headers->divided);
	struct found found = find(flows, limit, &key);
	found.guessed = !place;
	return found;
}

struct found find_flow(struct flows *flows, const struct flow_limit *limit, const struct headers *headers,
		       const struct frame *frame)
{
	tick(flows, frame->time);
	tidy(flows, limit->idle);
	if (!headers->family)
		return (struct found){ 0 };
	if (!headers->fragment || headers->transport != NONE)
		return find_whole_or_first(flows, limit, headers, frame);
	return find_later(flows, limit, headers);
}

bool passes_flow_limit(const struct headers *headers, const struct frame *frame)
{
	if (headers->protocol != IPPROTO_TCP || headers->transport == NONE)
		return false;
	uint32_t at = (uint32_t)headers->transport + TCP_FLAGS;

	return frame->captured > at && frame->data[at] & TCP_ENDS;
}

/* Fragments on their way do not find their first one's place there. */
void keep_flows(struct flows *flows, struct flows *next)
{
	next->clock = flows->clock;
	next->time = flows->time;
	while (flows->count > next->most)
		forget_oldest(flows);
	for (uint32_t number = flows->oldest; number; number = place_at(flows, number)->newer) {
		const struct place *place = place_at(flows, number);
		struct place *kept = add(next, &place->key);

		kept->flow = place->flow;
		kept->seen = place->seen;
	}
}

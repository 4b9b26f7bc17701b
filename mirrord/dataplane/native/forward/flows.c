/* The first of each flow. */
#include "forward/flows.h"

#include <netinet/in.h>
#include <stdlib.h>

#include "forward/forward.h"
#include "forward/table.h"

enum {
	TIDIED = 2, /* flows.py tells of these */
	TCP_FLAGS = 13,
	TCP_ENDS = 0x07,
	ICMPV6_QUERIES = 128,
	PASSES = 0,
};

static const uint64_t CLOCK_STEP_NANOSECONDS = 1000000000;

struct known {
	struct place place;
	struct flow flow;
	uint64_t seen; /* on the table's clock */
};

_Static_assert(sizeof(struct known) + 2 * sizeof(uint32_t) <= 88, "flows.py: FLOW_BYTES");

/* Bytes of one flow that were skipped, or fewer: what found no room here was taken off all (Misra, Gries: Finding repeated
 * elements, 1982). */
struct busy {
	const struct known *known;
	uint32_t turn;
	uint64_t octets; /* 0: there is room */
};

struct flows {
	uint64_t clock, time;
	struct busy busiest[BUSIEST];
	struct fragments *firsts;
	struct table table;
};

static struct known *known_at(const struct flows *flows, uint32_t number)
{
	return (struct known *)place_at(&flows->table, number);
}

struct flows *new_flows(const struct flow_limit *limit)
{
	struct flows *flows = calloc(1, sizeof(*flows));

	if (!flows)
		return NULL;
	flows->firsts = new_fragments();
	if (open_table(&flows->table, limit->flows, sizeof(struct known)) && flows->firsts)
		return flows;
	free_flows(flows);
	return NULL;
}

void free_flows(struct flows *flows)
{
	if (!flows)
		return;
	close_table(&flows->table);
	free(flows->firsts);
	free(flows);
}

uint32_t count_flows(const struct flows *flows)
{
	return flows->table.count;
}

static void tidy(struct flows *flows, uint64_t idle)
{
	for (int n = 0; n < TIDIED && flows->table.oldest; n++) {
		if (flows->clock - known_at(flows, flows->table.oldest)->seen <= idle)
			break;
		forget_oldest(&flows->table);
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

static struct found find(struct flows *flows, const struct flow_limit *limit, const struct pair *pair)
{
	struct place *place = find_place(&flows->table, pair);
	struct known *known = (struct known *)place;

	if (!place) {
		known = (struct known *)(place = add_place(&flows->table, pair));
		if (!place)
			return (struct found){ .full = true };
	} else {
		if (flows->clock - known->seen > limit->idle)
			known->flow = (struct flow){ 0 };
		see_place(&flows->table, place);
	}
	known->seen = flows->clock;
	return (struct found){ .flow = &known->flow };
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

static const struct known *known_of(const struct flow *flow)
{
	return (const void *)((const uint8_t *)flow - offsetof(struct known, flow));
}

/* What later fragments find the flow by: its place, and the turn there. */
static uint64_t told(const struct flows *flows, const struct flow *flow)
{
	const struct place *place = flow ? &known_of(flow)->place : NULL;

	return place ? (uint64_t)place->turn << 32 | number_of(&flows->table, place) : PASSES;
}

static struct found find_whole_or_first(struct flows *flows, const struct flow_limit *limit,
					const struct headers *headers, const struct frame *frame)
{
	struct found found = { 0 };

	if (!is_error(headers, frame)) {
		struct pair pair;

		make_pair(&pair, headers, (uint16_t)headers->protocol);
		found = find(flows, limit, &pair);
	}
	if (headers->fragment && !found.full)
		remember_fragment(flows->firsts, headers, told(flows, found.flow));
	return found;
}

static struct found find_later(struct flows *flows, const struct flow_limit *limit, const struct headers *headers)
{
	uint64_t number;
	struct pair pair;
	bool known = recall_fragment(flows->firsts, headers, &number);

	if (known && number == PASSES)
		return (struct found){ 0 };
	const struct place *place = known ? place_at(&flows->table, (uint32_t)number) : NULL;
	bool guessed = !place || place->turn != number >> 32;
	if (guessed)
		make_pair(&pair, headers, headers->divided);
	else
		pair = place->pair;
	struct found found = find(flows, limit, &pair);
	found.guessed = guessed;
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

void skip_of_flow(struct flows *flows, const struct flow *flow, uint32_t octets)
{
	const struct known *known = known_of(flow);
	struct busy *room = NULL;

	for (struct busy *busy = flows->busiest; busy < flows->busiest + BUSIEST; busy++) {
		if (busy->octets && busy->known == known && busy->turn == known->place.turn) {
			busy->octets += octets;
			return;
		}
		if (!room && !busy->octets)
			room = busy;
	}
	if (room) {
		*room = (struct busy){ known, known->place.turn, octets };
		return;
	}
	for (struct busy *busy = flows->busiest; busy < flows->busiest + BUSIEST; busy++)
		busy->octets -= busy->octets < octets ? busy->octets : octets;
}

uint32_t take_skipped(struct flows *flows, struct skipped skipped[BUSIEST])
{
	uint32_t count = 0;

	for (struct busy *busy = flows->busiest; busy < flows->busiest + BUSIEST; busy++) {
		if (busy->octets && busy->turn == busy->known->place.turn)
			skipped[count++] = (struct skipped){ &busy->known->place.pair, busy->octets };
		busy->octets = 0;
	}
	return count;
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
	while (flows->table.count > next->table.most)
		forget_oldest(&flows->table);
	for (uint32_t number = flows->table.oldest; number; number = place_at(&flows->table, number)->newer) {
		const struct known *known = known_at(flows, number);
		struct known *kept = (struct known *)add_place(&next->table, &known->place.pair);

		kept->flow = known->flow;
		kept->seen = known->seen;
	}
}

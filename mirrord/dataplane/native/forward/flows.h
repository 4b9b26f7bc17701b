/* The first of each flow: how much of it was mirrored. See flows.py. */
#ifndef MIRRORD_FLOWS_H
#define MIRRORD_FLOWS_H

#include "frame/frame.h"

/* flows.py: FlowLimit. */
struct flow_limit {
	uint64_t packets, octets; /* 0: any number */
	bool headers; /* what comes after is cut behind its headers; else skipped */
	uint64_t idle; /* nanoseconds */
	uint32_t flows; /* the most that are known */
};

struct flows;
struct pair;

/* What was mirrored of one flow. */
struct flow {
	uint64_t packets, octets;
};

struct found {
	struct flow *flow; /* or NULL: it passes */
	bool full; /* there was no place for it */
	bool guessed;
};

/* A table for limit->flows flows; NULL: no memory. Ended by free_flows, which takes NULL, too. */
struct flows *new_flows(const struct flow_limit *limit);
void free_flows(struct flows *flows);
/* What was seen goes on in the next table, which is empty: all of it, or what was seen last of it. */
void keep_flows(struct flows *flows, struct flows *next);
uint32_t count_flows(const struct flows *flows);

/* The flow of a frame. What it gives holds until the next call. */
struct found find_flow(struct flows *flows, const struct flow_limit *limit, const struct headers *headers,
		       const struct frame *frame);

static inline bool is_spent(const struct flow *flow, const struct flow_limit *limit)
{
	return (limit->packets && flow->packets >= limit->packets) || (limit->octets && flow->octets >= limit->octets);
}

static inline void count_in_flow(struct flow *flow, uint32_t packets, uint32_t octets)
{
	flow->packets += packets;
	flow->octets += octets;
}

/* A frame of the flow is skipped, of so many bytes. */
void skip_of_flow(struct flows *flows, const struct flow *flow, uint32_t octets);

enum { BUSIEST = 16 };

/* A flow, and bytes of it that were skipped. */
struct skipped {
	const struct pair *pair;
	uint64_t octets;
};

/* The busiest that were skipped since this was last asked, and how many these are. What it gives holds until the next call. */
uint32_t take_skipped(struct flows *flows, struct skipped skipped[BUSIEST]);

/* Whether a frame tells of the beginning or the end of a TCP connection: it is never left out. */
bool passes_flow_limit(const struct headers *headers, const struct frame *frame);

#endif

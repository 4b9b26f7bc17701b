/* What the step is put together from: what was found out of a frame, and how its copies are made. */
#ifndef MIRRORD_COPIES_H
#define MIRRORD_COPIES_H

#include "forward/forward.h"

/* What was found out of a frame before its copies are made. */
struct finding {
	struct flow *flow; /* or NULL */
	bool spent; /* which has had its share: of the headers alone */
	uint8_t remote; /* the place of the collector that it goes to, or EACH */
	struct shown shown;
};

/* copies.c: as forward() gives it. The frame is admitted. */
int make_copies(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
		struct batch *batch, const struct finding *finding, uint64_t *counters);

/* rebuild.c */
/* The frame with its VLAN tag back in and its checksum complete, retagged; false for one that cannot be put right. */
bool rebuild(const struct plan *plan, struct piece *piece, const struct frame *frame);
/* Take the outermost tag off, put one on, and take the Ethernet header off, as planned, in headers of this length; gives
 * their new length. */
uint32_t retag(const struct plan *plan, uint8_t *head, uint32_t length);

/* sightings.c */
static inline bool looks_for_duplicates(const struct plan *plan, const struct state *state)
{
	return plan->duplicate_window && state->duplicates;
}

/* Whether a frame is a duplicate, as the wire carried it; else it is remembered. */
bool seen_whole(const struct plan *plan, const struct state *state, const struct frame *frame);
/* The same of all that a super-frame is split into, before its tags are changed. */
bool seen_super(const struct plan *plan, const struct state *state, const struct frame *frame,
		const struct super_frame *super);

#endif

/* What the step is put together from: how the copies of a frame are made. */
#ifndef MIRRORD_COPIES_H
#define MIRRORD_COPIES_H

#include <linux/virtio_net.h>

#include "forward/forward.h"
#include "inlining.h"

/* copies.c: as forward() gives it. The frame is admitted, by which the first of the facts are known. */
int make_copies(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
		struct batch *batch, struct facts *facts);

/* rebuild.c */
/* The frame with its VLAN tag back in and its checksum complete, retagged; false for one that cannot be put right. */
bool rewrite(const struct plan *plan, struct piece *piece, const struct frame *frame);

/* The same; most frames leave as they were captured. */
static inline bool rebuild(const struct plan *plan, struct piece *piece, const struct frame *frame)
{
	piece->head_length = 0;
	piece->tail = frame->data;
	piece->tail_length = frame->captured;
	piece->zeros = 0;
	if (!frame->tagged && !(frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !plan->retags && !frame->lent)
		return true;
	return rewrite(plan, piece, frame);
}

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

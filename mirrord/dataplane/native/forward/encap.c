/* What one copy has around the frame: the template, and the fields that differ from copy to copy. */
#include "forward/forward.h"

#include <string.h>

#include "bytes.h"
#include "transmit/pcapng.h"

enum {
	ERSPAN_TAGGED = 3, /* the tag is still in the frame */
	ERSPAN_TICK = 100, /* nanoseconds */
	ERSPAN_COS = 0xE0, /* in the third byte */
};

static void or_be32(uint8_t *at, uint32_t bits)
{
	put_be32(at, be32(at) | bits);
}

/* VLAN, COS, En and T; COS is the destination's own, if it has one. */
static uint32_t erspan_bits(const struct facts *facts, const uint8_t *at, bool has_en)
{
	const struct told *told = &facts->frame->told;
	uint32_t vlan = facts->vlan == NONE ? told->vlan : (uint32_t)facts->vlan;
	uint32_t en = facts->vlan == NONE ? told->en : ERSPAN_TAGGED;
	uint32_t cos = at[2] & ERSPAN_COS ? 0 : told->cos;

	return vlan << 16 | cos << 13 | (has_en ? en << 11 : 0) | (uint32_t)(facts->truncated || told->truncated) << 10;
}

/* Of the session's copies, or of those that have the id of egress frames. */
static uint32_t next_number(const struct plan *plan, const struct facts *facts)
{
	uint32_t *sequence = facts->sequence + (plan->two_ids && left_its_device(facts->frame) ? MAX_REMOTES : 0);

	return __atomic_fetch_add(sequence, 1, __ATOMIC_RELAXED);
}

uint32_t fill(const struct plan *plan, const struct facts *facts, struct room *room)
{
	const struct told *told = &facts->frame->told;
	bool egress = left_its_device(facts->frame);
	uint64_t stamp = first_time(facts->frame);
	uint32_t trailer_length = 0;

	memcpy(room->head, plan->header, plan->header_length);
	for (uint32_t n = 0; n < plan->patch_count; n++) {
		const struct patch *patch = &plan->patches[n];
		uint8_t *at = room->head + patch->at;

		switch (patch->field) {
		case SEQUENCE:
			or_be32(at, next_number(plan, facts));
			break;
		case ERSPAN_II:
			or_be32(at, erspan_bits(facts, at, true));
			break;
		case ERSPAN_III:
			or_be32(at, erspan_bits(facts, at, false));
			or_be32(at + 4, (uint32_t)(stamp / ERSPAN_TICK));
			at[11] ^= (uint8_t)(egress << 3);
			break;
		case EGRESS:
			put_be32(at, be32(at) ^ (egress ? patch->value : 0));
			break;
		case METADATA:
			at[1] = (uint8_t)(1 + (egress != (bool)patch->value));
			at[3] = facts->truncated || told->truncated;
			put_be32(at + 4, (uint32_t)(stamp >> 32));
			put_be32(at + 8, (uint32_t)stamp);
			if (told->device)
				put_be32(at + 12, told->device);
			put_be32(at + 16, next_number(plan, facts));
			break;
		case PACKET_BLOCK:
			packet_header(facts, stamp, at);
			trailer_length = packet_trailer(facts, room->trailer);
			break;
		}
	}
	return trailer_length;
}

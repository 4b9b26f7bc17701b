/* What one copy has around the frame: the template, and the fields that differ from copy to copy. */
#include "forward/forward.h"

#include <string.h>

#include "bytes.h"
#include "transmit/pcapng.h"

enum {
	ERSPAN_TAGGED = 3, /* the tag is still in the frame */
	ERSPAN_TICK = 100, /* nanoseconds */
};

static void or_be32(uint8_t *at, uint32_t bits)
{
	put_be32(at, be32(at) | bits);
}

uint32_t fill(const struct plan *plan, const struct facts *facts, struct room *room)
{
	uint32_t trailer_length = 0;

	memcpy(room->head, plan->header, plan->header_length);
	for (uint32_t n = 0; n < plan->patch_count; n++) {
		const struct patch *patch = &plan->patches[n];
		uint8_t *at = room->head + patch->at;
		uint32_t vlan = facts->vlan == NONE ? 0 : (uint32_t)facts->vlan;

		switch (patch->field) {
		case SEQUENCE:
			or_be32(at, __atomic_fetch_add(facts->sequence, 1, __ATOMIC_RELAXED));
			break;
		case ERSPAN_II:
			or_be32(at, vlan << 16 | (facts->vlan == NONE ? 0 : ERSPAN_TAGGED << 11) |
					    (uint32_t)facts->truncated << 10);
			break;
		case ERSPAN_III:
			or_be32(at, vlan << 16 | (uint32_t)facts->truncated << 10);
			or_be32(at + 4, (uint32_t)(facts->time / ERSPAN_TICK));
			at[11] ^= (uint8_t)(facts->egress << 3);
			break;
		case EGRESS:
			put_be32(at, be32(at) ^ (facts->egress ? patch->value : 0));
			break;
		case PACKET_BLOCK:
			packet_header(facts, at);
			trailer_length = packet_trailer(facts, room->trailer);
			break;
		}
	}
	return trailer_length;
}

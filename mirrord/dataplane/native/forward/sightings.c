/* Whether a frame is one that another source has shown: asked of the packets that the wire carried. See duplicates.py. */
#include "forward/copies.h"

static struct sighting sighting_of(const struct plan *plan, const struct state *state, const struct frame *frame)
{
	return (struct sighting){
		.place = state->place,
		.time = frame->time,
		.window = plan->duplicate_window,
		.cut = frame->captured < frame->length ? frame->length - frame->captured : 0,
	};
}

bool seen_whole(const struct plan *plan, const struct state *state, const struct frame *frame)
{
	static const struct plan untouched;
	struct sighting sighting = sighting_of(plan, state, frame);
	struct piece piece;

	return rebuild(&untouched, &piece, frame) &&
	       is_duplicate(state->duplicates, &sighting, piece.head, piece.head_length, piece.tail, piece.tail_length);
}

bool seen_super(const struct plan *plan, const struct state *state, const struct frame *frame,
		const struct super_frame *super)
{
	struct sighting sighting = sighting_of(plan, state, frame);
	bool all = true;

	for (uint32_t n = 0; n < super->count; n++) {
		uint8_t head[MAX_HEADERS + TAG];
		const uint8_t *payload;
		uint32_t length;

		write_segment(super, n, head, &payload, &length);
		if (!is_duplicate(state->duplicates, &sighting, head, super->head_length, payload, length))
			all = false;
	}
	return all;
}

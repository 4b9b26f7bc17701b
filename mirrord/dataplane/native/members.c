/* A source's frames to the sessions that want them: each is read and parsed once. See tap.py. */
#include "tap.h"

#include <stdlib.h>

struct staged {
	struct frame frame;
	struct parsed parsed;
};

struct staged *new_staged(void)
{
	return malloc(STAGED * sizeof(struct staged));
}

void begin_batch(struct batch *batch, struct pipeline *pipeline)
{
	batch->count = 0;
	batch->flush = pipeline->file.output ? write_batch : send_batch;
	batch->context = pipeline->file.output ? (void *)&pipeline->file : &pipeline->transmit;
}

/* `certain`: it is known already that the pipeline's matcher wants the frame. */
static void forward_one(struct pipeline *pipeline, struct batch *batch, const struct frame *frame,
			struct parsed *parsed, bool certain)
{
	uint64_t *counters = pipeline->counters;
	const struct plan *plan = &pipeline->plan;
	bool timely = frame->time >= pipeline->since && frame->time < pipeline->until;
	bool known = certain && !plan->matches && !plan->inside.program;
	bool wanted = timely && (known || wants(plan, frame, &parsed->headers));

	if (!wanted && pipeline->shares)
		return;
	counters[CAPTURED]++;
	counters[frame->egress ? READ_EGRESS_FRAMES : READ_INGRESS_FRAMES]++;
	counters[frame->egress ? READ_EGRESS_BYTES : READ_INGRESS_BYTES] += frame->length;
	int reason = SKIPPED_UNMATCHED;

	if (wanted)
		reason = forward(plan, pipeline->state, frame, parsed, batch, counters);
	if (reason != NO_REASON)
		counters[reason]++;
}

/* Note for each member that may want the nth of the frames at hand that it does. */
static void assign(struct tap *tap, const struct work *work, uint32_t n)
{
	uint32_t set = run_on_frame(tap->program, tap->program_length, &work->staged[n].frame);

	if (set >= tap->set_count)
		set = 0;
	for (uint32_t at = tap->sets[set]; at < tap->sets[set + 1]; at++) {
		uint32_t member = tap->candidates[at] >> 1;
		uint16_t *place = &tap->theirs[(size_t)member * STAGED + tap->their_count[member]++];

		*place = (uint16_t)(n << 1 | (tap->candidates[at] & 1));
	}
}

/* One session after the other, so that one batch at a time is in the making. */
static void give_out(struct tap *tap, struct work *work)
{
	struct batch *batch = work->batch;

	for (uint32_t n = 0; n < work->stage_count; n++)
		assign(tap, work, n);
	for (uint32_t m = 0; m < tap->count; m++) {
		const uint16_t *theirs = &tap->theirs[(size_t)m * STAGED];

		if (!tap->their_count[m])
			continue;
		begin_batch(batch, tap->members[m]);
		for (uint32_t n = 0; n < tap->their_count[m]; n++) {
			struct staged *one = &work->staged[theirs[n] >> 1];

			forward_one(tap->members[m], batch, &one->frame, &one->parsed, theirs[n] & 1);
		}
		batch->flush(batch, batch->context);
		tap->their_count[m] = 0;
	}
	work->stage_count = 0;
}

void hand_over(struct tap *tap, struct work *work, const struct frame *frame)
{
	tap->seen[SEEN_READ]++;
	tap->seen[SEEN_READ_BYTES] += frame->length;
	if (tap->count == 1) {
		struct parsed parsed = { .hashed = false };

		parse(frame, &parsed.headers);
		forward_one(tap->members[0], work->batch, frame, &parsed, false);
		return;
	}
	if (work->stage_count == STAGED)
		give_out(tap, work);
	struct staged *one = &work->staged[work->stage_count++];

	one->frame = *frame;
	one->parsed.hashed = false;
	parse(&one->frame, &one->parsed.headers);
}

void settle(struct tap *tap, struct work *work)
{
	if (tap->count == 1)
		work->batch->flush(work->batch, work->batch->context);
	else
		give_out(tap, work);
}

/* Frames to copies: the step in the middle of every session, and which of them are made any. */
#include "forward/copies.h"

/* Whether the frame's conversation is one of those that are mirrored; and which collector it goes to. */
static bool sampled_in(const struct plan *plan, struct state *state, const struct headers *headers, uint64_t time,
		       struct facts *facts, bool *guessed)
{
	bool samples = plan->sampling_rate > 1 || plan->overload, chooses = plan->remotes.count && !plan->remotes.all;
	uint64_t conversation = conversation_hash(headers, plan->firsts, guessed);

	if (samples && (uint32_t)conversation % rate_now(plan, state, time))
		return false;
	if (chooses)
		facts->remote = choose_remote(&plan->remotes, conversation);
	return true;
}

uint32_t run_on_frame(const struct sock_filter *program, uint32_t length, const struct frame *frame)
{
	struct bpf_frame view = { .data = frame->data,
				  .length = frame->captured,
				  .egress = frame->egress,
				  .tagged = frame->tagged,
				  .tci = frame->tci,
				  .tpid = frame->tpid };

	return run_program(program, length, &view);
}

static uint32_t accepts_inside(const struct inside *inside, const struct frame *frame, const struct headers *headers)
{
	struct opened opened;

	if (!open_inside(inside, frame, headers, &opened))
		return 0;
	uint32_t rule = run_on_frame(inside->program, inside->program_length, &opened.frame);
	close_inside(&opened);
	return rule;
}

bool programs_want(const struct plan *plan, const struct frame *frame, const struct headers *headers)
{
	uint32_t rule = plan->exact ? run_on_frame(plan->exact, plan->exact_length, frame) : UINT32_MAX;

	if (rule && plan->inside.program)
		rule = accepts_inside(&plan->inside, frame, headers);
	if (rule && rule <= plan->match_count)
		plan->matches[rule - 1]++;
	return rule;
}

/* How much of the payload may leave. */
static struct shown show_some(const struct plan *plan, const struct frame *frame, const struct headers *headers)
{
	if (plan->connections)
		return show_payload(plan->connections, frame, headers);
	return (struct shown){ plan->payload == KEEP ? SHOW_ALL : 0, false };
}

/* Whether sampling and the flow's limit let a frame pass: NO_REASON, and what was found; or the slot of why not. */
RARE int select_one(const struct plan *plan, struct state *state, const struct frame *frame,
		    const struct headers *headers, struct facts *facts, uint64_t *counters)
{
	bool guessed = false;
	struct found found = { 0 };
	bool sampled = !plan->firsts || sampled_in(plan, state, headers, frame->time, facts, &guessed);

	if (sampled && plan->flows)
		found = find_flow(plan->flows, &plan->flow_limit, headers, frame);
	counters[UNPLACED] += guessed || found.guessed;
	counters[FLOW_TABLE_FULL] += found.full;
	if (!sampled)
		return SKIPPED_SAMPLED_OUT;
	facts->flow = found.flow;
	facts->spent = found.flow && is_spent(found.flow, &plan->flow_limit) && !passes_flow_limit(headers, frame);
	if (!facts->spent || plan->flow_limit.headers)
		return NO_REASON;
	skip_of_flow(plan->flows, found.flow, frame->length);
	return SKIPPED_FLOW_LIMIT;
}

/* The same of any plan, and how much of the payload may leave. */
USUAL int admit(const struct plan *plan, struct state *state, const struct frame *frame, const struct headers *headers,
		struct facts *facts, uint64_t *counters)
{
	int reason = NO_REASON;

	facts->flow = NULL;
	facts->spent = false;
	facts->remote = plan->remotes.all ? EACH : 0;
	if (plan->firsts || plan->flows)
		reason = select_one(plan, state, frame, headers, facts, counters);
	if (reason != SKIPPED_SAMPLED_OUT)
		facts->shown = show_some(plan, frame, headers);
	return reason == NO_REASON && is_trimmed(frame) ? SKIPPED_FLOW_LIMIT : reason;
}

/* The frame inside of the packet is the one that is meant: it tells the conversation and the flow, and may be all that is
 * mirrored. */
RARE int forward_inside(const struct plan *plan, struct state *state, const struct frame *frame,
			const struct headers *headers, struct batch *batch)
{
	struct opened opened;
	struct parsed within = { .hashed = true }, around = { .headers = *headers, .hashed = true };
	struct facts facts;

	if (is_trimmed(frame))
		return SKIPPED_FLOW_LIMIT;
	if (!open_inside(&plan->inside, frame, headers, &opened))
		return SKIPPED_UNMATCHED;
	parse(&opened.frame, &within.headers);
	within.flow = around.flow = flow_hash(&within.headers);
	int reason = admit(plan, state, &opened.frame, &within.headers, &facts, batch->counters);
	bool admitted = reason == NO_REASON;
	if (admitted && plan->inside.strip)
		reason = make_copies(plan, state, &opened.frame, &within, batch, &facts);
	close_inside(&opened);
	if (admitted && !plan->inside.strip) {
		facts.shown = show_some(plan, frame, headers); /* of what leaves: the tunnel's packet */
		reason = make_copies(plan, state, frame, &around, batch, &facts);
	}
	return reason;
}

int forward(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
	    struct batch *batch)
{
	struct facts facts;

	if (plan->own && is_own_copy(plan->own, &parsed->headers, frame))
		return SKIPPED_OWN_COPY;
	if (plan->blocked != NO_REASON) {
		if (!plan->inside.program)
			show_some(plan, frame, &parsed->headers); /* what comes after is to be known */
		return plan->blocked;
	}
	if (plan->inside.program)
		return forward_inside(plan, state, frame, &parsed->headers, batch);
	int reason = admit(plan, state, frame, &parsed->headers, &facts, batch->counters);
	return reason == NO_REASON ? make_copies(plan, state, frame, parsed, batch, &facts) : reason;
}

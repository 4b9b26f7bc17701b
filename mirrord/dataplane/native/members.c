/* A source's frames to the sessions that want them: each is read and parsed once. See tap.py. */
#include "tap.h"

#include <stddef.h>
#include <stdlib.h>

enum { CACHE_LINE = 64 };

struct staged {
	struct frame frame;
	struct parsed parsed;
};

struct staged *new_staged(void)
{
	return malloc(STAGED * sizeof(struct staged));
}

static void flush(struct work *work)
{
	if (work->batch->count)
		work->batch->flush(work->batch, work->batch->context);
}

/* Copies from now on leave by this pipeline's way: with those that are there, where one system call can send all. */
static void begin_batch(struct work *work, struct pipeline *pipeline)
{
	struct batch *batch = work->batch;
	struct exits *exits = pipeline->exits;
	struct parts *parts = work->parts;

	if (pipeline->file.output) {
		flush(work);
		batch->flush = write_batch;
		batch->context = &pipeline->file;
	} else if (pipeline->queued.queues) {
		flush(work);
		batch->flush = queue_batch;
		batch->context = &pipeline->queued;
	} else {
		for (uint32_t n = 0; n < exits->count; n++)
			begin_turn(&exits->transmits[n], work->outgoing, work->turn);
		if (batch->count && (batch->context != parts || !may_go_on(parts, exits)))
			flush(work);
		if (!batch->count)
			parts->count = 0;
		parts->parts[parts->count++] = (struct part){ exits, batch->count };
		batch->flush = send_parts;
		batch->context = parts;
	}
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

	batch->counters = counters;
	if (wanted)
		reason = forward(plan, pipeline->state, frame, parsed, batch);
	if (reason != NO_REASON)
		counters[reason]++;
}

/* Who wants frames of this device; NULL: nobody does any more. */
static const struct stretch *find_stretch(const struct tap *tap, int device)
{
	uint32_t low = 0, high = tap->stretch_count;

	if (!tap->stretches[0].device)
		return &tap->stretches[0];
	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (tap->stretches[middle].device < device)
			low = middle + 1;
		else
			high = middle;
	}
	return low < tap->stretch_count && tap->stretches[low].device == device ? &tap->stretches[low] : NULL;
}

static void note(struct tap *tap, const struct frame *frame, uint32_t n, uint32_t member, bool certain)
{
	uint32_t place = tap->outlet_of[member], at = tap->share_count++;
	struct outlet *outlet = &tap->outlets[place];

	tap->shares[at] = (struct share){ member, END, (uint16_t)n, certain };
	if (outlet->first == END) {
		outlet->first = at;
		tap->awaited[tap->awaited_count++] = place;
	} else {
		tap->shares[outlet->last].next = at;
	}
	outlet->last = at;
	outlet->frames++;
	outlet->octets += frame->length;
}

/* Note for each member that may want the nth of the frames at hand that it does. */
static void assign(struct tap *tap, const struct work *work, uint32_t n)
{
	const struct frame *frame = &work->staged[n].frame;
	const struct stretch *stretch = find_stretch(tap, frame->device);

	if (!stretch)
		return;
	if (stretch->matcher == NONE) {
		note(tap, frame, n, stretch->first, false);
		return;
	}
	const struct matcher *matcher = &tap->matchers[stretch->matcher];
	uint32_t set = run_on_frame(matcher->program, matcher->length, frame);

	if (set >= matcher->set_count)
		set = 0;
	for (uint32_t at = matcher->sets[set]; at < matcher->sets[set + 1]; at++)
		note(tap, frame, n, stretch->first + (matcher->candidates[at] >> 1), matcher->candidates[at] & 1);
}

/* The first member that an outlet has a share for, the nth of those that are awaited; or NULL. */
static const struct pipeline *awaited(const struct tap *tap, uint32_t n)
{
	if (n >= tap->awaited_count)
		return NULL;
	return tap->members[tap->shares[tap->outlets[tap->awaited[n]].first].member];
}

static void fetch(const void *start, size_t size)
{
	const char *end = (const char *)start + size;

	for (const char *at = (const char *)((uintptr_t)start & -(uintptr_t)CACHE_LINE); at < end; at += CACHE_LINE)
		__builtin_prefetch(at);
}

/* Of hundreds of sessions, what is known is not in the processor's cache: it comes while those before are served. What most
 * have no use for, the collectors of one that has several and its limits, stays where it is. */
static void fetch_session(const struct pipeline *session)
{
	const struct plan *plan = &session->plan;

	fetch(session, offsetof(struct pipeline, plan.remotes.seeds));
	fetch(&plan->on_mtu_exceeded, offsetof(struct pipeline, own) - offsetof(struct pipeline, plan.on_mtu_exceeded));
}

/* What it points to, when it is there itself. */
static void fetch_known(const struct pipeline *session)
{
	fetch(session->counters, (SENT_BYTES + 1) * sizeof(*session->counters));
	fetch(&session->counters[LATENCY_SUM], (REMOTE_BYTES + 1 - LATENCY_SUM) * sizeof(*session->counters));
	fetch(session->plan.own, 2 * CACHE_LINE);
}

static void fetch_exits(const struct exits *exits)
{
	fetch(exits, sizeof(*exits));
	fetch(exits->transmits, offsetof(struct transmit, ports));
}

/* What the nth of those outlets whose turn comes needs at first is fetched while the ones before have theirs. */
static void fetch_outlets(const struct tap *tap, uint32_t n)
{
	const struct pipeline *next = awaited(tap, n + 1), *after = awaited(tap, n + 2);

	if (after)
		fetch_session(after);
	if (next) {
		fetch_known(next);
		fetch_exits(next->exits);
	}
}

/* The same where many sources leave by one outlet. */
static void fetch_shares(const struct tap *tap, const struct share *share)
{
	const struct share *next = share->next == END ? NULL : &tap->shares[share->next];
	const struct share *after = !next || next->next == END ? NULL : &tap->shares[next->next];

	if (after && after->member != next->member)
		fetch_session(tap->members[after->member]);
	if (next && next->member != share->member)
		fetch_known(tap->members[next->member]);
}

/* One session after the other, the frames of all of its devices in the order in which they came. */
static void give_shares(struct tap *tap, struct work *work)
{
	for (uint32_t n = 0; n < tap->awaited_count; n++) {
		struct outlet *outlet = &tap->outlets[tap->awaited[n]];

		fetch_outlets(tap, n);
		begin_batch(work, tap->members[tap->shares[outlet->first].member]);
		for (uint32_t at = outlet->first; at != END; at = tap->shares[at].next) {
			const struct share *share = &tap->shares[at];
			struct staged *one = &work->staged[share->frame];

			fetch_shares(tap, share);
			forward_one(tap->members[share->member], work->batch, &one->frame, &one->parsed,
				    share->certain);
		}
		outlet->first = END;
	}
	tap->awaited_count = tap->share_count = 0;
}

static void give_out(struct tap *tap, struct work *work)
{
	for (uint32_t n = 0; n < work->stage_count; n++) {
		if (tap->share_count + tap->outlet_count > tap->share_room) /* a frame is in each outlet once */
			give_shares(tap, work);
		assign(tap, work, n);
	}
	give_shares(tap, work);
	work->stage_count = 0;
}

/* Whether its frames go to one member, whatever they are. */
static bool has_one(const struct tap *tap)
{
	return tap->count == 1 && !tap->stretches[0].device;
}

void begin_handing(struct tap *tap, struct work *work)
{
	if (has_one(tap))
		begin_batch(work, tap->members[0]);
}

void hand_over(struct tap *tap, struct work *work, const struct frame *frame)
{
	tap->seen[SEEN_READ]++;
	tap->seen[SEEN_READ_BYTES] += frame->captured;
	if (has_one(tap)) {
		struct parsed parsed;

		parsed.hashed = false;
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

void send_all(struct work *work)
{
	flush(work);
	work->buffered = 0;
}

void settle(struct tap *tap, struct work *work)
{
	if (!has_one(tap))
		give_out(tap, work);
	send_all(work);
}

void end_handing(struct tap *tap, struct work *work)
{
	bool may_wait = !tap->ring && !tap->tunnel && !tap->large;

	if (!has_one(tap))
		give_out(tap, work);
	if (!may_wait)
		send_all(work);
}

/* The copies of a frame that is mirrored: rebuilt or split, hidden, cut, counted by the limits, behind their headers. */
#include "forward/copies.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "bytes.h"

/* Whether it matters where a frame's headers end. */
static bool needs_end(const struct plan *plan, const struct facts *facts)
{
	return plan->past_headers != NONE || facts->spent;
}

/* How much of a frame is kept whose headers end at `end`, as it leaves, or NONE: where that is not known. */
static uint32_t planned_snaplen(const struct plan *plan, int end)
{
	if (plan->past_headers != NONE)
		return end == NONE ? UINT32_MAX : (uint32_t)end + (uint32_t)plan->past_headers;
	/* A tag that was pushed is no part of the mirrored frame. */
	return plan->snaplen ? plan->snaplen + (plan->push_tag ? TAG : 0) : UINT32_MAX;
}

static uint32_t snaplen(const struct plan *plan, const struct facts *facts, int end)
{
	uint32_t planned = planned_snaplen(plan, end);

	return facts->spent && end != NONE && (uint32_t)end < planned ? (uint32_t)end : planned;
}

/* How much is kept of a frame of this length that begins at `start`; and whether the path takes less than that. */
static uint32_t kept_length(const struct plan *plan, const struct facts *facts, const uint8_t *start, uint32_t length,
			    uint32_t snaplen, bool *exceeds)
{
	uint32_t kept = snaplen < length ? snaplen : length, limit = facts->reach->frame_limit;

	*exceeds = limit && kept > limit;
	if (*exceeds && !plan->header_length && !plan->strip_ethernet && be16(start + ETH_ADDRESSES) == ETH_P_8021Q) {
		limit += TAG; /* a device takes one 802.1Q tag over its MTU */
		*exceeds = kept > limit;
	}
	return *exceeds && plan->on_mtu_exceeded == TRUNCATE ? limit : kept;
}

/* An offset behind the tags, after what was `before` bytes long has become `after`. */
static int moved(int offset, uint32_t before, uint32_t after)
{
	return offset == NONE ? NONE : offset + (int)(after - before);
}

/* For any number of fragments. */
static bool too_long(const struct facts *facts, uint32_t kept)
{
	return facts->reach->longest && kept > facts->reach->longest;
}

/* What copies of so many bytes of frames take on their way out, all that they are for. */
static uint64_t sent_size(const struct plan *plan, const struct facts *facts, uint64_t kept, uint32_t copies)
{
	return plan->recipients * (kept + (uint64_t)copies * plan->header_length) +
	       (uint64_t)((int64_t)copies * facts->reach->overhead);
}

static struct message *next_message(struct batch *batch)
{
	if (batch->count == BATCH)
		batch->flush(batch, batch->context);
	return &batch->messages[batch->count++];
}

/* The first facts->kept bytes of the piece, behind the plan's header. Most copies need nothing written: the header
 * is the plan's, as it is, and all of the frame is tail. */
static inline struct message *emit(const struct plan *plan, const struct facts *facts, struct batch *batch,
				   const struct piece *piece)
{
	struct message *message = next_message(batch);
	uint32_t from_head = facts->kept < piece->head_length ? facts->kept : piece->head_length;
	uint32_t rest = facts->kept - from_head;

	if (plan->recorder.memory)
		record(&plan->recorder, facts, piece);
	message->head = plan->header;
	message->head_length = plan->header_length + from_head;
	message->trailer_length = 0;
	if (plan->patch_count || from_head) {
		struct room *room = room_of(batch, message);

		message->trailer_length = (uint8_t)fill(plan, facts, room);
		memcpy(room->head + plan->header_length, piece->head, from_head);
		message->head = room->head;
	}
	message->tail = piece->tail;
	message->tail_length = rest < piece->tail_length ? rest : piece->tail_length;
	message->zeros = rest - message->tail_length;
	message->time = facts->frame->time;
	message->counters = batch->counters;
	message->remote = facts->remote;
	message->lost = 0;
	return message;
}

/* Whether there was something to hide. */
RARE bool hide_whole(struct piece *piece, const struct frame *frame, const struct headers *headers, uint32_t shown)
{
	int start = hidden_from(headers, frame->data, frame->captured);
	int by = (int)(piece_length(piece) - frame->captured);

	return start != NONE &&
	       hide(piece, headers, by, by - (frame->tagged ? TAG : 0), (uint32_t)(start + by) + shown);
}

USUAL int forward_whole(const struct plan *plan, struct state *state, const struct frame *frame, struct batch *batch,
			const struct parsed *parsed, struct facts *facts)
{
	uint64_t *counters = batch->counters;
	struct piece piece;
	bool exceeds;
	int end = NONE;

	if (!rebuild(plan, &piece, frame))
		return DROPPED_MALFORMED;
	facts->packets = 1;
	if (looks_for_duplicates(plan, state) && seen_whole(plan, state, frame))
		return SKIPPED_DUPLICATE;
	uint32_t length = piece_length(&piece);
	uint32_t cut = frame->captured < frame->length ? frame->length - frame->captured : 0;
	if (needs_end(plan, facts))
		end = moved(headers_end(&parsed->headers, frame->data, frame->captured), frame->captured, length);
	bool zeroed = facts->shown.kept != SHOW_ALL && hide_whole(&piece, frame, &parsed->headers, facts->shown.kept);
	facts->kept = kept_length(plan, facts, piece.head_length ? piece.head : piece.tail, length,
				  snaplen(plan, facts, end), &exceeds);
	facts->original = length + cut;
	facts->truncated = facts->kept < facts->original;
	if ((exceeds && plan->on_mtu_exceeded == DROP) || too_long(facts, facts->kept))
		return DROPPED_MTU_EXCEEDED;
	if (is_limited(plan) &&
	    !take(plan, state, sent_size(plan, facts, facts->kept, 1), plan->recipients, frame->time))
		return SKIPPED_RATE_LIMITED;
	struct message *message = emit(plan, facts, batch, &piece);
	message->flow = parsed->flow;
	message->last = true;
	if (facts->truncated)
		counters[TRUNCATED]++;
	if (zeroed)
		counters[ZEROED]++;
	if (exceeds && plan->on_mtu_exceeded == FRAGMENT)
		counters[FRAGMENTED]++;
	return NO_REASON;
}

/* What is done to each segment of a super-frame alike. */
struct treatment {
	struct headers headers; /* that they have, but for its tags' being put on and taken off, */
	int moved; /* by which the offsets change */
	int end; /* of the headers as they leave, or NONE: not known */
	int hidden_from; /* in the segment as it leaves, or NONE */
};

/* What the plan wants of segments, and put their tags on and off. */
static void treat(const struct plan *plan, const struct facts *facts, struct super_frame *super,
		  struct treatment *treatment)
{
	struct frame head = { .data = super->head, .captured = super->head_length };
	uint32_t before = super->head_length;

	*treatment = (struct treatment){ .end = NONE, .hidden_from = NONE };
	if (needs_end(plan, facts) || facts->shown.kept != SHOW_ALL) {
		parse(&head, &treatment->headers);
		treatment->end = headers_end(&treatment->headers, head.data, head.captured);
		if (facts->shown.kept != SHOW_ALL)
			treatment->hidden_from = hidden_from(&treatment->headers, head.data, head.captured);
	}
	super->head_length = retag(plan, super->head, before);
	treatment->moved = (int)(super->head_length - before);
	treatment->end = moved(treatment->end, before, super->head_length);
	treatment->hidden_from = moved(treatment->hidden_from, before, super->head_length);
	for (uint32_t n = 0; n < super->layer_count; n++)
		super->layers[n].at += super->head_length - before;
}

/* The segment has what is behind so many bytes of the payload. */
static bool hide_segment(struct piece *piece, const struct treatment *treatment, uint32_t shown, uint32_t behind)
{
	uint32_t kept = shown > behind ? shown - behind : 0;

	return hide(piece, &treatment->headers, treatment->moved, treatment->moved,
		    (uint32_t)treatment->hidden_from + kept);
}

RARE int forward_super(const struct plan *plan, struct state *state, const struct frame *frame, struct batch *batch,
		       const struct parsed *parsed, struct facts *facts)
{
	uint64_t *counters = batch->counters;
	struct super_frame super;
	enum kind kind;
	bool full_exceeds = false, rest_exceeds;
	int transport = parsed->headers.transport;
	struct treatment treatment;

	switch (frame->vnet.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		kind = TCP;
		break;
	case GSO_UDP_L4:
		kind = UDP;
		break;
	default:
		return DROPPED_MALFORMED;
	}
	if (frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		transport = frame->vnet.csum_start;
	if (transport == NONE || !open_super_frame(&super, frame, (uint32_t)transport, kind))
		return DROPPED_MALFORMED;

	facts->packets = super.count;
	if (looks_for_duplicates(plan, state) && seen_super(plan, state, frame, &super))
		return SKIPPED_DUPLICATE;
	treat(plan, facts, &super, &treatment);
	uint32_t others = super.count - 1, most = snaplen(plan, facts, treatment.end);
	uint32_t full = super.head_length + super.gso_size;
	uint32_t rest = super.head_length + super.payload_length - others * super.gso_size;
	uint32_t kept_rest = kept_length(plan, facts, super.head, rest, most, &rest_exceeds);
	uint32_t kept_full = others ? kept_length(plan, facts, super.head, full, most, &full_exceeds) : 0;
	if ((full_exceeds || rest_exceeds) && plan->on_mtu_exceeded == DROP)
		return DROPPED_MTU_EXCEEDED;
	if (too_long(facts, kept_full) || too_long(facts, kept_rest))
		return DROPPED_MTU_EXCEEDED;
	uint64_t size = sent_size(plan, facts, (uint64_t)others * kept_full + kept_rest, super.count);
	if (is_limited(plan) && !take(plan, state, size, super.count * plan->recipients, frame->time))
		return SKIPPED_RATE_LIMITED;
	for (uint32_t n = 0; n < super.count; n++) {
		struct piece piece = { .head_length = super.head_length };
		bool last = n == others;

		write_segment(&super, n, piece.head, &piece.tail, &piece.tail_length);
		if (treatment.hidden_from != NONE)
			counters[ZEROED] += hide_segment(&piece, &treatment, facts->shown.kept, n * super.gso_size);
		facts->kept = last ? kept_rest : kept_full;
		facts->original = last ? rest : full;
		facts->truncated = facts->kept < facts->original;
		struct message *message = emit(plan, facts, batch, &piece);
		message->flow = parsed->flow;
		message->last = last;
		counters[TRUNCATED] += facts->truncated;
	}
	counters[SEGMENTED] += others > 0;
	if (plan->on_mtu_exceeded == FRAGMENT)
		counters[FRAGMENTED] += (uint64_t)full_exceeds * others + rest_exceeds;
	return NO_REASON;
}

int make_copies(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
		struct batch *batch, struct facts *facts)
{
	if (frame->captured < ETH_HEADER)
		return DROPPED_MALFORMED;
	bool super = frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	if (frame->captured < frame->length && (super || frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return DROPPED_MALFORMED;
	if (!parsed->hashed)
		parsed->flow = flow_hash(&parsed->headers);
	parsed->hashed = true;
	bool one = facts->remote != EACH;
	facts->frame = frame;
	facts->sequence = state->sequences + (one ? facts->remote : 0);
	facts->reach = one && plan->remotes.count ? &plan->remotes.reaches[facts->remote] : &plan->reach;
	facts->vlan = parsed->headers.vlan;
	facts->packets = 0;
	int reason = super ? forward_super(plan, state, frame, batch, parsed, facts)
			   : forward_whole(plan, state, frame, batch, parsed, facts);
	if (facts->flow && facts->packets)
		count_in_flow(facts->flow, facts->packets, frame->length);
	if (reason == NO_REASON && facts->shown.unfollowed)
		batch->counters[UNFOLLOWED]++;
	return reason;
}

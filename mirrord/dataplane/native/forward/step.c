/* Frames to copies: the step in the middle of every session. */
#include "forward/forward.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "bytes.h"

/* Where SCTP's checksum is in its header. No other protocol has one there, so it tells SCTP in tunnels too. */
enum { SCTP_CHECKSUM = 8 };

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
	message->time = facts->time;
	message->counters = batch->counters;
	message->remote = facts->remote;
	message->lost = 0;
	return message;
}

static bool is_tag(const uint8_t *at)
{
	return is_tpid(be16(at));
}

/* Take the outermost tag off, put one on, and take the Ethernet header off, as planned, in headers of this length; gives
 * their new length. */
static uint32_t retag(const struct plan *plan, uint8_t *head, uint32_t length)
{
	uint8_t *at = head + ETH_ADDRESSES;

	if (plan->strip_tag && length >= ETH_ADDRESSES + TAG && is_tag(at)) {
		length -= TAG;
		memmove(at, at + TAG, length - ETH_ADDRESSES);
	}
	if (plan->tpid && length >= ETH_HEADER && is_tag(at))
		put_be16(at, plan->tpid);
	if (plan->push_tag) {
		memmove(at + TAG, at, length - ETH_ADDRESSES);
		put_be16(at, ETH_P_8021Q);
		put_be16(at + 2, plan->push_tag);
		length += TAG;
	}
	if (plan->strip_ethernet) {
		uint32_t off = length < ETH_HEADER ? length : ETH_HEADER;

		length -= off;
		memmove(head, head + off, length);
	}
	return length;
}

/* The checksum of all that begins at `start` into its field, which the head holds. */
static void complete_checksum(struct piece *piece, uint32_t start, uint32_t field)
{
	const uint8_t *covered = piece->head + start;
	uint32_t length = piece->head_length - start;

	if (field - start == SCTP_CHECKSUM) {
		memset(piece->head + field, 0, 4);
		uint32_t crc = ~crc32c(crc32c(~UINT32_C(0), covered, length), piece->tail, piece->tail_length);
		for (uint32_t n = 0; n < 4; n++)
			piece->head[field + n] = (uint8_t)(crc >> 8 * n);
		return;
	}
	uint32_t tail_sum = ones_sum(piece->tail, piece->tail_length);
	if (length & 1) /* the tail begins in the middle of a word */
		tail_sum = (tail_sum >> 8) | (tail_sum & 0xFF) << 8;
	uint16_t value = (uint16_t)~fold((uint64_t)tail_sum + ones_sum(covered, length));
	put_be16(piece->head + field, value ? value : 0xFFFF);
}

/* The frame with its VLAN tag back in and its checksum complete, retagged. */
static bool whole(const struct plan *plan, struct piece *piece, const struct frame *frame)
{
	bool unfinished = frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

	piece->head_length = 0;
	piece->tail = frame->data;
	piece->tail_length = frame->captured;
	piece->zeros = 0;
	bool borrowed = frame->lent && !plan->strip_ethernet;
	if (!frame->tagged && !unfinished && !plan->strip_tag && !plan->push_tag && !plan->tpid && !borrowed) {
		if (plan->strip_ethernet) {
			piece->tail += ETH_HEADER;
			piece->tail_length -= ETH_HEADER;
		}
		return true;
	}
	uint32_t shift = frame->tagged ? TAG : 0, length = frame->captured + shift;
	uint32_t start = frame->vnet.csum_start + shift, field = start + frame->vnet.csum_offset;
	uint32_t width = frame->vnet.csum_offset == SCTP_CHECKSUM ? 4 : 2;

	piece->head_length = unfinished ? field + width : shift ? ETH_ADDRESSES + TAG : frame->lent ? ETH_HEADER : 0;
	if (piece->head_length > length || piece->head_length > MAX_HEADERS)
		return false;
	/* What is rewritten holds the ethertype, also when a tag has been taken off in front of it. */
	if ((unfinished || retags(plan)) && piece->head_length < ETH_HEADER + TAG)
		piece->head_length = length < ETH_HEADER + TAG ? length : ETH_HEADER + TAG;
	if (shift) {
		memcpy(piece->head, frame->data, ETH_ADDRESSES);
		put_be16(piece->head + ETH_ADDRESSES, frame->tpid);
		put_be16(piece->head + ETH_ADDRESSES + 2, frame->tci);
		memcpy(piece->head + ETH_ADDRESSES + TAG, frame->data + ETH_ADDRESSES,
		       piece->head_length - ETH_ADDRESSES - TAG);
	} else {
		memcpy(piece->head, frame->data, piece->head_length);
	}
	piece->tail = frame->data + (piece->head_length - shift);
	piece->tail_length = length - piece->head_length;
	if (unfinished)
		complete_checksum(piece, start, field);
	if (retags(plan))
		piece->head_length = retag(plan, piece->head, piece->head_length);
	return true;
}

/* Whether there was something to hide. */
static bool hide_whole(struct piece *piece, const struct frame *frame, const struct headers *headers, uint32_t shown)
{
	int start = hidden_from(headers, frame->data, frame->captured);
	int by = (int)(piece_length(piece) - frame->captured);

	return start != NONE &&
	       hide(piece, headers, by, by - (frame->tagged ? TAG : 0), (uint32_t)(start + by) + shown);
}

static bool looks_for_duplicates(const struct plan *plan, const struct state *state)
{
	return plan->duplicate_window && state->duplicates;
}

static struct sighting sighting_of(const struct plan *plan, const struct state *state, const struct frame *frame)
{
	return (struct sighting){
		.place = state->place,
		.time = frame->time,
		.window = plan->duplicate_window,
		.cut = frame->captured < frame->length ? frame->length - frame->captured : 0,
	};
}

/* Whether a frame is a duplicate, as the wire carried it; else it is remembered. */
static bool seen_whole(const struct plan *plan, const struct state *state, const struct frame *frame)
{
	static const struct plan untouched;
	struct sighting sighting = sighting_of(plan, state, frame);
	struct piece piece;

	return whole(&untouched, &piece, frame) &&
	       is_duplicate(state->duplicates, &sighting, piece.head, piece.head_length, piece.tail, piece.tail_length);
}

/* The same of all that a super-frame is split into, before its tags are changed. */
static bool seen_super(const struct plan *plan, const struct state *state, const struct frame *frame,
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

static int forward_whole(const struct plan *plan, struct state *state, const struct frame *frame, struct batch *batch,
			 const struct parsed *parsed, struct facts *facts, uint64_t *counters)
{
	struct piece piece;
	bool exceeds;
	int end = NONE;

	if (!whole(plan, &piece, frame))
		return DROPPED_MALFORMED;
	facts->packets = 1;
	if (looks_for_duplicates(plan, state) && seen_whole(plan, state, frame))
		return SKIPPED_DUPLICATE;
	uint32_t length = piece_length(&piece);
	uint32_t cut = frame->captured < frame->length ? frame->length - frame->captured : 0;
	if (needs_end(plan, facts))
		end = moved(headers_end(&parsed->headers, frame->data, frame->captured), frame->captured, length);
	bool zeroed = facts->shown != SHOW_ALL && hide_whole(&piece, frame, &parsed->headers, facts->shown);
	facts->kept = kept_length(plan, facts, piece.head_length ? piece.head : piece.tail, length,
				  snaplen(plan, facts, end), &exceeds);
	facts->original = length + cut;
	facts->truncated = facts->kept < facts->original;
	if ((exceeds && plan->on_mtu_exceeded == DROP) || too_long(facts, facts->kept))
		return DROPPED_MTU_EXCEEDED;
	if (!within_limits(plan, state, sent_size(plan, facts, facts->kept, 1), plan->recipients, frame->time))
		return SKIPPED_RATE_LIMITED;
	struct message *message = emit(plan, facts, batch, &piece);
	message->flow = parsed->flow;
	message->last = true;
	counters[TRUNCATED] += facts->truncated;
	counters[ZEROED] += zeroed;
	counters[FRAGMENTED] += exceeds && plan->on_mtu_exceeded == FRAGMENT;
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
	if (needs_end(plan, facts) || facts->shown != SHOW_ALL) {
		parse(&head, &treatment->headers);
		treatment->end = headers_end(&treatment->headers, head.data, head.captured);
		if (facts->shown != SHOW_ALL)
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

static int forward_super(const struct plan *plan, struct state *state, const struct frame *frame, struct batch *batch,
			 const struct parsed *parsed, struct facts *facts, uint64_t *counters)
{
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
	if (!within_limits(plan, state, size, super.count * plan->recipients, frame->time))
		return SKIPPED_RATE_LIMITED;
	for (uint32_t n = 0; n < super.count; n++) {
		struct piece piece = { .head_length = super.head_length };
		bool last = n == others;

		write_segment(&super, n, piece.head, &piece.tail, &piece.tail_length);
		if (treatment.hidden_from != NONE)
			counters[ZEROED] += hide_segment(&piece, &treatment, facts->shown, n * super.gso_size);
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

/* What was found out of a frame before its copies are made. */
struct finding {
	struct flow *flow; /* or NULL */
	bool spent; /* which has had its share: of the headers alone */
	uint8_t remote; /* the place of the collector that it goes to, or EACH */
	struct shown shown;
};

/* Whether the frame's conversation is one of those that are mirrored; and which collector it goes to. */
static bool sampled_in(const struct plan *plan, struct state *state, const struct headers *headers, uint64_t time,
		       struct finding *finding, bool *guessed)
{
	bool samples = plan->sampling_rate > 1 || plan->overload, chooses = plan->remotes.count && !plan->remotes.all;

	finding->remote = plan->remotes.all ? EACH : 0;
	if (!samples && !chooses)
		return true;
	uint64_t conversation = conversation_hash(headers, plan->firsts, guessed);
	if (samples && (uint32_t)conversation % rate_now(plan, state, time))
		return false;
	if (chooses)
		finding->remote = choose_remote(&plan->remotes, conversation);
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

bool wants(const struct plan *plan, const struct frame *frame, const struct headers *headers)
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

static int copy(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
		struct batch *batch, const struct finding *finding, uint64_t *counters)
{
	if (frame->captured < ETH_HEADER)
		return DROPPED_MALFORMED;
	bool super = frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	if (frame->captured < frame->length && (super || frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return DROPPED_MALFORMED;
	if (!parsed->hashed)
		parsed->flow = flow_hash(&parsed->headers);
	parsed->hashed = true;
	bool one = finding->remote != EACH;
	const struct told *told = &frame->told;
	struct facts facts = { .sequence = state->sequences + (one ? finding->remote : 0),
			       .remote = finding->remote,
			       .reach = one && plan->remotes.count ? &plan->remotes.reaches[finding->remote]
								   : &plan->reach,
			       .vlan = parsed->headers.vlan,
			       .egress = told->direction ? told->direction == TOLD_EGRESS : frame->egress,
			       .time = frame->time,
			       .stamp = told->time ? told->time : frame->time,
			       .told = told,
			       .shown = finding->shown.kept,
			       .spent = finding->spent };
	int reason;
	if (super)
		reason = forward_super(plan, state, frame, batch, parsed, &facts, counters);
	else
		reason = forward_whole(plan, state, frame, batch, parsed, &facts, counters);
	if (finding->flow && facts.packets)
		count_in_flow(finding->flow, facts.packets, frame->length);
	counters[UNFOLLOWED] += reason == NO_REASON && finding->shown.unfollowed;
	return reason;
}

/* Whether sampling and the flow's limit let a frame pass: NO_REASON, and what was found; or the slot of why not. */
static int admit(const struct plan *plan, struct state *state, const struct frame *frame, const struct headers *headers,
		 struct finding *finding, uint64_t *counters)
{
	bool guessed = false;
	struct found found = { 0 };
	bool sampled = sampled_in(plan, state, headers, frame->time, finding, &guessed);

	if (sampled && plan->flows)
		found = find_flow(plan->flows, &plan->flow_limit, headers, frame);
	counters[UNPLACED] += guessed || found.guessed;
	counters[FLOW_TABLE_FULL] += found.full;
	if (!sampled)
		return SKIPPED_SAMPLED_OUT;
	finding->flow = found.flow;
	finding->shown = show_some(plan, frame, headers);
	finding->spent = found.flow && is_spent(found.flow, &plan->flow_limit) && !passes_flow_limit(headers, frame);
	return finding->spent && !plan->flow_limit.headers ? SKIPPED_FLOW_LIMIT : NO_REASON;
}

/* The frame inside of the packet is the one that is meant: it tells the conversation and the flow, and may be all that is
 * mirrored. */
static int forward_inside(const struct plan *plan, struct state *state, const struct frame *frame,
			  const struct headers *headers, struct batch *batch, uint64_t *counters)
{
	struct opened opened;
	struct parsed within = { .hashed = true }, around = { .headers = *headers, .hashed = true };
	struct finding finding;

	if (!open_inside(&plan->inside, frame, headers, &opened))
		return SKIPPED_UNMATCHED;
	parse(&opened.frame, &within.headers);
	within.flow = around.flow = flow_hash(&within.headers);
	int reason = admit(plan, state, &opened.frame, &within.headers, &finding, counters);
	bool admitted = reason == NO_REASON;
	if (admitted && plan->inside.strip)
		reason = copy(plan, state, &opened.frame, &within, batch, &finding, counters);
	close_inside(&opened);
	if (admitted && !plan->inside.strip) {
		finding.shown = show_some(plan, frame, headers); /* of what leaves: the tunnel's packet */
		reason = copy(plan, state, frame, &around, batch, &finding, counters);
	}
	return reason;
}

int forward(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
	    struct batch *batch, uint64_t *counters)
{
	struct finding finding;

	if (plan->own && is_own_copy(plan->own, &parsed->headers, frame))
		return SKIPPED_OWN_COPY;
	if (plan->blocked != NO_REASON) {
		if (!plan->inside.program)
			show_some(plan, frame, &parsed->headers); /* what comes after is to be known */
		return plan->blocked;
	}
	if (plan->inside.program)
		return forward_inside(plan, state, frame, &parsed->headers, batch, counters);
	int reason = admit(plan, state, frame, &parsed->headers, &finding, counters);
	return reason == NO_REASON ? copy(plan, state, frame, parsed, batch, &finding, counters) : reason;
}

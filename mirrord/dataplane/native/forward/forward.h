/* The forward step: a frame and a plan in, messages in a batch and counters out. */
#ifndef MIRRORD_FORWARD_H
#define MIRRORD_FORWARD_H

#include "counters.h"
#include "filter/bpf.h"
#include "forward/duplicates.h"
#include "forward/flows.h"
#include "forward/overload.h"
#include "forward/tls.h"
#include "frame/frame.h"
#include "transmit/recorder.h"

enum {
	MAX_TEMPLATE = 128,
	MAX_PATCHES = 4,
	MAX_TRAILER = 20,
	BATCH = 512, /* copies handed to the kernel at a time, and how far one may overtake where it may */
};

/* plans.py: OnMtuExceeded, Payload, Tunnel; encap.py: Field. module.c gives the names to Python, which compares. */
enum on_mtu_exceeded { TRUNCATE, FRAGMENT, DROP };
enum payload { KEEP, ZERO, TLS };
enum field { SEQUENCE = 1, ERSPAN_II, ERSPAN_III, PACKET_BLOCK, EGRESS, METADATA };
enum tunnel { NO_TUNNEL, TUNNEL_VXLAN, TUNNEL_GRE, TUNNEL_ERSPAN, TUNNEL_GENEVE, TUNNEL_TZSP };

/* A field of the header that differs from copy to copy. */
struct patch {
	enum field field;
	uint32_t at;
	uint32_t value; /* of EGRESS: the bits that differ; of METADATA: whether directions are turned around */
};

/* Which tunnel packets are looked into; port 0: not this encapsulation. plans.py: Inside. */
struct inside {
	uint32_t vxlan_port, geneve_port;
	bool gre;
	bool any_ident, strip;
	uint32_t ident;
	struct sock_filter *program; /* what is wanted of the frames inside; or NULL: no tunnel is looked into */
	uint32_t program_length;
};

/* What copies for a collector may have. plans.py: Remote. */
struct reach {
	uint32_t frame_limit, longest;
	int32_t overhead; /* may be less than 0 */
};

enum { EACH = 255 }; /* in place of one collector: a copy is for all that are alive */

/* The collectors, where there are several; see forward/remotes.py. */
struct remotes {
	uint32_t count; /* 0: there is one way out */
	bool all; /* each of them gets every copy */
	uint64_t seeds[MAX_REMOTES];
	bool alive[MAX_REMOTES];
	struct reach reaches[MAX_REMOTES];
};

struct plan {
	uint8_t header[MAX_TEMPLATE];
	uint32_t header_length;
	struct patch patches[MAX_PATCHES];
	uint32_t patch_count;
	bool two_ids; /* egress frames have an id of their own, and so numbers of their own */
	int blocked; /* the slot that each frame counts in for now, no copies being made; or NO_REASON */
	bool strip_tag;
	uint32_t push_tag; /* or 0 */
	uint32_t tpid; /* of the outermost of the frame's tags that stay, in place of its own; or 0 */
	bool strip_ethernet;
	bool retags; /* one of these four */
	uint32_t snaplen;
	enum payload payload;
	int past_headers; /* bytes kept behind the frame's headers, or NONE */
	struct reach
		reach; /* where there is one collector; and where each gets every copy, but for the overhead: of all */
	uint32_t recipients; /* how many each copy is for */
	struct remotes remotes;
	enum on_mtu_exceeded on_mtu_exceeded;
	uint64_t duplicate_window; /* nanoseconds within which a packet of two sources is one, or 0 */
	uint32_t sampling_rate;
	bool overload; /* fewer conversations, when there is too much */
	uint32_t least_level; /* of these */
	struct fragments *firsts; /* of the conversations that are sampled; or NULL */
	struct connections *connections; /* whose payload is shown but for application data; or NULL */
	struct flow_limit flow_limit;
	struct flows *flows; /* that it holds for; or NULL */
	struct own_copies *own; /* what is not mirrored again; or NULL */
	void *guards_owner; /* the bytes object that it looks into; or NULL */
	uint64_t rate_limit; /* bits a second, or 0 */
	uint64_t packet_limit; /* copies a second, or 0 */
	struct sock_filter *exact; /* or NULL */
	uint32_t exact_length;
	struct inside inside;
	uint64_t *matches; /* frames by the rule that accepted them, of the frames that are meant; or NULL */
	uint32_t match_count;
	void *matches_owner; /* plan.c's */
	struct recorder recorder;
	void *recorder_owner; /* plan.c's */
};

/* What changes from frame to frame. Pipelines of one session and source share it, each on a thread of its own. */
struct state {
	bool shared;
	bool locked; /* the buckets and the thinning, while they are shared */
	__int128 bits; /* 64 bits are too few from 461 Gbit/s on */
	__int128 packets;
	uint64_t filled; /* both */
	struct thinning thinning;
	struct duplicates *duplicates; /* what was copied to its destination, or NULL; */
	uint32_t place; /* the source's there */
	uint32_t *
		sequences; /* of the session's next copy for each collector, and behind these of the next one with the id
			      * of egress frames; its other sources count there too */
};

/* What is found out of a frame on its way, and what the fields of its copies are made from. */
struct facts {
	struct flow *flow; /* or NULL: it has no limit */
	bool spent; /* which has had its share: of the headers alone */
	uint8_t remote; /* the place of the collector that it goes to, or EACH */
	struct shown shown;
	/* From here on what is known once its copies are made. */
	const struct frame *frame;
	uint32_t *sequence; /* for its collector: counted up where the header has one */
	const struct reach *reach;
	int vlan; /* or NONE */
	uint32_t packets; /* that the captured frame is on the wire; 0: nobody knows */
	uint32_t kept; /* bytes of the mirrored frame in the copy */
	uint32_t original; /* bytes that it had */
	bool truncated;
};

struct message {
	const uint8_t *head; /* in the plan, where all copies have the same, or in the message's room */
	const uint8_t *tail; /* in the capture's memory */
	uint32_t head_length;
	uint32_t tail_length;
	uint64_t flow;
	uint64_t time;
	uint64_t *counters; /* of whom it is a copy for: sources of one session leave by one way */
	uint8_t trailer_length; /* bytes of the room's trailer */
	uint8_t lane; /* which of the transmit's, when it is sent */
	uint8_t remote; /* the place of the collector that it is for, or EACH */
	uint8_t lost; /* the slot that its frame is lost by, where it is for EACH; or 0 */
	bool last; /* of its frame's copies */
	uint32_t zeros; /* that follow the tail */
};

/* What of a message is its own. */
struct room {
	uint8_t head[MAX_TEMPLATE + MAX_HEADERS + TAG];
	uint8_t trailer[MAX_TRAILER];
};

static inline uint32_t length_of(const struct message *message)
{
	return message->head_length + message->tail_length + message->zeros;
}

/* Copies on their way. flush() empties it; forward() calls it when it is full. Most messages use no room of their own, so
 * the rooms stand apart. */
struct batch {
	struct message messages[BATCH];
	uint32_t count;
	uint64_t *counters; /* that the next frames and their copies count in */
	void (*flush)(struct batch *batch, void *context);
	void *context;
	struct room rooms[BATCH];
};

static inline struct room *room_of(struct batch *batch, const struct message *message)
{
	return &batch->rooms[message - batch->messages];
}

/* A frame that is to be mirrored as it is but for its first bytes, which may have been rewritten, and its last ones, which
 * may be zeros in place of the captured ones. */
struct piece {
	uint8_t head[MAX_HEADERS + TAG]; /* a tag may be pushed */
	uint32_t head_length;
	const uint8_t *tail;
	uint32_t tail_length;
	uint32_t zeros;
};

static inline uint32_t piece_length(const struct piece *piece)
{
	return piece->head_length + piece->tail_length + piece->zeros;
}

/* forward/payload.c: the offset of the first byte that is hidden in the frame that these are the headers of; or NONE. */
int hidden_from(const struct headers *headers, const uint8_t *data, uint32_t length);
/* Put zeros in place of all from `start` on, and mend the checksum. The headers' offsets are `moved` bytes less than in the
 * piece, `tags` of these by what was put on or taken off. False where there is nothing. */
bool hide(struct piece *piece, const struct headers *headers, int moved, int tags, uint32_t start);
/* What zeros are sent from: ZEROS bytes, as many as the longest frame has. Nobody writes there. */
enum { ZEROS = 512 << 10 };
extern uint8_t zero_bytes[ZEROS];

/* forward/fragments.c: made by new_fragments (NULL: no memory), ended by free. */
struct fragments;
struct fragments *new_fragments(void);
void remember_fragment(struct fragments *fragments, const struct headers *first, uint64_t number);
bool recall_fragment(struct fragments *fragments, const struct headers *later, uint64_t *number);

/* forward/own_copies.c: from what Guards.packed gives, which has to outlive it; NULL: no memory. */
struct own_copies;
struct own_copies *new_own_copies(const void *packed, size_t length);
struct own_copies *own_copies_as(const struct own_copies *other); /* of the same guards; it has seen no fragments */
void free_own_copies(struct own_copies *own);
/* What was seen of fragments goes on to the next. */
void keep_firsts(struct own_copies *own, struct own_copies *next);
bool is_own_copy(struct own_copies *own, const struct headers *headers, const struct frame *frame);

/* forward/conversation.c */
uint64_t conversation_hash(const struct headers *headers, struct fragments *firsts, bool *guessed);

/* forward/remotes.c */
/* The place of the collector that a conversation goes to. */
uint8_t choose_remote(const struct remotes *remotes, uint64_t conversation);

/* forward/decap.c */
/* Find the frame in a packet that begins with its UDP or GRE header, over which an IP packet's Ethernet header may be
 * written; false for a malformed one. */
bool decapsulate(enum tunnel tunnel, struct frame *frame, uint8_t *packet, uint32_t length);
/* Tell in the frame's vnet header what its sender left to a device; split a TCP frame longer than limit, if not 0. */
void unfinished(struct frame *frame, uint32_t limit);

/* forward/inside.c */
struct opened {
	struct frame frame;
	uint8_t saved[ETH_HEADER];
};

/* Find the frame inside a tunnel's packet, whose headers these are; false for what is no such packet. What was opened is
 * to be closed before anything else looks at the packet. */
bool open_inside(const struct inside *inside, const struct frame *frame, const struct headers *headers,
		 struct opened *opened);
void close_inside(struct opened *opened);

/* forward/encap.c: gives the trailer's length. */
uint32_t fill(const struct plan *plan, const struct facts *facts, struct room *room);

/* What every session that wants a frame asks of it, found out once. */
struct parsed {
	struct headers headers;
	uint64_t flow;
	bool hashed; /* the flow is known */
};

/* forward/step.c: what a checked program gives for a frame; of a plan's, the number of the rule that accepts it, or 0. */
uint32_t run_on_frame(const struct sock_filter *program, uint32_t length, const struct frame *frame);
/* Whether the plan's programs want the frame; its rule is counted. */
bool programs_want(const struct plan *plan, const struct frame *frame, const struct headers *headers);

/* Whether the plan wants the frame. */
static inline bool wants(const struct plan *plan, const struct frame *frame, const struct headers *headers)
{
	return (!plan->exact && !plan->inside.program) || programs_want(plan, frame, headers);
}

/* Gives NO_REASON when copies were made, whose TRUNCATED, SEGMENTED and FRAGMENTED are counted; or the slot of why there are
 * none. The frame is wanted. */
int forward(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
	    struct batch *batch);

/* forward/limits.c */
void fill_buckets(const struct plan *plan, struct state *state);
static inline bool is_limited(const struct plan *plan)
{
	return plan->rate_limit || plan->packet_limit;
}

/* Whether the limits that there are let a frame pass whose copies are of this size together, and so many. */
bool take(const struct plan *plan, struct state *state, uint64_t size, uint32_t packets, uint64_t time);
/* The sampling rate for a frame that was captured at this time. */
uint32_t rate_now(const struct plan *plan, struct state *state, uint64_t time);

/* The sampling rate, for who looks on. */
static inline uint32_t rate_in_force(const struct plan *plan, const struct state *state)
{
	return plan->overload ? thinned_rate(&state->thinning, plan->sampling_rate, plan->least_level)
			      : plan->sampling_rate;
}

#endif

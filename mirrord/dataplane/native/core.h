/* The native core: what the modules of mirrord/dataplane do, at full speed. Each .c file is named as the Python module that
 * defines what it must do; a differential test holds the two to the same bytes and counters.
 *
 * No policy, no allocation per frame, no Python but in module.c and plan.c. Numbers are in host order unless a name says be_.
 */
#ifndef MIRRORD_CORE_H
#define MIRRORD_CORE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "filter/bpf.h"
#include "forward/flows.h"

enum {
	ETH_HEADER = 14,
	ETH_ADDRESSES = 12,
	TAG = 4,
	MAX_TAGS = 2,
	IPV4_HEADER = 20,	/* without options */
	UDP_HEADER = 8,
	GSO_UDP_L4 = 5,		/* VIRTIO_NET_HDR_GSO_UDP_L4, in kernel headers since 6.2 */
	MAX_HEADERS = 256,	/* bytes of headers rewritten in front of a segment */
	MAX_TEMPLATE = 128,
	MAX_PATCHES = 4,
	MAX_TRAILER = 20,
	PACKET_HEADER = 28,	/* of a pcapng packet block */
	MAX_SOCKETS = 64,
	MAX_LAYERS = 10,	/* headers that a segment has fields in */
	BATCH = 512,		/* copies handed to the kernel at a time, and how far one may overtake where it may */
	MAX_OUTER = 62,		/* Ethernet, IPv6, UDP */
	TURN_MILLISECONDS = 4,	/* pipeline.py and transmit/sockets.py tell why */
	PATIENCE_MILLISECONDS = 10,
	JAMMED_MILLISECONDS = 1,
	SMALL = 256,		/* bytes of a copy that costs less to copy than to refer to */
};

/* counters.py: Slot. module.c gives the names to Python, which compares. */
enum slot {
	CAPTURED,
	READ_INGRESS_FRAMES,
	READ_INGRESS_BYTES,
	READ_EGRESS_FRAMES,
	READ_EGRESS_BYTES,
	MIRRORED,
	SENT_PACKETS,
	SENT_BYTES,
	SKIPPED_SAMPLED_OUT,
	SKIPPED_RATE_LIMITED,
	SKIPPED_PAUSED,
	SKIPPED_UNMATCHED,
	SKIPPED_OWN_COPY,
	SKIPPED_FLOW_LIMIT,
	DROPPED_RING_FULL,
	DROPPED_SEND_ERROR,
	DROPPED_MTU_EXCEEDED,
	DROPPED_NO_ROUTE,
	DROPPED_MALFORMED,
	DROPPED_WRITE_ERROR,
	DROPPED_LINK_DOWN,
	TRUNCATED,
	SEGMENTED,
	FRAGMENTED,
	UNPLACED,
	FLOW_TABLE_FULL,
	LATENCY_SUM,
	LATENCY_BUCKET,
	LATENCY_BOUNDS = 14,
	SLOTS = LATENCY_BUCKET + LATENCY_BOUNDS + 1,
	NO_REASON = -1,
};

/* struct virtio_net_hdr */
struct vnet {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t header_length;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

struct frame {
	const uint8_t *data;
	uint32_t captured;	/* bytes at data */
	uint32_t length;	/* bytes that the kernel held */
	bool egress;
	bool tagged;
	uint16_t tpid, tci;
	struct vnet vnet;
	uint64_t time;		/* nanoseconds since 1970 */
};

enum { NONE = -1 };

struct headers {
	uint16_t ethertype;
	uint8_t family;		/* 4, 6, or 0 */
	bool fragment;
	uint8_t divided;	/* of a fragment: what all fragments of the datagram say that they are parts of */
	uint32_t identification;	/* of a fragment */
	int vlan;		/* the outermost tag's id, or NONE */
	int protocol;		/* or NONE */
	int transport;		/* offset, or NONE */
	int source_port, destination_port;	/* or NONE */
	const uint8_t *source, *destination;
	uint32_t address_length;
};

/* A field of the header that differs from copy to copy. */
struct patch {
	enum { SEQUENCE = 1, ERSPAN_II, ERSPAN_III, PACKET_BLOCK } field;
	uint32_t at;
};

struct plan {
	uint8_t header[MAX_TEMPLATE];
	uint32_t header_length;
	struct patch patches[MAX_PATCHES];
	uint32_t patch_count;
	int blocked;		/* the slot that each frame counts in for now, no copies being made; or NO_REASON */
	bool strip_tag;
	uint32_t push_tag;	/* or 0 */
	uint32_t snaplen;
	uint32_t frame_limit, longest;
	enum { TRUNCATE, FRAGMENT, DROP } on_mtu_exceeded;
	uint32_t sampling_rate;
	struct fragments *firsts;	/* of the conversations that are sampled; or NULL */
	struct flow_limit flow_limit;
	struct flows *flows;	/* that it holds for; or NULL */
	struct own_copies *own;	/* what is not mirrored again; or NULL */
	void *guards_owner;	/* the bytes object that it looks into; or NULL */
	uint64_t rate_limit;	/* bits a second, or 0 */
	uint64_t packet_limit;	/* copies a second, or 0 */
	int32_t overhead;	/* may be less than 0 */
	struct sock_filter *exact;	/* or NULL */
	uint32_t exact_length;
	uint64_t *matches;	/* frames by the rule that accepted them, or NULL */
	uint32_t match_count;
	void *matches_owner;	/* plan.c's */
};

static inline bool retags(const struct plan *plan)
{
	return plan->strip_tag || plan->push_tag;
}

/* What changes from frame to frame. Pipelines of one session and source share it, each on a thread of its own. */
struct state {
	bool shared;
	bool locked;		/* the buckets, while they are shared */
	__int128 bits;		/* 64 bits are too few from 461 Gbit/s on */
	__int128 packets;
	uint64_t filled;	/* both */
	uint32_t *sequence;	/* of the session's next copy that has one; its other sources count there too */
};

/* What the fields are made from. */
struct facts {
	uint32_t *sequence;	/* counted up where the header has one */
	int vlan;		/* or NONE */
	bool truncated;
	bool egress;
	uint64_t time;
	uint32_t kept;		/* bytes of the mirrored frame in the copy */
	uint32_t original;	/* bytes that it had */
	uint32_t packets;	/* that the captured frame is on the wire; 0: nobody knows */
};

struct message {
	const uint8_t *head;	/* in the plan, where all copies have the same, or in the message's room */
	const uint8_t *tail;	/* in the capture's memory */
	uint32_t head_length;
	uint32_t tail_length;
	uint64_t flow;
	uint64_t time;
	uint8_t trailer_length;	/* bytes of the room's trailer */
	uint8_t lane;		/* which of the transmit's; send_batch fills it */
	bool last;		/* of its frame's copies */
};

/* What of a message is its own. */
struct room {
	uint8_t head[MAX_TEMPLATE + MAX_HEADERS + TAG];
	uint8_t trailer[MAX_TRAILER];
};

static inline uint32_t length_of(const struct message *message)
{
	return message->head_length + message->tail_length;
}

/* Copies on their way. flush() empties it; forward() calls it when it is full. Most messages use no room of their own, so
 * the rooms stand apart. */
struct batch {
	struct message messages[BATCH];
	uint32_t count;
	void (*flush)(struct batch *batch, void *context);
	void *context;
	struct room rooms[BATCH];
};

static inline struct room *room_of(struct batch *batch, const struct message *message)
{
	return &batch->rooms[message - batch->messages];
}

static inline uint16_t be16(const uint8_t *at)
{
	uint16_t number;

	memcpy(&number, at, sizeof(number));
	return be16toh(number);
}

static inline uint32_t be32(const uint8_t *at)
{
	uint32_t number;

	memcpy(&number, at, sizeof(number));
	return be32toh(number);
}

static inline uint64_t be64(const uint8_t *at)
{
	uint64_t number;

	memcpy(&number, at, sizeof(number));
	return be64toh(number);
}

static inline void put_be16(uint8_t *at, uint32_t number)
{
	uint16_t be_number = htobe16((uint16_t)number);

	memcpy(at, &be_number, sizeof(be_number));
}

static inline void put_be32(uint8_t *at, uint32_t number)
{
	uint32_t be_number = htobe32(number);

	memcpy(at, &be_number, sizeof(be_number));
}

/* frame/headers.c */
void parse(const struct frame *frame, struct headers *headers);
uint64_t mix(uint64_t value);
uint64_t pair_hash(const struct headers *headers, bool ported);
uint64_t flow_hash(const struct headers *headers);
bool is_tpid(uint16_t ethertype);	/* frame/headers.py: TPIDS */
bool is_ipv6_option(int protocol);	/* frame/headers.py: IPV6_OPTIONS */
bool is_extension(int protocol);	/* any IPv6 extension header that is looked through */

/* forward/fragments.c: made by new_fragments (NULL: no memory), ended by free. */
struct fragments;
struct fragments *new_fragments(void);
void remember_fragment(struct fragments *fragments, const struct headers *first, uint64_t number);
bool recall_fragment(struct fragments *fragments, const struct headers *later, uint64_t *number);

/* forward/own_copies.c: from what own_copies.pack gives, which has to outlive it; NULL: no memory. */
struct own_copies;
struct own_copies *new_own_copies(const void *packed, size_t length);
void free_own_copies(struct own_copies *own);
/* What was seen of fragments goes on to the next. */
void keep_firsts(struct own_copies *own, struct own_copies *next);
bool is_own_copy(struct own_copies *own, const struct headers *headers, const struct frame *frame);

/* forward/conversation.c */
uint64_t conversation_hash(const struct headers *headers, struct fragments *firsts, bool *guessed);

/* frame/checksum.c */
uint32_t ones_sum(const uint8_t *data, size_t length);
uint32_t fold(uint64_t sum);
uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t length);	/* begins with, and is completed by, ~0 */

/* frame/segment.c */
enum kind { IPV4 = 1, IPV6, GRE, UDP, TCP };
struct layer {
	enum kind kind;
	uint32_t at;
};

struct super_frame {
	uint8_t head[MAX_HEADERS + TAG];	/* a tag may be pushed */
	uint32_t head_length;
	const uint8_t *payload;
	uint32_t payload_length;
	uint32_t gso_size;
	uint32_t count;
	struct layer layers[MAX_LAYERS];
	uint32_t layer_count;
};

bool open_super_frame(struct super_frame *super, const struct frame *frame, uint32_t transport, enum kind kind);
/* Write segment n's headers to head (head_length bytes) and give its payload. */
void write_segment(const struct super_frame *super, uint32_t n, uint8_t *head, const uint8_t **payload,
		   uint32_t *length);

/* forward/decap.c */
enum tunnel { NO_TUNNEL, TUNNEL_VXLAN, TUNNEL_GRE, TUNNEL_ERSPAN };
/* Find the frame in a packet that begins with its UDP or GRE header; false for a malformed one. */
bool decapsulate(enum tunnel tunnel, struct frame *frame, const uint8_t *packet, uint32_t length);
/* Tell in the frame's vnet header what its sender left to a device; split a TCP frame longer than limit, if not 0. */
void unfinished(struct frame *frame, uint32_t limit);

/* forward/encap.c: gives the trailer's length. */
uint32_t fill(const struct plan *plan, const struct facts *facts, struct room *room);

/* transmit/pcapng.c */
void packet_header(const struct facts *facts, uint8_t *header);
/* Gives the trailer's length. */
uint32_t packet_trailer(const struct facts *facts, uint8_t *trailer);

/* What every session that wants a frame asks of it, found out once. */
struct parsed {
	struct headers headers;
	uint64_t flow;
	bool hashed;		/* the flow is known */
};

/* forward/step.c: whether the plan's exact program, where it has one, wants the frame; its rule is counted. */
bool wants(const struct plan *plan, const struct frame *frame);
/* Gives NO_REASON when copies were made, whose TRUNCATED, SEGMENTED and FRAGMENTED are counted; or the slot of why there are
 * none. The frame is wanted. */
int forward(const struct plan *plan, struct state *state, const struct frame *frame, struct parsed *parsed,
	    struct batch *batch, uint64_t *counters);
void fill_buckets(const struct plan *plan, struct state *state);

/* transmit/outer.c: the headers before a copy that leaves by a packet socket; elsewhere they are the kernel's. */
struct outer {
	uint8_t header[MAX_OUTER];
	uint32_t length;	/* 0: none */
	bool udp;
	uint16_t id;		/* of the next IPv4 packet */
	uint32_t ip_sum;	/* of the IPv4 header but for length and id */
	uint32_t pseudo_sum;	/* of the UDP pseudo-header but for the length */
};

struct outer_head {
	struct vnet vnet;
	uint8_t header[MAX_OUTER];
};

bool open_outer(struct outer *outer, const uint8_t *header, size_t length);
/* The headers of `copies` copies in one message, each `segment` bytes long but the last; `payload` bytes in all. */
void write_outer(struct outer *outer, struct outer_head *head, uint16_t port, uint32_t payload, uint32_t segment,
		 uint32_t copies);

/* transmit/tx_ring.c */
struct tx_ring {
	int descriptor;
	uint8_t *memory;	/* or NULL: there is none */
	uint32_t slots, slot_size;
	uint32_t next;		/* slot to be filled */
};

struct outgoing;

/* transmit/sockets.c: a lane is what copies of one flow leave by: a socket, or a source port of the packet socket. */
struct transmit {
	int sockets[MAX_SOCKETS];
	uint16_t ports[MAX_SOCKETS];
	uint32_t lanes;
	void (*open_lane)(void *context, uint32_t lane);	/* gives a lane that has none its socket and port */
	void *context;
	int packet;		/* the packet socket, or -1 */
	struct tx_ring ring;	/* of another packet socket for the same device */
	struct outer outer;
	bool gso;
	bool overtakes;		/* with gso: copies of different lanes may leave in any order */
	int gso_refused;	/* the errno that GSO was refused with, or 0 */
	int32_t overhead;
	bool failed;		/* a copy of the frame at hand was refused */
	uint64_t patience;	/* nanoseconds that may still be waited for room in this turn */
	bool jammed;		/* it ran out in this turn */
	struct outgoing *outgoing;	/* the worker's, in its turn */
	uint64_t *counters;
};

/* What send_batch builds messages in, to be freed with free(); NULL when there is no memory. */
struct outgoing *new_outgoing(void);
/* A turn begins, on this working memory. */
void begin_turn(struct transmit *transmit, struct outgoing *outgoing);
/* Wait until the socket has room, as long as this turn's patience lasts; false when there is none. */
bool wait_for_room(struct transmit *transmit, int descriptor);
void send_batch(struct batch *batch, void *transmit);
void observe_latency(uint64_t *counters, uint64_t time, uint64_t now);
uint8_t *gather(const struct message *message, uint8_t *at);

/* transmit/tx_ring.c */
bool fits_slot(const struct tx_ring *ring, const struct message *message);
/* How many of the row's first copies were accepted, the first of which fits; or minus the errno it was refused with. */
int send_by_ring(struct transmit *transmit, struct message *const *row, uint32_t count);

/* transmit/coalesce.c */
/* The messages from `first` on as they are to leave: as they came, or by lane, where one may overtake another's. Gives their
 * number. */
uint32_t order(struct batch *batch, uint32_t first, uint32_t lanes, bool by_lane, struct message **row);
/* How many of the row's first copies are of one lane. */
uint32_t lane_length(struct message *const *row, uint32_t count);
/* How many of the row's first copies may leave as one message: all of one lane and length but a shorter last one. */
uint32_t run_length(struct message *const *row, uint32_t count);

/* transmit/file.c: Output of file.py, which Python reads and writes between two turns and in next(). */
struct output {
	int64_t descriptor;
	int64_t error;		/* why nothing is written, or 0 */
	int64_t written;	/* bytes in the file, whole blocks all of them */
	int64_t start;		/* bytes before its first packet */
	int64_t limit;		/* bytes that it may have, or 0 */
};

struct file {
	struct output *output;
	bool failed;		/* a copy of the frame at hand was refused */
	uint64_t *counters;
	void (*next)(void *context);	/* to another file; without one, sets the error */
	void *context;
};

void write_batch(struct batch *batch, void *file);

/* capture/packet_socket.c: the working memory of a worker. A batch is always empty between two turns. */
struct work {
	struct batch *batch;
	struct outgoing *outgoing;
	uint8_t *buffers;	/* that a plain socket's frames are read into; pages that none reached cost nothing */
	struct staged *staged;	/* frames that are to be given out, */
	uint32_t stage_count;	/* and how many: none between two turns */
};

/* False when there is no memory: then there is nothing to close. */
bool open_work(struct work *work);
void close_work(struct work *work);

uint64_t monotonic(void);	/* nanoseconds */

/* pipeline.py: where the frames of a session go that it wants of a source. */
struct pipeline {
	struct plan plan;
	struct state own;
	struct state *state;	/* its own, or another's */
	struct transmit transmit;
	struct file file;	/* in its place, when it has an output */
	uint64_t *counters;
	bool shares;		/* its source: what it does not match is another's, and not counted */
	uint64_t since, until;	/* what was captured before, or from then on, is not its; nanoseconds since 1970 */
};

/* tap.py: Seen, what a tap counts itself. */
enum seen { SEEN_TAKEN, SEEN_LOST, SEEN_READ, SEEN_READ_BYTES, SEENS };

/* A source that is captured, and who wants its frames. */
struct tap {
	int descriptor;
	uint8_t *ring;		/* or NULL: a plain socket */
	uint32_t block_size, block_count, block;
	const uint8_t *at;	/* the next frame in the block, */
	uint32_t left;		/* where the last turn ended before so many; or 0 */
	int error;		/* the errno that a reading came upon, or 0: a socket tells it once */
	uint32_t most_waiting;	/* blocks, whenever it was run since somebody asked */
	bool large;		/* a plain socket's frames were, lately */
	enum tunnel tunnel;	/* that a raw IP socket is the end of, or NO_TUNNEL */
	bool ip_header;		/* its packets begin with one */
	uint64_t *seen;
	uint64_t told;		/* of the frames read, when Python was last told of it */
	bool eager;		/* a member acts by time: Python is told each time */
	struct pipeline **members;
	uint32_t count;
	struct sock_filter *program;	/* or NULL; gives the number of a set of members */
	uint32_t program_length;
	uint32_t *sets;		/* where each set begins in candidates, and behind the last one, where it ends */
	uint32_t set_count;
	uint32_t *candidates;	/* a member's place, twice, and one where it wants the frame for certain */
	uint16_t *theirs;	/* STAGED for each member: its frames of those at hand, in the same way */
	uint16_t *their_count;
};

enum { STAGED = 256 };	/* frames given out at a time: what is known of them stays in the processor's cache */

/* Forward what has been captured: at most a few blocks, and for a few milliseconds. Tells whether there was more. */
bool run_tap(struct tap *tap, struct work *work);

/* capture/packet_socket.c */
bool run_socket_or_ring(struct tap *tap, struct work *work, uint64_t until);

/* capture/listener.c */
bool run_listener(struct tap *tap, struct work *work, uint64_t until);

/* tap.c: what open_work() gives for frames that are to be given out; NULL when there is no memory. */
struct staged *new_staged(void);
/* A frame was read; its data stay until settle(). */
void hand_over(struct tap *tap, struct work *work, const struct frame *frame);
/* All of the frames that were taken have to be sent now: what they lie in is to be used again. */
void settle(struct tap *tap, struct work *work);

#endif

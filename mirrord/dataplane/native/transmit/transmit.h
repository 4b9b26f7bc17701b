/* Messages on their way out: by sockets, a packet socket, or its TX ring. */
#ifndef MIRRORD_TRANSMIT_H
#define MIRRORD_TRANSMIT_H

#include <string.h>

#include "forward/forward.h"

enum {
	MAX_SOCKETS = 64,
	MAX_OUTER = 62, /* Ethernet, IPv6, UDP */
	SMALL = 256, /* bytes of a copy that costs less to copy than to refer to */
	MOST_PARTS = 256,
};

/* transmit/outer.c: the headers before a copy that leaves by a packet socket; elsewhere they are the kernel's. */
struct outer {
	uint8_t header[MAX_OUTER];
	uint32_t length; /* 0: none */
	bool udp;
	uint16_t id; /* of the next IPv4 packet */
	uint32_t ip_sum; /* of the IPv4 header but for length and id */
	uint32_t pseudo_sum; /* of the UDP pseudo-header but for the length */
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
	uint8_t *memory; /* or NULL: there is none */
	uint32_t slots, slot_size;
	uint32_t next; /* slot to be filled */
};

struct outgoing;

/* capture/sender.py: a packet socket that copies for any device may leave by, which name it. */
struct sender {
	int packet; /* or -1 */
	uint64_t alike[2]; /* as of a transmit, but of no device */
};

/* transmit/sockets.c: a lane is what copies of one flow leave by: a socket, or a source port of the packet socket. What each
 * turn looks at comes first: where a host has hundreds, it is not in the processor's cache. */
struct transmit {
	int packet; /* the packet socket, or -1 */
	uint32_t lanes;
	uint64_t alike
		[2]; /* what the packet socket leaves by: of another of the same, copies may leave by this one, too */
	uint64_t turn; /* the worker's, */
	struct outgoing *outgoing; /* and what it has for that */
	uint64_t patience; /* nanoseconds that may still be waited for room in this turn */
	uint32_t source_ports; /* their number, where they are not its own alone; or 0 */
	uint32_t place; /* among those of its session */
	int32_t overhead;
	bool gso;
	bool overtakes; /* with gso: copies of different lanes may leave in any order */
	bool failed; /* a copy of the frame at hand was refused */
	bool jammed; /* its patience ran out in this turn, */
	bool was_jammed; /* or in the one before */
	bool takes; /* what is for each of its session's, too: its collector is alive */
	bool settles; /* it alone decides what a frame counts as */
	int gso_refused; /* the errno that GSO was refused with, or 0 */
	struct tx_ring ring; /* of another packet socket for the same device */
	struct outer outer;
	void (*open_lane)(void *context, uint32_t place,
			  uint32_t lane); /* gives a lane that has none its socket and port */
	void *context;
	uint16_t ports[MAX_SOCKETS];
	int sockets[MAX_SOCKETS];
};

/* Where the copies of a session leave: a transmit, or one for each of its collectors. */
struct exits {
	struct transmit *transmits;
	uint32_t count;
	bool all; /* copies are for each of the collectors, so that all of them decide what a frame counts as */
	int lost; /* the slot that the frame at hand is lost by already, where that is so; or 0 */
	uint32_t outlet, stretch; /* where a tap has put it, while it is given its members */
	uint64_t batch; /* the number of the last batch that it had a part of, */
	uint32_t pile; /* and where that was put, see parts.c */
};

/* Where the copies of a batch leave: those from `first` on by these exits, up to where the next part begins. */
struct part {
	struct exits *exits;
	uint32_t first;
};

/* The parts of a batch: one, or several of which one packet socket can send all. */
struct parts {
	struct part parts[MOST_PARTS];
	uint32_t count;
	uint64_t batch; /* its number, from 1 on */
};

/* transmit/parts.c */

/* Whether a batch that these parts have may go on with copies that leave by other exits. */
bool may_go_on(const struct parts *parts, const struct exits *exits);
/* Send all; what follows leaves as the last part does. */
void send_parts(struct batch *batch, void *parts);

/* transmit/sockets.c: what send_parts builds messages in, to be freed with free(); NULL when there is no memory. */
struct outgoing *new_outgoing(void);
/* Copies that may leave by this sender do so from now on. */
void leave_by(struct outgoing *outgoing, const struct sender *sender);

/* transmit/patience.c */
/* A turn begins, on this working memory; where it is the same turn still, nothing does. */
void begin_turn(struct transmit *transmit, struct outgoing *outgoing, uint64_t turn);
/* Wait until the socket has room, as long as this turn's patience lasts; false when there is none. */
bool wait_for_room(struct transmit *transmit, int descriptor);

/* Copy a message to one place; gives its end there. */
static inline uint8_t *gather(const struct message *message, uint8_t *at)
{
	memcpy(at, message->head, message->head_length);
	memcpy(at + message->head_length, message->tail, message->tail_length);
	if (message->zeros)
		memset(at + message->head_length + message->tail_length, 0, message->zeros);
	return at + length_of(message);
}

/* transmit/tx_ring.c */
bool fits_slot(const struct tx_ring *ring, const struct message *message);
/* How many of the row's first copies were accepted, the first of which fits; or minus the errno it was refused with. */
int send_by_ring(struct transmit *transmit, struct message *const *row, uint32_t count);

/* transmit/coalesce.c */
/* Which of so many lanes the copies of a flow leave by. */
static inline uint32_t lane_of(uint64_t flow, uint32_t lanes)
{
	return (uint32_t)((flow >> 32) * lanes >> 32);
}

/* Put the row as it is to leave: as it came, or by lane, where one may overtake another's. */
void order(const struct transmit *transmit, struct message **row, uint32_t count);
/* How many of the row's first copies are of one lane. */
uint32_t lane_length(struct message *const *row, uint32_t count);
/* How many of the row's first copies may leave as one message: all of one lane and length but a shorter last one. */
uint32_t run_length(struct message *const *row, uint32_t count);

#endif

/* Rows of copies, all of one transmit, that become messages for the kernel: what sockets.c has for parts.c. */
#ifndef MIRRORD_ROWS_H
#define MIRRORD_ROWS_H

#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "transmit/transmit.h"

/* What sendmmsg takes, built from a row of copies; `copies` says how many of them are in each message. */
struct outgoing {
	struct sender sender;
	struct sockaddr_ll device; /* that messages leave by, where the socket is of none */
	struct mmsghdr messages[BATCH];
	uint32_t copies[BATCH];
	struct iovec vectors[4 * BATCH];
	uint8_t gathered[BATCH * (sizeof(struct outer_head) + SMALL)] __attribute__((aligned(8)));
	uint8_t controls[BATCH][CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8)));
};

/* How far messages have been built. */
struct built {
	struct iovec *vector;
	uint8_t *at;
	uint32_t messages;
};

static inline struct built nothing_built(struct outgoing *outgoing)
{
	return (struct built){ outgoing->vectors, outgoing->gathered, 0 };
}

/* The packet socket by which copies of this transmit leave, which has one: its own, or the sender that they may leave by. */
int packet_of(const struct transmit *transmit);
/* Those of the batch's messages from `first` up to `end` that are this transmit's, each with its lane, but for what follows in a
 * frame of which a copy was refused. Gives their number. */
uint32_t pick(struct transmit *transmit, struct batch *batch, uint32_t first, uint32_t end, struct message **row);
/* Lanes that have copies for the first time get their sockets. */
void open_lanes(struct transmit *transmit, struct message *const *row, uint32_t count);
/* Build messages of the row's copies behind those there are, runs of them where GSO is on, but the first `lone` each on its
 * own. */
void build(struct transmit *transmit, struct built *built, struct message *const *row, uint32_t count, uint32_t lone);
/* These copies were accepted. A frame is mirrored when its last one was, and by each of the ways that it leaves by. */
void count_sent(const struct transmit *transmit, struct message *const *row, uint32_t copies, uint64_t now);
/* Send copies, and count them. */
void send_row(struct transmit *transmit, int descriptor, struct message *const *row, uint32_t count);
/* Send a batch that is of these exits alone. */
void send_batch(struct batch *batch, struct exits *exits);

#endif

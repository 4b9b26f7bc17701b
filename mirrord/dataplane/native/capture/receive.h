/* What packet_socket.c and listener.c share: messages taken from a socket, and a frame's tag. Needs _GNU_SOURCE. */
#ifndef MIRRORD_RECEIVE_H
#define MIRRORD_RECEIVE_H

#include <linux/if_packet.h>
#include <sys/socket.h>

#include "tap.h"

enum {
	SOCKET_BATCH = 64,
	LARGEST_FRAME = 512 << 10,
	LARGE = 8192, /* bytes of the mean frame from which fewer are taken at a time, */
	HEADROOM = 16, /* bytes before each message: for an Ethernet header, see packet_socket.py */
	LARGE_BATCH = 4, /* so that their payload is still in the processor's cache when it is summed up and sent */
};

/* What recvmmsg fills; the buffers are the worker's. */
struct received {
	struct mmsghdr messages[SOCKET_BATCH];
	struct iovec vectors[SOCKET_BATCH];
	struct sockaddr_storage addresses[SOCKET_BATCH];
	uint8_t controls[SOCKET_BATCH][128] __attribute__((aligned(8)));
};

/* Take at most `most` messages, SOCKET_BATCH or fewer; gives how many there were. What it came upon instead is the
 * tap's error. Where too few buffers are free, copies that wait leave first. */
int receive(struct tap *tap, struct work *work, struct received *received, int most);
void read_control(struct frame *frame, struct msghdr *message);

/* The tag that the kernel took off, by what it says in an auxdata or a ring's header. */
static inline void set_tag(struct frame *frame, uint32_t status, uint32_t tpid, uint32_t tci)
{
	frame->tagged = status & TP_STATUS_VLAN_VALID;
	frame->tpid = status & TP_STATUS_VLAN_TPID_VALID ? (uint16_t)tpid : 0x8100;
	frame->tci = (uint16_t)tci;
}

#endif

// Six ways to send VXLAN copies behind one interface: frames in, accepted copies counted.
#ifndef OUTGOING_H
#define OUTGOING_H

#include "common.h"

enum outgoing_way { UDP, UDP_GSO, PACKET, PACKET_VNET, PACKET_GSO, TX_RING };

struct outgoing_options {
	enum outgoing_way way;
	unsigned batch; // messages in one sendmmsg, slots filled before one send on the TX ring
	unsigned segments; // copies in one GSO message
	bool connected; // UDP: connect once instead of naming the peer in every message
	bool dontwait; // MSG_DONTWAIT
	bool bypass; // AF_PACKET: PACKET_QDISC_BYPASS
};

struct outgoing;

struct outgoing_options outgoing_options(char **argv); // from --send, --batch, --segments, --connected, ...
struct outgoing *outgoing_open(const char *device, const struct outgoing_options *options);
// Sends one copy of each frame. Returns how many copies the kernel accepted; errno says why not all.
uint64_t outgoing_send(struct outgoing *outgoing, const struct frame *frames, unsigned count);

#endif

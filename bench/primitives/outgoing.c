#define _GNU_SOURCE
#include "outgoing.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 // headers older than Linux 6.2
#endif

#define VXLAN 8 // header bytes
#define SOURCE_PORT 50000
#define VXLAN_PORT 4789
#define LARGEST_PAYLOAD 65507 // of one UDP datagram
#define MOST_MESSAGES 256
#define MOST_SEGMENTS 128
#define SLOT 2048 // of the TX ring
#define SLOTS 1024

// The bytes before the frames of one message.
struct head {
	struct virtio_net_hdr vnet;
	uint8_t headers[ETHERNET_IP_UDP];
};

struct outgoing {
	struct outgoing_options options;
	int fd, flags;
	struct sockaddr_in peer;
	uint8_t vxlan[VXLAN];
	struct mmsghdr messages[MOST_MESSAGES];
	struct head heads[MOST_MESSAGES];
	struct iovec parts[MOST_MESSAGES][2 * MOST_SEGMENTS + 2];
	unsigned copies[MOST_MESSAGES];
	uint8_t *ring;
	unsigned slot;
};

struct outgoing_options outgoing_options(char **argv)
{
	return (struct outgoing_options){
		.way = (enum outgoing_way)option(argv, "send", UDP),
		.batch = (unsigned)option(argv, "batch", 64),
		.segments = (unsigned)option(argv, "segments", 64),
		.connected = option(argv, "connected", 1),
		.dontwait = option(argv, "dontwait", 1),
		.bypass = option(argv, "bypass", 0),
	};
}

static void set(int fd, int level, int name, int value, const char *what)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		die(what);
}

static void open_udp(struct outgoing *o)
{
	struct sockaddr_in local = { .sin_family = AF_INET, .sin_port = htons(SOURCE_PORT) };
	o->peer = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(VXLAN_PORT) };
	inet_pton(AF_INET, "10.77.0.2", &o->peer.sin_addr);
	o->fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (o->fd < 0 || bind(o->fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		die("UDP socket");
	if (o->options.connected && connect(o->fd, (struct sockaddr *)&o->peer, sizeof(o->peer)) < 0)
		die("connect");
	set(o->fd, IPPROTO_IP, IP_RECVERR, 1, "IP_RECVERR"); // else a datagram lost in the queue counts as sent
	if (o->options.way == UDP)
		set(o->fd, SOL_SOCKET, SO_NO_CHECK, 1, "SO_NO_CHECK");
}

static void open_packet(struct outgoing *o, const char *device)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device) };
	o->fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (o->fd < 0 || address.sll_ifindex == 0)
		die(device);
	if (o->options.way == PACKET_VNET || o->options.way == PACKET_GSO)
		set(o->fd, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR");
	if (o->options.bypass)
		set(o->fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS");
	if (o->options.way == TX_RING) {
		struct tpacket_req request = { .tp_block_size = 65536,
					       .tp_block_nr = SLOTS * SLOT / 65536,
					       .tp_frame_size = SLOT,
					       .tp_frame_nr = SLOTS };
		set(o->fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2, "PACKET_VERSION");
		if (setsockopt(o->fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof(request)) < 0)
			die("PACKET_TX_RING");
		o->ring = mmap(NULL, SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
		if (o->ring == MAP_FAILED)
			die("mmap");
	}
	if (bind(o->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("bind");
}

struct outgoing *outgoing_open(const char *device, const struct outgoing_options *options)
{
	struct outgoing *o = calloc(1, sizeof(*o));
	o->options = *options;
	if (o->options.batch > MOST_MESSAGES || o->options.segments > MOST_SEGMENTS) {
		errno = EINVAL;
		die("--batch or --segments");
	}
	o->flags = options->dontwait ? MSG_DONTWAIT : 0;
	memcpy(o->vxlan, "\x08\0\0\0\0\0\1", VXLAN);
	if (options->way == UDP || options->way == UDP_GSO)
		open_udp(o);
	else
		open_packet(o, device);
	for (unsigned i = 0; i < MOST_MESSAGES; i++)
		write_headers(o->heads[i].headers, 0, SOURCE_PORT, VXLAN_PORT);
	return o;
}

// Frames from the first on that may share a message: all of one length but a shorter last one.
static unsigned run_of(const struct outgoing *o, const struct frame *frames, unsigned count)
{
	if (o->options.way != UDP_GSO && o->options.way != PACKET_GSO)
		return 1;
	unsigned size = VXLAN + frames[0].length, most = LARGEST_PAYLOAD / size, run = 1;
	most = most < o->options.segments ? most : o->options.segments;
	most = most < count ? most : count;
	while (run < most && frames[run].length == frames[0].length)
		run++;
	if (run < most && frames[run].length < frames[0].length)
		run++;
	return run;
}

// The checksum of the pseudo header only: the kernel or the device adds the rest to each segment.
static void leave_checksum(struct head *head, unsigned payload, unsigned segment)
{
	uint8_t *ip = head->headers + 14;
	uint32_t sum = 17 + payload + 8;
	for (int i = 12; i < 20; i += 2)
		sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip[26] = (uint8_t)(sum >> 8);
	ip[27] = (uint8_t)sum;
	head->vnet = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					      .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
					      .hdr_len = ETHERNET_IP_UDP,
					      .gso_size = (uint16_t)segment,
					      .csum_start = 34,
					      .csum_offset = 6 };
}

static void fill_message(struct outgoing *o, unsigned index, const struct frame *frames, unsigned run, void *control)
{
	enum outgoing_way way = o->options.way;
	struct msghdr *message = &o->messages[index].msg_hdr;
	struct head *head = &o->heads[index];
	struct iovec *part = o->parts[index];
	unsigned payload = 0, segment = VXLAN + frames[0].length;
	*message = (struct msghdr){ .msg_iov = part };
	if (way == PACKET)
		*part++ = (struct iovec){ head->headers, sizeof(head->headers) };
	if (way == PACKET_VNET || way == PACKET_GSO)
		*part++ = (struct iovec){ head, sizeof(*head) };
	for (unsigned i = 0; i < run; i++) {
		*part++ = (struct iovec){ o->vxlan, VXLAN };
		*part++ = (struct iovec){ (void *)frames[i].data, frames[i].length };
		payload += VXLAN + frames[i].length;
	}
	message->msg_iovlen = (size_t)(part - message->msg_iov);
	o->copies[index] = run;
	if (way == UDP || way == UDP_GSO) {
		if (!o->options.connected) {
			message->msg_name = &o->peer;
			message->msg_namelen = sizeof(o->peer);
		}
		if (run > 1) {
			struct cmsghdr *size = control;
			*size = (struct cmsghdr){ .cmsg_len = CMSG_LEN(2),
						  .cmsg_level = IPPROTO_UDP,
						  .cmsg_type = UDP_SEGMENT };
			*(uint16_t *)CMSG_DATA(size) = (uint16_t)segment;
			message->msg_control = control;
			message->msg_controllen = CMSG_SPACE(2);
		}
		return;
	}
	write_lengths(head->headers, payload);
	if (run > 1)
		leave_checksum(head, payload, segment);
}

static uint64_t send_messages(struct outgoing *o, const struct frame *frames, unsigned count)
{
	static _Alignas(struct cmsghdr) uint8_t controls[MOST_MESSAGES][CMSG_SPACE(2)];
	uint64_t accepted = 0;
	while (count > 0) {
		unsigned messages = 0;
		for (; messages < o->options.batch && count > 0; messages++) {
			unsigned run = run_of(o, frames, count);
			fill_message(o, messages, frames, run, controls[messages]);
			frames += run;
			count -= run;
		}
		int taken = sendmmsg(o->fd, o->messages, messages, o->flags);
		for (int i = 0; i < taken; i++)
			accepted += o->copies[i];
	}
	return accepted;
}

static uint64_t send_ring(struct outgoing *o, const struct frame *frames, unsigned count)
{
	uint64_t filled = 0;
	for (unsigned i = 0; i < count; i++) {
		struct tpacket2_hdr *slot = (void *)(o->ring + (size_t)o->slot * SLOT);
		if (__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE)
			break;
		uint8_t *at = (uint8_t *)slot + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);
		memcpy(at, o->heads[0].headers, ETHERNET_IP_UDP);
		write_lengths(at, VXLAN + frames[i].length);
		memcpy(at + ETHERNET_IP_UDP, o->vxlan, VXLAN);
		memcpy(at + ETHERNET_IP_UDP + VXLAN, frames[i].data, frames[i].length);
		slot->tp_len = ETHERNET_IP_UDP + VXLAN + frames[i].length;
		__atomic_store_n(&slot->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
		o->slot = (o->slot + 1) % SLOTS;
		if (++filled % o->options.batch == 0)
			send(o->fd, NULL, 0, o->flags);
	}
	if (filled % o->options.batch)
		send(o->fd, NULL, 0, o->flags);
	return filled;
}

uint64_t outgoing_send(struct outgoing *o, const struct frame *frames, unsigned count)
{
	return o->options.way == TX_RING ? send_ring(o, frames, count) : send_messages(o, frames, count);
}

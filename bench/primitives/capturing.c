#define _GNU_SOURCE
#include "capturing.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define V2_SLOT 2048
#define V2_BLOCK 65536
#define VNET_LENGTH 10
#define BUFFER 2048 // of the plain socket, for each frame

struct capture {
	struct capture_options options;
	int fd;
	uint8_t *map;
	unsigned units, unit; // blocks of V3 or slots of V2: how many, and the next one to look at
    // V3: what is left of the block being read
	struct tpacket3_hdr *next;
	unsigned left;
	// V2: slots handed out and not yet given back
	unsigned held;
	// plain socket
	struct mmsghdr *messages;
	uint8_t *buffers;
	struct frame frames[RUN];
};

struct capture_options capture_options(char **argv)
{
	return (struct capture_options){
		.way = (enum capture_way)option(argv, "way", RING_V3),
		.ring_size = (unsigned)option(argv, "ring", 8 << 20),
		.block_size = (unsigned)option(argv, "block", 512 << 10),
		.retire_ms = (unsigned)option(argv, "retire", 4),
		.batch = (unsigned)option(argv, "batch", 64),
		.vnet = option(argv, "vnet", 1),
		.stamps = option(argv, "stamps", 1),
	};
}

static void set(int fd, int level, int name, const void *value, socklen_t size, const char *what)
{
	if (setsockopt(fd, level, name, value, size) < 0)
		die(what);
}

static void map_ring(struct capture *c)
{
	const struct capture_options *o = &c->options;
	struct tpacket_req3 request = { .tp_block_size = V2_BLOCK, .tp_frame_size = V2_SLOT };
	int version = o->way == RING_V3 ? TPACKET_V3 : TPACKET_V2;
	socklen_t size = sizeof(struct tpacket_req);
	if (o->way == RING_V3) {
		request.tp_block_size = o->block_size;
		request.tp_retire_blk_tov = o->retire_ms;
		size = sizeof(request);
	}
	request.tp_block_nr = o->ring_size / request.tp_block_size;
	request.tp_frame_nr = o->ring_size / request.tp_frame_size;
	c->units = o->way == RING_V3 ? request.tp_block_nr : request.tp_frame_nr;
	set(c->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version), "PACKET_VERSION");
	if (o->vnet)
		set(c->fd, SOL_PACKET, PACKET_VNET_HDR, &(int){ 1 }, sizeof(int), "PACKET_VNET_HDR");
	set(c->fd, SOL_PACKET, PACKET_RX_RING, &request, size, "PACKET_RX_RING");
	c->map = mmap(NULL, o->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->map == MAP_FAILED)
		die("mmap");
}

// Each message has room for a vnet header, a frame, a stamp and the auxiliary data that carries the VLAN tag.
static void prepare_socket(struct capture *c)
{
	enum { CONTROL = CMSG_SPACE(sizeof(struct timespec)) + CMSG_SPACE(sizeof(struct tpacket_auxdata)) };
	unsigned batch = c->options.batch = c->options.batch > RUN ? RUN : c->options.batch;
	c->messages = calloc(batch, sizeof(*c->messages));
	c->buffers = calloc(batch, BUFFER + CONTROL);
	struct iovec *parts = calloc(batch, sizeof(*parts));
	for (unsigned i = 0; i < batch; i++) {
		uint8_t *buffer = c->buffers + i * (BUFFER + CONTROL);
		parts[i] = (struct iovec){ buffer + CONTROL, BUFFER };
		c->messages[i].msg_hdr =
			(struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = buffer };
	}
	set(c->fd, SOL_PACKET, PACKET_AUXDATA, &(int){ 1 }, sizeof(int), "PACKET_AUXDATA");
	set(c->fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){ (int)c->options.ring_size / 2 }, sizeof(int), "SO_RCVBUFFORCE");
	if (c->options.vnet)
		set(c->fd, SOL_PACKET, PACKET_VNET_HDR, &(int){ 1 }, sizeof(int), "PACKET_VNET_HDR");
}

void capture_filter(struct capture *c, bool accept)
{
	struct sock_filter verdict = BPF_STMT(BPF_RET | BPF_K, accept ? 0xffffffff : 0);
	struct sock_fprog program = { .len = 1, .filter = &verdict };
	set(c->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program), "SO_ATTACH_FILTER");
}

void capture_filter_devices(struct capture *c, unsigned first, unsigned last)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)(SKF_AD_OFF + SKF_AD_IFINDEX)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, last, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = { .len = 5, .filter = program };
	set(c->fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter), "SO_ATTACH_FILTER");
}

int capture_descriptor(const struct capture *c)
{
	return c->fd;
}

struct capture *capture_open(const char *device, const struct capture_options *options)
{
	struct capture *c = calloc(1, sizeof(*c));
	struct sockaddr_ll address = { .sll_family = AF_PACKET,
				       .sll_ifindex = device ? (int)if_nametoindex(device) : 0 };
	c->options = *options;
	c->fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (c->fd < 0 || (device && address.sll_ifindex == 0))
		die(device ? device : "socket");
	if (options->way == PLAIN_SOCKET)
		prepare_socket(c);
	else
		map_ring(c);
	if (options->stamps)
		set(c->fd, SOL_SOCKET, SO_TIMESTAMPNS, &(int){ 1 }, sizeof(int), "SO_TIMESTAMPNS");
	if (bind(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("bind without a protocol");
	capture_filter(c, false);
	address.sll_protocol = htons(ETH_P_ALL);
	if (bind(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("bind");
	return c;
}

bool capture_wait(struct capture *c, int timeout_ms)
{
	struct pollfd ready = { .fd = c->fd, .events = POLLIN };
	return poll(&ready, 1, timeout_ms) > 0;
}

static unsigned read_v3(struct capture *c)
{
	struct tpacket_block_desc *block = (void *)(c->map + (size_t)c->unit * c->options.block_size);
	if (c->next && c->left == 0) {
		__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		c->next = NULL;
		c->unit = (c->unit + 1) % c->units;
		block = (void *)(c->map + (size_t)c->unit * c->options.block_size);
	}
	if (!c->next) {
		if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			return 0;
		c->next = (void *)((uint8_t *)block + block->hdr.bh1.offset_to_first_pkt);
		c->left = block->hdr.bh1.num_pkts;
	}
	unsigned count = c->left < RUN ? c->left : RUN;
	struct tpacket3_hdr *header = c->next;
	for (unsigned i = 0; i < count; i++) {
		c->frames[i] = (struct frame){ (uint8_t *)header + header->tp_mac, header->tp_snaplen,
					       header->tp_sec * SECOND + header->tp_nsec };
		header = (void *)((uint8_t *)header + header->tp_next_offset);
	}
	c->next = header;
	c->left -= count;
	return count;
}

static struct tpacket2_hdr *slot(struct capture *c, unsigned index)
{
	return (void *)(c->map + (size_t)(index % c->units) * V2_SLOT);
}

static unsigned read_v2(struct capture *c)
{
	for (unsigned i = 0; i < c->held; i++)
		__atomic_store_n(&slot(c, c->unit + i)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	c->unit = (c->unit + c->held) % c->units;
	c->held = 0;
	while (c->held < RUN) {
		struct tpacket2_hdr *header = slot(c, c->unit + c->held);
		if (!(__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			break;
		c->frames[c->held++] = (struct frame){ (uint8_t *)header + header->tp_mac, header->tp_snaplen,
						       header->tp_sec * SECOND + header->tp_nsec };
	}
	return c->held;
}

static int64_t stamp_of(struct msghdr *message)
{
	struct timespec t = { 0 };
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS)
			memcpy(&t, CMSG_DATA(c), sizeof(t));
	return t.tv_sec * SECOND + t.tv_nsec;
}

static unsigned read_socket(struct capture *c)
{
	for (unsigned i = 0; i < c->options.batch; i++)
		c->messages[i].msg_hdr.msg_controllen = (size_t)((uint8_t *)c->messages[i].msg_hdr.msg_iov->iov_base -
								 (uint8_t *)c->messages[i].msg_hdr.msg_control);
	int count = recvmmsg(c->fd, c->messages, c->options.batch, MSG_DONTWAIT, NULL);
	unsigned before = c->options.vnet ? VNET_LENGTH : 0;
	for (int i = 0; i < count; i++) {
		struct msghdr *message = &c->messages[i].msg_hdr;
		c->frames[i] = (struct frame){ (uint8_t *)message->msg_iov->iov_base + before,
					       c->messages[i].msg_len - before, stamp_of(message) };
	}
	return count > 0 ? (unsigned)count : 0;
}

unsigned capture_read(struct capture *c, const struct frame **frames)
{
	*frames = c->frames;
	switch (c->options.way) {
	case RING_V3:
		return read_v3(c);
	case RING_V2:
		return read_v2(c);
	default:
		return read_socket(c);
	}
}

void capture_statistics(struct capture *c, uint64_t *captured, uint64_t *lost)
{
	struct tpacket_stats_v3 counts = { 0 };
	socklen_t size = sizeof(counts);
	if (getsockopt(c->fd, SOL_PACKET, PACKET_STATISTICS, &counts, &size) < 0)
		die("PACKET_STATISTICS");
	*captured += counts.tp_packets;
	*lost += counts.tp_drops;
}

void capture_close(struct capture *c)
{
	if (c->map)
		munmap(c->map, c->options.ring_size);
	if (c->messages)
		free(c->messages[0].msg_hdr.msg_iov);
	free(c->messages);
	free(c->buffers);
	close(c->fd);
	free(c);
}

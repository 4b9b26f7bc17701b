/* A captured frame, what is in its headers, and super-frames. Numbers are in host order. */
#ifndef MIRRORD_FRAME_H
#define MIRRORD_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ETH_HEADER = 14,
	ETH_ADDRESSES = 12,
	TAG = 4,
	MAX_TAGS = 2,
	IPV4_HEADER = 20, /* without options */
	UDP_HEADER = 8,
	GSO_UDP_L4 = 5, /* VIRTIO_NET_HDR_GSO_UDP_L4, in kernel headers since 6.2 */
	MAX_HEADERS = 256, /* bytes of headers rewritten in front of a segment */
	MAX_LAYERS = 10, /* headers that a segment has fields in */
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

/* What a tunnel's header tells of the frame in it; zeros where it does not. told.py. */
struct told {
	uint64_t time;
	uint32_t device; /* its index, where it was captured first */
	uint32_t ident; /* the tunnel's VNI, key or session id, */
	uint32_t number; /* and the packet's number, */
	bool numbered; /* if it has one */
	uint16_t vlan;
	uint8_t direction, cos, en;
	bool truncated;
};

enum { TOLD_INGRESS = 1, TOLD_EGRESS };

struct frame {
	const uint8_t *data;
	uint32_t captured; /* bytes at data */
	uint32_t length; /* bytes that the kernel held */
	bool egress;
	bool tagged;
	uint16_t tpid, tci;
	struct vnet vnet;
	uint64_t time; /* nanoseconds since 1970 */
	int device; /* its index; 0: of a tunnel's end */
	struct told told;
	bool lent; /* its Ethernet header is in its place but for now: a copy needs one of its own */
};

/* By what its tunnel tells, if it does. */
static inline bool left_its_device(const struct frame *frame)
{
	return frame->told.direction ? frame->told.direction == TOLD_EGRESS : frame->egress;
}

/* Of the first capture, as far as it is known. */
static inline uint64_t first_time(const struct frame *frame)
{
	return frame->told.time ? frame->told.time : frame->time;
}

enum { NONE = -1 };

enum { TRIMMED = 256 }; /* wire.py tells of it */

/* Whether the capture kept its headers alone since its flow had had its share. */
static inline bool is_trimmed(const struct frame *frame)
{
	return frame->captured == TRIMMED && frame->length > TRIMMED;
}

struct headers {
	uint16_t ethertype;
	uint32_t network; /* offset of what the ethertype announces */
	uint8_t family; /* 4, 6, or 0 */
	bool fragment;
	uint8_t divided; /* of a fragment: what all fragments of the datagram say that they are parts of */
	uint32_t identification; /* of a fragment */
	int vlan; /* the outermost tag's id, or NONE */
	int protocol; /* or NONE */
	int transport; /* offset, or NONE */
	int source_port, destination_port; /* or NONE */
	const uint8_t *source, *destination;
	uint32_t address_length;
	uint32_t behind; /* offset of what follows the IP header and those extension headers that were looked through */
};

/* frame/headers.c */
void parse(const struct frame *frame, struct headers *headers);
uint64_t mix(uint64_t value);
uint64_t pair_hash(const struct headers *headers, bool ported);
uint64_t flow_hash(const struct headers *headers);
bool is_tpid(uint16_t ethertype); /* frame/headers.py: TPIDS */
bool is_ipv6_option(int protocol); /* frame/headers.py: IPV6_OPTIONS */
bool is_extension(int protocol); /* any IPv6 extension header that is looked through */

/* frame/extent.c: where the headers of a frame of this length end, or NONE where that is not known. */
int headers_end(const struct headers *headers, const uint8_t *data, uint32_t length);

/* frame/without_ethernet.c: put an Ethernet header before a packet that begins with its network header; `protocol` is the
 * kernel's. The frame's data is `packet`, and ETH_HEADER bytes before it are free. */
void put_ethernet(struct frame *frame, uint8_t *packet, uint16_t protocol);

/* frame/port_vlan.c: tag a frame that has no tag, as one of this VLAN. */
void classify(struct frame *frame, uint16_t pvid);

/* frame/checksum.c */
uint32_t ones_sum(const uint8_t *data, size_t length);
uint32_t fold(uint64_t sum);
uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t length); /* begins with, and is completed by, ~0 */

/* frame/segment.c */
enum kind { IPV4 = 1, IPV6, GRE, UDP, TCP };
struct layer {
	enum kind kind;
	uint32_t at;
};

struct super_frame {
	uint8_t head[MAX_HEADERS + TAG]; /* a tag may be pushed */
	uint32_t head_length;
	const uint8_t *payload;
	uint32_t payload_length;
	uint32_t gso_size;
	uint32_t count;
	struct layer layers[MAX_LAYERS];
	uint32_t layer_count;
};

/* The headers from the outermost IP to the transport header at `target`, which lies within the frame, both included: into
 * MAX_LAYERS of room. Their number; 0 when they do not lead there. */
uint32_t find_layers(struct layer *layers, const uint8_t *data, uint32_t target, enum kind kind);
/* Of a segment of this length, from 1 to 0xFFFF; `network` is the IP layer below it. */
uint32_t pseudo_header_sum(const uint8_t *data, const struct layer *network, enum kind kind, uint32_t length);
bool open_super_frame(struct super_frame *super, const struct frame *frame, uint32_t transport, enum kind kind);
/* Write segment n's headers to head (head_length bytes) and give its payload. */
void write_segment(const struct super_frame *super, uint32_t n, uint8_t *head, const uint8_t **payload,
		   uint32_t *length);

#endif

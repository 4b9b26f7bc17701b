/* What a tunnel's packet carries, and what its sender left undone in it. */
#include "forward/forward.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>

#include "bytes.h"

enum {
	VXLAN_HEADER = 8,
	VXLAN_VALID = 0x08,
	GENEVE_HEADER = 8, /* without options */
	GENEVE_VERSION = 0xC000, /* in the first 16 bits, like what follows */
	GENEVE_LENGTH = 0x3F00, /* of the options, in units of 4 bytes */
	GENEVE_REFUSED = 0x00C0, /* control; an option that has to be understood */
	OPTION_HEADER = 4,
	OPTION_LENGTH = 0x1F, /* in its last byte, in units of 4 bytes */
	METADATA_CLASS = 0xFF6D, /* encap.py tells what is in it */
	METADATA_TYPE = 1,
	METADATA_LENGTH = 20,
	TZSP_HEADER = 4,
	TZSP_VERSION = 1,
	TZSP_TO_SEND = 1, /* of the types, this and the one before it have a frame */
	TZSP_ETHERNET = 1,
	TZSP_PADDING = 0, /* tags without a length: this, */
	TZSP_END = 1, /* and this */
	GRE_HEADER = 4,
	GRE_CHECKSUM = 0x8000,
	GRE_KEY = 0x2000,
	GRE_SEQUENCE = 0x1000,
	GRE_DISCARD = 0x4C07,
	GRE_ERSPAN = 0x88BE,
	GRE_ERSPAN_III = 0x22EB,
	ERSPAN_II_HEADER = 8,
	ERSPAN_III_HEADER = 12,
	ERSPAN_SUBHEADER = 8,
	ERSPAN_FRAME_TYPE = 0x7C00,
	ERSPAN_OPTIONAL = 0x0001,
	ERSPAN_EGRESS = 0x0008,
	ERSPAN_SESSION = 0x03FF, /* in the second 16 bits */
	TCP_FIELD = 16,
	UDP_FIELD = 6,
};

/* Where the frame begins in a packet that ends at `end`; false for a malformed one. */
static bool from_vxlan(const uint8_t *packet, uint32_t *start, uint32_t end)
{
	*start = UDP_HEADER + VXLAN_HEADER;
	return end >= *start && packet[UDP_HEADER] & VXLAN_VALID;
}

/* What mirrord's own option tells; others are skipped. */
static void read_metadata(const uint8_t *at, const uint8_t *end, struct told *told)
{
	while (end - at >= OPTION_HEADER) {
		uint32_t length = (at[3] & OPTION_LENGTH) * 4u;
		const uint8_t *body = at + OPTION_HEADER;
		bool whole = length <= (size_t)(end - body);

		if (be16(at) == METADATA_CLASS && at[2] == METADATA_TYPE && whole && length >= METADATA_LENGTH) {
			told->direction = body[1] <= TOLD_EGRESS ? body[1] : 0;
			told->time = be64(body + 4);
			told->truncated = body[3] & 1;
			told->device = be32(body + 12);
			told->number = be32(body + 16);
			told->numbered = true;
			return;
		}
		if (!whole)
			return;
		at = body + length;
	}
}

/* The number that a whole GRE header has, and its key. */
static void read_gre(const uint8_t *packet, uint32_t flags, struct told *told)
{
	const uint8_t *key = packet + GRE_HEADER + (flags & GRE_CHECKSUM ? 4 : 0);

	if (!(flags & GRE_SEQUENCE))
		return;
	told->ident = flags & GRE_KEY ? be32(key) : 0;
	told->number = be32(key + (flags & GRE_KEY ? 4 : 0));
	told->numbered = true;
}

/* What the first 32 bits of ERSPAN's types II and III tell. */
static void read_erspan(const uint8_t *at, struct told *told)
{
	uint32_t first = be16(at + 2);

	told->vlan = be16(at) & 0xFFF;
	told->cos = (uint8_t)(first >> 13);
	told->truncated = first & 1 << 10;
	told->ident = told->numbered ? first & ERSPAN_SESSION : 0;
}

/* `protocol` is that of what begins there. */
static bool from_geneve(const uint8_t *packet, uint32_t *start, uint32_t end, uint16_t *protocol, struct told *told)
{
	if (end < UDP_HEADER + GENEVE_HEADER)
		return false;
	uint32_t first = be16(packet + UDP_HEADER);

	*start = UDP_HEADER + GENEVE_HEADER + (first & GENEVE_LENGTH) / 64;
	*protocol = be16(packet + UDP_HEADER + 2);
	if (end < *start)
		return false;
	read_metadata(packet + UDP_HEADER + GENEVE_HEADER, packet + *start, told);
	if (told->numbered)
		told->ident = be32(packet + UDP_HEADER + 4) >> 8;
	return !(first & (GENEVE_VERSION | GENEVE_REFUSED)) &&
	       (*protocol == ETH_P_TEB || *protocol == ETH_P_IP || *protocol == ETH_P_IPV6);
}

static bool from_tzsp(const uint8_t *packet, uint32_t *start, uint32_t end)
{
	uint32_t at = UDP_HEADER + TZSP_HEADER;

	if (end < at || packet[UDP_HEADER] != TZSP_VERSION || packet[UDP_HEADER + 1] > TZSP_TO_SEND ||
	    be16(packet + UDP_HEADER + 2) != TZSP_ETHERNET)
		return false;
	while (at < end && packet[at] != TZSP_END) {
		if (packet[at] != TZSP_PADDING && at + 1 >= end)
			return false;
		at += packet[at] == TZSP_PADDING ? 1 : 2u + packet[at + 1];
	}
	*start = at + 1;
	return true;
}

/* Where the packet ends, by its UDP header. */
static bool from_udp(enum tunnel tunnel, const uint8_t *packet, uint32_t *start, uint32_t *end, uint16_t *protocol,
		     struct told *told)
{
	uint32_t length = *end < UDP_HEADER ? 0 : be16(packet + 4);

	if (length < UDP_HEADER || length > *end)
		return false;
	*end = length;
	if (tunnel == TUNNEL_VXLAN)
		return from_vxlan(packet, start, length);
	return tunnel == TUNNEL_GENEVE ? from_geneve(packet, start, length, protocol, told)
				       : from_tzsp(packet, start, length);
}

static bool from_erspan_iii(const uint8_t *packet, uint32_t *start, uint32_t end, struct told *told)
{
	if (end < *start + ERSPAN_III_HEADER)
		return false;
	const uint8_t *header = packet + *start;
	uint32_t last = be16(header + 10);

	read_erspan(header, told);
	told->direction = last & ERSPAN_EGRESS ? TOLD_EGRESS : TOLD_INGRESS;
	*start += ERSPAN_III_HEADER + (last & ERSPAN_OPTIONAL ? ERSPAN_SUBHEADER : 0);
	return header[0] >> 4 == 2 && !(last & ERSPAN_FRAME_TYPE);
}

static bool from_gre(enum tunnel tunnel, const uint8_t *packet, uint32_t *start, uint32_t end, struct told *told)
{
	if (end < GRE_HEADER)
		return false;
	uint32_t flags = be16(packet), protocol = be16(packet + 2);
	if (flags & GRE_DISCARD)
		return false;
	*start = GRE_HEADER + (flags & GRE_CHECKSUM ? 4 : 0) + (flags & GRE_KEY ? 4 : 0) +
		 (flags & GRE_SEQUENCE ? 4 : 0);
	if (end < *start)
		return false;
	read_gre(packet, flags, told);
	if (tunnel == TUNNEL_GRE)
		return protocol == ETH_P_TEB;
	if (protocol == GRE_ERSPAN_III)
		return from_erspan_iii(packet, start, end, told);
	if (protocol != GRE_ERSPAN)
		return false;
	if (!(flags & GRE_SEQUENCE))
		return true; /* type I */
	if (end < *start + ERSPAN_II_HEADER || packet[*start] >> 4 != 1)
		return false;
	read_erspan(packet + *start, told);
	told->en = packet[*start + 2] >> 3 & 3;
	*start += ERSPAN_II_HEADER;
	return true;
}

bool decapsulate(enum tunnel tunnel, struct frame *frame, uint8_t *packet, uint32_t length)
{
	uint32_t start = 0, end = length;
	uint16_t protocol = ETH_P_TEB;
	struct told *told = &frame->told;
	bool by_gre = tunnel == TUNNEL_GRE || tunnel == TUNNEL_ERSPAN;

	if (!(by_gre ? from_gre(tunnel, packet, &start, end, told)
		     : from_udp(tunnel, packet, &start, &end, &protocol, told)) ||
	    end < start)
		return false;
	frame->data = packet + start;
	frame->captured = frame->length = end - start;
	if (protocol != ETH_P_TEB)
		put_ethernet(frame, packet + start, protocol); /* over what was before it, which is longer */
	return frame->captured >= ETH_HEADER;
}

void unfinished(struct frame *frame, uint32_t limit)
{
	struct headers headers;
	const uint8_t *data = frame->data;
	uint32_t length = frame->captured;

	parse(frame, &headers);
	if ((headers.protocol != IPPROTO_TCP && headers.protocol != IPPROTO_UDP) || headers.transport == NONE ||
	    headers.fragment)
		return;
	uint32_t at = (uint32_t)headers.transport;
	uint32_t offset = headers.protocol == IPPROTO_TCP ? TCP_FIELD : UDP_FIELD;
	if (at + offset + 2 > length || at + offset + 2 > MAX_HEADERS)
		return;
	const uint8_t *network = headers.source - (headers.family == 4 ? 12 : 8);
	uint32_t packet = headers.family == 4 ? be16(network + 2) : be16(network + 4) + 40u;
	if ((uint32_t)(network - data) + packet != length)
		return;
	uint64_t pseudo = ones_sum(headers.source, headers.address_length) +
			  ones_sum(headers.destination, headers.address_length);
	if (be16(data + at + offset) != fold(pseudo + (uint32_t)headers.protocol + (length - at)))
		return;
	frame->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	frame->vnet.csum_start = (uint16_t)at;
	frame->vnet.csum_offset = (uint16_t)offset;
	if (headers.protocol != IPPROTO_TCP || !limit || limit >= length)
		return;
	uint32_t end = at + (data[at + 12] >> 4) * 4u;
	if (end < at + 20 || end >= limit || end > MAX_HEADERS)
		return;
	frame->vnet.gso_type = headers.family == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	frame->vnet.header_length = (uint16_t)end;
	frame->vnet.gso_size = (uint16_t)(limit - end < 0xFFFF ? limit - end : 0xFFFF);
}

/* What a tunnel's packet carries, and what its sender left undone in it. */
#include "forward/forward.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>

#include "bytes.h"

enum {
	VXLAN_HEADER = 8,
	VXLAN_VALID = 0x08,
	GRE_HEADER = 4,
	GRE_CHECKSUM = 0x8000,
	GRE_KEY = 0x2000,
	GRE_SEQUENCE = 0x1000,
	GRE_DISCARD = 0x4C07,
	GRE_ETHERNET = 0x6558,
	GRE_ERSPAN = 0x88BE,
	GRE_ERSPAN_III = 0x22EB,
	ERSPAN_II_HEADER = 8,
	ERSPAN_III_HEADER = 12,
	ERSPAN_SUBHEADER = 8,
	ERSPAN_FRAME_TYPE = 0x7C00,
	ERSPAN_OPTIONAL = 0x0001,
	TCP_FIELD = 16,
	UDP_FIELD = 6,
};

/* Where the frame begins and where the packet ends; false for a malformed one. */
static bool from_vxlan(const uint8_t *packet, uint32_t *start, uint32_t *end)
{
	if (*end < UDP_HEADER + VXLAN_HEADER)
		return false;
	uint32_t length = be16(packet + 4);
	if (length < UDP_HEADER + VXLAN_HEADER || length > *end || !(packet[UDP_HEADER] & VXLAN_VALID))
		return false;
	*start = UDP_HEADER + VXLAN_HEADER;
	*end = length;
	return true;
}

static bool from_erspan_iii(const uint8_t *packet, uint32_t *start, uint32_t end)
{
	if (end < *start + ERSPAN_III_HEADER)
		return false;
	const uint8_t *header = packet + *start;
	uint32_t last = be16(header + 10);
	*start += ERSPAN_III_HEADER + (last & ERSPAN_OPTIONAL ? ERSPAN_SUBHEADER : 0);
	return header[0] >> 4 == 2 && !(last & ERSPAN_FRAME_TYPE);
}

static bool from_gre(enum tunnel tunnel, const uint8_t *packet, uint32_t *start, uint32_t end)
{
	if (end < GRE_HEADER)
		return false;
	uint32_t flags = be16(packet), protocol = be16(packet + 2);
	if (flags & GRE_DISCARD)
		return false;
	*start = GRE_HEADER + (flags & GRE_CHECKSUM ? 4 : 0) + (flags & GRE_KEY ? 4 : 0) +
		 (flags & GRE_SEQUENCE ? 4 : 0);
	if (tunnel == TUNNEL_GRE)
		return protocol == GRE_ETHERNET;
	if (protocol == GRE_ERSPAN_III)
		return from_erspan_iii(packet, start, end);
	if (protocol != GRE_ERSPAN)
		return false;
	if (!(flags & GRE_SEQUENCE))
		return true; /* type I */
	if (*start >= end || packet[*start] >> 4 != 1)
		return false;
	*start += ERSPAN_II_HEADER;
	return true;
}

bool decapsulate(enum tunnel tunnel, struct frame *frame, const uint8_t *packet, uint32_t length)
{
	uint32_t start = 0, end = length;

	if (!(tunnel == TUNNEL_VXLAN ? from_vxlan(packet, &start, &end) : from_gre(tunnel, packet, &start, end)) ||
	    end < start + ETH_HEADER)
		return false;
	frame->data = packet + start;
	frame->captured = frame->length = end - start;
	return true;
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

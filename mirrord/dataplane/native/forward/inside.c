/* The frame inside a tunnel's packet that passes by. */
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

#include "bytes.h"
#include "forward/forward.h"

enum {
	TUNNEL_HEADER = 8, /* VXLAN's, and Geneve's without options */
	VXLAN_VALID = 0x08,
	GENEVE_CONTROL = 0x80,
	GRE_HEADER = 4,
	GRE_CHECKSUM = 0x8000,
	GRE_KEY = 0x2000,
	GRE_SEQUENCE = 0x1000,
	GRE_DISCARD = 0x4C07,
	ETHERNET = 0x6558,
};

/* What a tunnel's header tells; offsets from the packet's frame's first byte. */
struct tunnelled {
	uint32_t start; /* of what is inside */
	uint32_t end; /* by the UDP header */
	uint16_t ethertype; /* of what is inside */
	bool has_ident;
	uint32_t ident;
};

static uint32_t least(uint32_t one, uint32_t other)
{
	return one < other ? one : other;
}

/* Where the IP packet ends; the frame's end for one that does not say. */
static uint32_t packet_end(const struct frame *frame, const struct headers *headers)
{
	const uint8_t *ip = headers->source - (headers->family == 4 ? 12 : 8);
	uint32_t at = (uint32_t)(ip - frame->data);

	if (headers->family == 4)
		return at + be16(ip + 2);
	return be16(ip + 4) ? at + 40 + be16(ip + 4) : frame->length;
}

static bool find_udp(const struct inside *inside, const struct frame *frame, const struct headers *headers,
		     struct tunnelled *found)
{
	uint32_t at = (uint32_t)headers->transport;

	if (frame->captured < at + UDP_HEADER + TUNNEL_HEADER || headers->destination_port <= 0)
		return false;
	const uint8_t *udp = frame->data + at, *header = udp + UDP_HEADER;
	*found = (struct tunnelled){ .start = at + UDP_HEADER + TUNNEL_HEADER,
				     .end = at + be16(udp + 4),
				     .ethertype = ETHERNET,
				     .has_ident = true,
				     .ident = be32(header + 4) >> 8 };
	if ((uint32_t)headers->destination_port == inside->vxlan_port && header[0] & VXLAN_VALID)
		return true;
	if ((uint32_t)headers->destination_port != inside->geneve_port || header[0] >> 6 || header[1] & GENEVE_CONTROL)
		return false;
	found->start += (header[0] & 0x3Fu) * 4;
	found->ethertype = be16(header + 2);
	return true;
}

static bool find_gre(const struct frame *frame, const struct headers *headers, struct tunnelled *found)
{
	uint32_t at = (uint32_t)headers->transport;
	const uint8_t *gre = frame->data + at;

	if (frame->captured < at + GRE_HEADER)
		return false;
	uint16_t flags = be16(gre);
	uint32_t key = GRE_HEADER + (flags & GRE_CHECKSUM ? 4 : 0);
	uint32_t length = key + (flags & GRE_KEY ? 4 : 0) + (flags & GRE_SEQUENCE ? 4 : 0);
	if (frame->captured < at + length || flags & GRE_DISCARD)
		return false;
	*found = (struct tunnelled){ .start = at + length, .ethertype = be16(gre + 2), .has_ident = flags & GRE_KEY };
	if (found->has_ident)
		found->ident = be32(gre + key);
	return true;
}

/* What is left to do in the frame inside; false for a super-frame of several tunnel packets. */
static bool move_vnet(struct vnet *vnet, uint32_t start, uint32_t shift)
{
	if (!(vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	if (vnet->csum_start < start) {
		vnet->flags &= (uint8_t)~VIRTIO_NET_HDR_F_NEEDS_CSUM;
		return vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE;
	}
	vnet->csum_start = (uint16_t)(vnet->csum_start - shift);
	return true;
}

/* An Ethernet header in front of an IP packet, where the captured packet has other bytes: until close_inside. */
static void make_ethernet(struct opened *opened, uint16_t ethertype)
{
	uint8_t *at = (uint8_t *)(uintptr_t)opened->frame.data;

	memcpy(opened->saved, at, ETH_HEADER);
	memset(at, 0, ETH_ADDRESSES);
	put_be16(at + ETH_ADDRESSES, ethertype);
	opened->frame.lent = true;
}

bool open_inside(const struct inside *inside, const struct frame *frame, const struct headers *headers,
		 struct opened *opened)
{
	bool super = frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	struct tunnelled found;

	if (headers->transport == NONE)
		return false;
	uint32_t end = super ? frame->length : least(packet_end(frame, headers), frame->length);
	if (headers->protocol == IPPROTO_UDP) {
		if (!find_udp(inside, frame, headers, &found))
			return false;
		if (!super)
			end = headers->fragment ? found.end : least(end, found.end);
	} else if (headers->protocol != IPPROTO_GRE || !inside->gre || !find_gre(frame, headers, &found)) {
		return false;
	}
	if (!inside->any_ident && (!found.has_ident || found.ident != inside->ident))
		return false;
	bool ethernet = found.ethertype == ETHERNET;
	uint32_t stop = least(end, frame->captured), shift = found.start - (ethernet ? 0 : ETH_HEADER);
	if (stop < found.start + (ethernet ? ETH_HEADER : 1))
		return false;
	if (!ethernet && found.ethertype != ETH_P_IP && found.ethertype != ETH_P_IPV6)
		return false;
	opened->frame = (struct frame){ .data = frame->data + shift,
					.captured = stop - shift,
					.length = end - shift,
					.egress = frame->egress,
					.vnet = frame->vnet,
					.time = frame->time,
					.told = frame->told };
	if (!move_vnet(&opened->frame.vnet, found.start, shift))
		return false;
	if (!ethernet)
		make_ethernet(opened, found.ethertype);
	return true;
}

void close_inside(struct opened *opened)
{
	if (opened->frame.lent)
		memcpy((uint8_t *)(uintptr_t)opened->frame.data, opened->saved, ETH_HEADER);
}

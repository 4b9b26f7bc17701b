/* Devices without Ethernet: their IP packets get an Ethernet header. See without_ethernet.py. */
#include "frame/frame.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "bytes.h"

enum { FIRST_ETHERTYPE = 0x600 }; /* what is less is no ethertype (IEEE 802.3, 3.2.6) */

static uint16_t ethertype_of(const struct frame *packet, uint16_t protocol)
{
	if (protocol >= FIRST_ETHERTYPE && !is_tpid(protocol))
		return protocol;
	switch (packet->captured ? packet->data[0] >> 4 : 0) {
	case 4:
		return ETH_P_IP;
	case 6:
		return ETH_P_IPV6;
	default:
		return 0;
	}
}

void put_ethernet(struct frame *frame, uint8_t *packet, uint16_t protocol)
{
	uint8_t *header = packet - ETH_HEADER;

	memset(header, 0, ETH_ADDRESSES);
	put_be16(header + ETH_ADDRESSES, ethertype_of(frame, protocol));
	frame->data = header;
	frame->captured += ETH_HEADER;
	frame->length += ETH_HEADER;
	frame->tagged = false;
	if (frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		frame->vnet.csum_start += ETH_HEADER;
}

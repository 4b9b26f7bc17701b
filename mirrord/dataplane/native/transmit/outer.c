/* The headers of a copy that leaves by a packet socket: Ethernet, IP and, where there is one, UDP. */
#include "transmit/transmit.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

#include "bytes.h"

enum {
	IPV6_HEADER = 40,
	UDP_CHECKSUM = 6,
};

static bool is_ipv4(const struct outer *outer)
{
	return be16(outer->header + ETH_ADDRESSES) == ETH_P_IP;
}

static uint32_t ip_header(const struct outer *outer)
{
	return is_ipv4(outer) ? IPV4_HEADER : IPV6_HEADER;
}

bool open_outer(struct outer *outer, const uint8_t *header, size_t length)
{
	const uint8_t *ip = header + ETH_HEADER;

	if (length < ETH_HEADER + IPV4_HEADER || length > MAX_OUTER)
		return false;
	memcpy(outer->header, header, length);
	outer->length = (uint32_t)length;
	if (length < ETH_HEADER + ip_header(outer))
		return false;
	outer->udp = length == ETH_HEADER + ip_header(outer) + UDP_HEADER;
	outer->ip_sum = ones_sum(ip, IPV4_HEADER);
	outer->pseudo_sum = IPPROTO_UDP + (is_ipv4(outer) ? ones_sum(ip + 12, 8) : ones_sum(ip + 8, 32));
	return outer->udp || length == ETH_HEADER + ip_header(outer);
}

/* The checksum of the pseudo-header only: the kernel or the device adds the rest, to each segment. */
static void leave_checksum(const struct outer *outer, struct outer_head *head, uint32_t at, uint32_t size)
{
	put_be16(head->header + at + UDP_CHECKSUM, fold((uint64_t)outer->pseudo_sum + size));
	head->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	head->vnet.csum_start = (uint16_t)at;
	head->vnet.csum_offset = UDP_CHECKSUM;
}

void write_outer(struct outer *outer, struct outer_head *head, uint16_t port, uint32_t payload, uint32_t segment,
		 uint32_t copies)
{
	uint8_t *ip = head->header + ETH_HEADER;
	uint32_t at = ETH_HEADER + ip_header(outer), size = outer->length - at + payload;

	memcpy(head->header, outer->header, MAX_OUTER);
	head->vnet = (struct vnet){ 0 };
	if (is_ipv4(outer)) {
		uint32_t total = IPV4_HEADER + size;

		put_be16(ip + 2, total);
		put_be16(ip + 4, outer->id);
		put_be16(ip + 10, (uint16_t)~fold((uint64_t)outer->ip_sum + total + outer->id));
		outer->id = (uint16_t)(outer->id + copies);
	} else {
		put_be16(ip + 4, size);
	}
	if (!outer->udp)
		return;
	put_be16(head->header + at, port);
	put_be16(head->header + at + 4, size);
	/* Over IPv4 a lone copy goes without, as RFC 7348 5 wants; over IPv6 it may not (RFC 8200 8.1). */
	if (copies > 1 || !is_ipv4(outer))
		leave_checksum(outer, head, at, size);
	if (copies > 1) {
		head->vnet.gso_type = GSO_UDP_L4;
		head->vnet.gso_size = (uint16_t)segment;
	}
	/* What the kernel puts in one piece, where it need not look after pages: cheaper for small copies. */
	head->vnet.header_length = (uint16_t)(outer->length + (segment <= SMALL ? payload : 0));
}

/* A super-frame cut into the frames that the wire carried. */
#include "frame/frame.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "bytes.h"

enum {
	ETH_P_ETHERNET = 0x6558, /* transparent Ethernet bridging */
	IPV6_JUMBO_OPTION = 0xC2,
	TCP_CWR = 0x80,
	TCP_PSH = 0x08,
	TCP_FIN = 0x01,
};

uint32_t find_layers(struct layer *layers, const uint8_t *data, uint32_t target, enum kind kind)
{
	uint32_t at = 0, count = 0;
	uint16_t ethertype = ETH_P_ETHERNET;
	int protocol;

#define HAVE(bytes) (at + (bytes) <= target)
#define ADD(kind) (count < MAX_LAYERS && (layers[count++] = (struct layer){ kind, at }, true))
	for (;;) {
		if (ethertype == ETH_P_ETHERNET) {
			if (!HAVE(ETH_HEADER))
				return 0;
			ethertype = be16(data + at + 12);
			at += ETH_HEADER;
			while (is_tpid(ethertype)) {
				if (!HAVE(TAG))
					return 0;
				ethertype = be16(data + at + 2);
				at += TAG;
			}
		}
		if (ethertype == ETH_P_IP) {
			if (!HAVE(20) || (data[at] & 15) < 5 || !ADD(IPV4))
				return 0;
			protocol = data[at + 9];
			at += (data[at] & 15) * 4u;
		} else if (ethertype == ETH_P_IPV6) {
			if (!HAVE(40) || !ADD(IPV6))
				return 0;
			protocol = data[at + 6];
			at += 40;
			while (is_ipv6_option(protocol)) {
				if (!HAVE(8))
					return 0;
				protocol = data[at];
				at += (data[at + 1] + 1u) * 8;
			}
		} else {
			return 0;
		}
		if (at == target)
			return protocol == (kind == TCP ? IPPROTO_TCP : IPPROTO_UDP) && ADD(kind) ? count : 0;
		if (!HAVE(16))
			return 0;
		if (protocol == IPPROTO_UDP) {
			bool geneve = be16(data + at + 10) == ETH_P_ETHERNET;

			if (!ADD(UDP))
				return 0;
			at += 16 + (geneve ? (data[at + 8] & 0x3Fu) * 4 : 0);
			ethertype = ETH_P_ETHERNET;
		} else if (protocol == IPPROTO_GRE) {
			if (!ADD(GRE))
				return 0;
			ethertype = be16(data + at + 2);
			at += 4 + 4 * (uint32_t)__builtin_popcount(data[at] & 0xB0);
		} else if (protocol == IPPROTO_IPIP) {
			ethertype = ETH_P_IP;
		} else if (protocol == IPPROTO_IPV6) {
			ethertype = ETH_P_IPV6;
		} else {
			return 0;
		}
	}
#undef ADD
#undef HAVE
}

/* Take out the hop-by-hop header that BIG TCP gives an IPv6 super-frame: it never goes on a wire. */
static void remove_jumbo_option(struct super_frame *super)
{
	for (uint32_t n = 0; n < super->layer_count; n++) {
		uint32_t at = super->layers[n].at, option = at + 40;
		uint8_t *head = super->head;

		if (super->layers[n].kind != IPV6 || head[at + 6] != 0 || head[option + 1] != 0 ||
		    head[option + 2] != IPV6_JUMBO_OPTION)
			continue;
		head[at + 6] = head[option];
		super->head_length -= 8;
		memmove(head + option, head + option + 8, super->head_length - option);
		while (++n < super->layer_count)
			super->layers[n].at -= 8;
	}
}

bool open_super_frame(struct super_frame *super, const struct frame *frame, uint32_t transport, enum kind kind)
{
	uint32_t least = kind == TCP ? 20 : 8;
	uint32_t shift = frame->tagged && frame->captured >= ETH_ADDRESSES ? TAG : 0;
	uint32_t total = frame->captured + shift;
	uint8_t *head = super->head;

	transport += shift;
	if (frame->vnet.gso_size == 0 || transport + least > total || transport + least > MAX_HEADERS)
		return false;
	/* The headers are copied before they are walked: with the tag back in, they are nowhere else. */
	super->head_length = total < MAX_HEADERS ? total : MAX_HEADERS;
	if (shift) {
		memcpy(head, frame->data, ETH_ADDRESSES);
		put_be16(head + ETH_ADDRESSES, frame->tpid);
		put_be16(head + ETH_ADDRESSES + 2, frame->tci);
		memcpy(head + ETH_ADDRESSES + TAG, frame->data + ETH_ADDRESSES,
		       super->head_length - ETH_ADDRESSES - TAG);
	} else {
		memcpy(head, frame->data, super->head_length);
	}
	uint32_t length = kind == TCP ? (head[transport + 12] >> 4) * 4u : 8;
	uint32_t end = transport + length;
	if (length < least || end > super->head_length)
		return false;
	super->layer_count = find_layers(super->layers, head, transport, kind);
	if (super->layer_count == 0)
		return false;
	super->head_length = end;
	super->payload = frame->data + (end - shift);
	super->payload_length = total - end;
	super->gso_size = frame->vnet.gso_size;
	super->count = (super->payload_length + super->gso_size - 1) / super->gso_size;
	if (super->count == 0)
		super->count = 1;
	remove_jumbo_option(super);
	return true;
}

static uint16_t complement(uint64_t sum)
{
	return (uint16_t)~fold(sum);
}

uint32_t pseudo_header_sum(const uint8_t *data, const struct layer *network, enum kind kind, uint32_t length)
{
	const uint8_t *ip = data + network->at;
	uint64_t sum = network->kind == IPV4 ? (uint64_t)be32(ip + 12) + be32(ip + 16) : ones_sum(ip + 8, 32);

	return fold(sum + (kind == TCP ? IPPROTO_TCP : IPPROTO_UDP) + length);
}

/* Over head from `at` on, and the payload, with the pseudo-header of the IP layer below. */
static void put_transport_checksum(uint8_t *head, uint32_t head_length, const struct layer *network,
				   const struct layer *layer, uint32_t payload_sum, uint32_t payload_length)
{
	uint32_t at = layer->at, length = head_length - at + payload_length;
	uint8_t *field = head + at + (layer->kind == TCP ? 16 : 6);
	uint64_t sum = (uint64_t)payload_sum + pseudo_header_sum(head, network, layer->kind, length);

	put_be16(field, 0);
	sum += ones_sum(head + at, head_length - at);
	uint16_t value = complement(sum);
	put_be16(field, value || layer->kind == TCP ? value : 0xFFFF);
}

void write_segment(const struct super_frame *super, uint32_t n, uint8_t *head, const uint8_t **payload,
		   uint32_t *length)
{
	uint32_t head_length = super->head_length, skipped = n * super->gso_size;
	bool last = n == super->count - 1;

	*payload = super->payload + skipped;
	*length = last ? super->payload_length - skipped : super->gso_size;
	memcpy(head, super->head, head_length);
	/* Every header has an even length, so that the payload's sum serves each checksum as it is. */
	uint32_t payload_sum = ones_sum(*payload, *length);

	/* From the inside out: an outer checksum covers what is inside it. */
	for (uint32_t index = super->layer_count; index-- > 0;) {
		const struct layer *layer = &super->layers[index];
		uint8_t *at = head + layer->at;
		uint32_t size = head_length - layer->at + *length;

		switch (layer->kind) {
		case IPV4:
			put_be16(at + 2, size);
			put_be16(at + 4, be16(at + 4) + n);
			put_be16(at + 10, 0);
			put_be16(at + 10, complement(ones_sum(at, (at[0] & 15) * 4u)));
			break;
		case IPV6:
			put_be16(at + 4, size - 40);
			break;
		case GRE:
			if (at[0] & 0x80) {
				put_be16(at + 4, 0);
				put_be16(at + 4,
					 complement((uint64_t)payload_sum + ones_sum(at, head_length - layer->at)));
			}
			break;
		case TCP:
			put_be32(at + 4, be32(at + 4) + skipped);
			at[13] &= (uint8_t)~((n ? TCP_CWR : 0) | (last ? 0 : TCP_PSH | TCP_FIN));
			put_transport_checksum(head, head_length, layer - 1, layer, payload_sum, *length);
			break;
		case UDP:
			put_be16(at + 4, size);
			if (index == super->layer_count - 1 || be16(at + 6))
				put_transport_checksum(head, head_length, layer - 1, layer, payload_sum, *length);
			break;
		}
	}
}

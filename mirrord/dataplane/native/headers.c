/* What a frame's headers say, and the hash of its flow. */
#include "core.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

enum { MAX_EXTENSIONS = 6 };

bool is_ipv6_option(int protocol)
{
	switch (protocol) {
	case 0:			/* hop-by-hop */
	case 43:		/* routing */
	case 60:		/* destination options */
	case 135:		/* mobility */
	case 139:		/* HIP */
	case 140:		/* shim6 */
		return true;
	default:
		return false;
	}
}

static bool is_extension(int protocol)
{
	return is_ipv6_option(protocol) || protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_AH;
}

static void parse_ports(const struct frame *frame, struct headers *headers, uint32_t at)
{
	headers->transport = (int)at;
	if (headers->protocol != IPPROTO_TCP && headers->protocol != IPPROTO_UDP && headers->protocol != IPPROTO_SCTP)
		return;
	if (frame->captured < at + 4)
		return;
	headers->source_port = be16(frame->data + at);
	headers->destination_port = be16(frame->data + at + 2);
}

static void parse_ipv4(const struct frame *frame, struct headers *headers, uint32_t at)
{
	const uint8_t *ip = frame->data + at;

	if (frame->captured < at + 20 || ip[0] >> 4 != 4)
		return;
	uint32_t length = (ip[0] & 15) * 4u;
	if (length < 20 || frame->captured < at + length)
		return;
	uint16_t offset = be16(ip + 6);
	headers->family = 4;
	headers->protocol = ip[9];
	headers->source = ip + 12;
	headers->destination = ip + 16;
	headers->address_length = 4;
	headers->fragment = (offset & 0x3FFF) != 0;
	if (!(offset & 0x1FFF))
		parse_ports(frame, headers, at + length);
}

static void parse_ipv6(const struct frame *frame, struct headers *headers, uint32_t at)
{
	const uint8_t *ip = frame->data + at;
	bool later = false;

	if (frame->captured < at + 40 || ip[0] >> 4 != 6)
		return;
	headers->family = 6;
	headers->source = ip + 8;
	headers->destination = ip + 24;
	headers->address_length = 16;
	int following = ip[6];
	at += 40;
	for (int n = 0; n < MAX_EXTENSIONS && is_extension(following); n++) {
		uint32_t length;

		if (later || frame->captured < at + 8)
			return;
		const uint8_t *extension = frame->data + at;
		if (following == IPPROTO_FRAGMENT) {
			uint16_t offset = be16(extension + 2);
			headers->fragment = (offset & 0xFFF9) != 0;
			later = (offset & 0xFFF8) != 0;
			length = 8;
		} else if (following == IPPROTO_AH) {
			length = (extension[1] + 2u) * 4;
		} else {
			length = (extension[1] + 1u) * 8;
		}
		following = extension[0];
		at += length;
	}
	if (is_extension(following))
		return;
	headers->protocol = following;
	if (!later)
		parse_ports(frame, headers, at);
}

void parse(const struct frame *frame, struct headers *headers)
{
	*headers = (struct headers){ .vlan = NONE, .protocol = NONE, .transport = NONE, .source_port = NONE,
				     .destination_port = NONE };
	if (frame->captured < ETH_HEADER)
		return;
	int tags = frame->tagged;
	uint32_t at = ETH_HEADER;
	uint16_t ethertype = be16(frame->data + 12);
	if (frame->tagged)
		headers->vlan = frame->tci & 0xFFF;
	while ((ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD) && tags < MAX_TAGS &&
	       frame->captured >= at + TAG) {
		if (headers->vlan == NONE)
			headers->vlan = be16(frame->data + at) & 0xFFF;
		ethertype = be16(frame->data + at + 2);
		at += TAG;
		tags++;
	}
	headers->ethertype = ethertype;
	headers->destination = frame->data;
	headers->source = frame->data + 6;
	headers->address_length = 6;
	if (ethertype == ETH_P_IP)
		parse_ipv4(frame, headers, at);
	else if (ethertype == ETH_P_IPV6)
		parse_ipv6(frame, headers, at);
}

static uint64_t mix(uint64_t value)
{
	value ^= value >> 33;
	value *= 0xFF51AFD7ED558CCDu;
	value ^= value >> 33;
	value *= 0xC4CEB9FE1A85EC53u;
	return value ^ value >> 33;
}

static uint64_t big_endian(const uint8_t *at, uint32_t length)
{
	uint64_t number = 0;

	for (uint32_t n = 0; n < length; n++)
		number = number << 8 | at[n];
	return number;
}

static uint64_t endpoint(const uint8_t *address, uint32_t length, int port)
{
	uint64_t high = 0, low;

	if (length == 16) {
		high = big_endian(address, 8);
		low = big_endian(address + 8, 8);
	} else if (length == 4) {
		low = be32(address);
	} else {
		low = big_endian(address, length);
	}
	return mix(high * 0x9E3779B97F4A7C15u + low + ((uint64_t)port << 48));
}

uint64_t flow_hash(const struct headers *headers)
{
	bool ported = headers->source_port != NONE && !headers->fragment;
	uint32_t kind = headers->family == 0	     ? headers->ethertype
			: headers->protocol == NONE ? 0x10000
						     : (uint32_t)headers->protocol;

	return mix(endpoint(headers->source, headers->address_length, ported ? headers->source_port : 0) +
		   endpoint(headers->destination, headers->address_length, ported ? headers->destination_port : 0) +
		   ((uint64_t)kind << 32));
}

/* What a frame's headers say, and the hash of its flow. */
#include "frame/frame.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

#include "bytes.h"

enum { MAX_EXTENSIONS = 6 };

bool is_tpid(uint16_t ethertype)
{
	switch (ethertype) {
	case ETH_P_8021Q:
	case ETH_P_8021AD:
	case ETH_P_QINQ1:
	case ETH_P_QINQ2:
		return true;
	default:
		return false;
	}
}

bool is_ipv6_option(int protocol)
{
	switch (protocol) {
	case 0: /* hop-by-hop */
	case 43: /* routing */
	case 60: /* destination options */
	case 135: /* mobility */
	case 139: /* HIP */
	case 140: /* shim6 */
		return true;
	default:
		return false;
	}
}

bool is_extension(int protocol)
{
	return is_ipv6_option(protocol) || protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_AH;
}

static bool has_ports(int protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static void parse_ports(const struct frame *frame, struct headers *headers, uint32_t at)
{
	headers->transport = (int)at;
	if (!has_ports(headers->protocol) || frame->captured < at + 4)
		return;
	headers->source_port = be16(frame->data + at);
	headers->destination_port = be16(frame->data + at + 2);
}

static void parse_ipv4(const struct frame *frame, struct headers *headers, uint32_t at)
{
	const uint8_t *ip = frame->data + at;

	if (frame->captured < at + IPV4_HEADER || ip[0] >> 4 != 4)
		return;
	uint32_t length = (ip[0] & 15) * 4u;
	if (length < IPV4_HEADER || frame->captured < at + length)
		return;
	uint16_t offset = be16(ip + 6);
	headers->family = 4;
	headers->protocol = ip[9];
	headers->source = ip + 12;
	headers->destination = ip + 16;
	headers->address_length = 4;
	headers->fragment = (offset & 0x3FFF) != 0;
	headers->divided = ip[9];
	headers->identification = be16(ip + 4);
	headers->behind = at + length;
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

		headers->behind = at;
		if (later || frame->captured < at + 8)
			return;
		const uint8_t *extension = frame->data + at;
		if (following == IPPROTO_FRAGMENT) {
			uint16_t offset = be16(extension + 2);
			if (offset & 0xFFF9) {
				headers->fragment = true;
				headers->divided = extension[0];
				headers->identification = be32(extension + 4);
			}
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
	headers->behind = at;
	if (is_extension(following))
		return;
	headers->protocol = following;
	if (!later)
		parse_ports(frame, headers, at);
}

/* What most frames are: no tag, IPv4 without options, the whole of a packet that has ports. For these, the same as the
 * general way below, sooner. */
static bool parse_plain(const struct frame *frame, struct headers *headers)
{
	const uint8_t *data = frame->data, *ip = data + ETH_HEADER, *ports = ip + IPV4_HEADER;

	if (frame->tagged || frame->captured < ETH_HEADER + IPV4_HEADER + 4)
		return false;
	if (be32(data + 12) >> 8 != (ETH_P_IP << 8 | 0x45) || be16(ip + 6) & 0x3FFF || !has_ports(ip[9]))
		return false;
	*headers = (struct headers){
		.ethertype = ETH_P_IP,
		.network = ETH_HEADER,
		.family = 4,
		.vlan = NONE,
		.protocol = ip[9],
		.transport = ETH_HEADER + IPV4_HEADER,
		.source_port = be16(ports),
		.destination_port = be16(ports + 2),
		.source = ip + 12,
		.destination = ip + 16,
		.address_length = 4,
		.behind = ETH_HEADER + IPV4_HEADER,
	};
	return true;
}

void parse(const struct frame *frame, struct headers *headers)
{
	if (parse_plain(frame, headers))
		return;
	*headers = (struct headers){
		.vlan = NONE, .protocol = NONE, .transport = NONE, .source_port = NONE, .destination_port = NONE
	};
	if (frame->captured < ETH_HEADER)
		return;
	int tags = frame->tagged;
	uint32_t at = ETH_HEADER;
	uint16_t ethertype = be16(frame->data + 12);
	if (frame->tagged)
		headers->vlan = frame->tci & 0xFFF;
	while (is_tpid(ethertype) && tags < MAX_TAGS && frame->captured >= at + TAG) {
		if (headers->vlan == NONE)
			headers->vlan = be16(frame->data + at) & 0xFFF;
		ethertype = be16(frame->data + at + 2);
		at += TAG;
		tags++;
	}
	headers->ethertype = ethertype;
	headers->network = at;
	headers->destination = frame->data;
	headers->source = frame->data + 6;
	headers->address_length = 6;
	if (ethertype == ETH_P_IP)
		parse_ipv4(frame, headers, at);
	else if (ethertype == ETH_P_IPV6)
		parse_ipv6(frame, headers, at);
}

uint64_t mix(uint64_t value)
{
	value ^= value >> 33;
	value *= 0xFF51AFD7ED558CCDu;
	value ^= value >> 33;
	value *= 0xC4CEB9FE1A85EC53u;
	return value ^ value >> 33;
}

static inline uint64_t endpoint(const uint8_t *address, uint32_t length, uint64_t port)
{
	uint64_t number = length == 4	 ? be32(address)
			  : length == 16 ? be64(address) * 0x9E3779B97F4A7C15u + be64(address + 8)
			  : length == 6	 ? (uint64_t)be16(address) << 32 | be32(address + 2)
					 : 0; /* less than an Ethernet header was captured */

	return number + (port << 48);
}

uint64_t pair_hash(const struct headers *headers, bool ported)
{
	ported = ported && headers->source_port != NONE;
	uint64_t kind = headers->fragment	    ? headers->divided
			: headers->family == 0	    ? headers->ethertype
			: headers->protocol == NONE ? 0x10000
						    : (uint64_t)headers->protocol;
	uint64_t source =
		endpoint(headers->source, headers->address_length, ported ? (uint64_t)headers->source_port : 0);
	uint64_t destination = endpoint(headers->destination, headers->address_length,
					ported ? (uint64_t)headers->destination_port : 0);
	uint64_t less = source < destination ? source : destination, more = source < destination ? destination : source;

	return mix(less * 0xC2B2AE3D27D4EB4Fu + more + (kind << 32));
}

uint64_t flow_hash(const struct headers *headers)
{
	return pair_hash(headers, !headers->fragment);
}

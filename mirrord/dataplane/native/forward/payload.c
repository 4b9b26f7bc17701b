/* What a frame carries, overwritten with zeros. The captured bytes are only read: zeros are sent in their place. */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "bytes.h"
#include "forward/forward.h"

uint8_t zero_bytes[ZEROS];

enum { SCTP_WIDTH = 4, WIDTH = 2 };

/* Whether an IP packet may be behind this ethertype that the headers do not tell of. */
static bool ip_inside(uint16_t ethertype)
{
	switch (ethertype) {
	case ETH_P_IP:
	case ETH_P_IPV6:
	case 0x22F3: /* TRILL */
	case 0x6558: /* transparent Ethernet bridging */
	case 0x876B: /* TCP/IP compression */
	case 0x880B: /* PPP */
	case 0x8847: /* MPLS */
	case 0x8848: /* MPLS, multicast */
	case 0x8864: /* PPPoE, session */
	case 0x88E5: /* MACsec, which need not encrypt */
	case 0x88E7: /* provider backbone bridging */
	case 0x8903: /* FabricPath */
	case 0x8926: /* VN-Tag */
	case 0x893F: /* E-Tag */
	case 0x894F: /* network service header */
		return true;
	default:
		return is_tpid(ethertype);
	}
}

int hidden_from(const struct headers *headers, const uint8_t *data, uint32_t length)
{
	if (headers->family == 0)
		return ip_inside(headers->ethertype) ? (int)headers->network : NONE;
	int end = headers_end(headers, data, length);

	return end != NONE ? end : (int)(headers->behind < length ? headers->behind : length);
}

/* Where the checksum is in the transport header; 0: nowhere. */
static uint32_t checksum_field(const struct headers *headers)
{
	switch (headers->protocol) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
		return 6;
	case IPPROTO_SCTP:
		return 8;
	case IPPROTO_ICMP:
		return headers->family == 4 ? 2 : 0;
	case IPPROTO_ICMPV6:
		return headers->family == 6 ? 2 : 0;
	default:
		return 0;
	}
}

/* Have the first bytes in the head, so many that it has room for. */
static void take_in(struct piece *piece, uint32_t length)
{
	if (piece->head_length >= length)
		return;
	uint32_t more = length - piece->head_length;

	memcpy(piece->head + piece->head_length, piece->tail, more);
	piece->head_length = length;
	piece->tail += more;
	piece->tail_length -= more;
}

/* Behind what the checksum is of; 0 where that is not there as a whole, or not told. The headers are in the head. */
static uint32_t covered_to(const struct piece *piece, const struct headers *headers, int moved, uint32_t transport)
{
	uint32_t at = (uint32_t)((int)headers->network + moved);
	uint32_t length = be16(piece->head + at + (headers->family == 4 ? 2 : 4));
	uint32_t end = at + length + (headers->family == 6 ? 40 : 0);

	if (length == 0 || end > piece_length(piece) || end < transport + 8)
		return 0;
	if (headers->protocol == IPPROTO_UDP) {
		length = be16(piece->head + transport + 4);
		return length >= UDP_HEADER && length <= end - transport ? transport + length : 0;
	}
	return end;
}

/* The sum of the words from `start` to `end`, the first of which begins at `start`. */
static uint32_t sum_of(const struct piece *piece, uint32_t start, uint32_t end)
{
	uint32_t border = piece->head_length, in_head = 0;
	uint64_t sum = 0;

	if (start < border) {
		in_head = (end < border ? end : border) - start;
		sum = ones_sum(piece->head + start, in_head);
		start += in_head;
	}
	if (start >= end)
		return fold(sum);
	uint32_t rest = ones_sum(piece->tail + (start - border), end - start);

	if (in_head & 1)
		rest = (rest >> 8) | (rest & 0xFF) << 8;
	return fold(sum + rest);
}

static void make_crc(struct piece *piece, uint32_t transport, uint32_t start, uint32_t end)
{
	uint8_t *field = piece->head + transport + 8;
	uint32_t border = piece->head_length, in_head = start < border ? start : border;

	memset(field, 0, SCTP_WIDTH);
	uint32_t crc = crc32c(~UINT32_C(0), piece->head + transport, in_head - transport);

	if (start > border)
		crc = crc32c(crc, piece->tail, start - border);
	crc = ~crc32c(crc, zero_bytes, end - start);
	for (uint32_t n = 0; n < SCTP_WIDTH; n++)
		field[n] = (uint8_t)(crc >> 8 * n);
}

/* RFC 1624 3, eqn. 3, for words that become zero. */
static void mend(uint8_t *field, uint32_t taken, bool odd, bool udp)
{
	uint32_t told = be16(field);

	if (udp && told == 0)
		return;
	if (odd)
		taken = (taken >> 8) | (taken & 0xFF) << 8;
	uint32_t value = fold((told ^ 0xFFFF) + (taken ^ 0xFFFF)) ^ 0xFFFF;

	if (value == 0 || value == 0xFFFF)
		value = udp ? 0xFFFF : 0;
	put_be16(field, value);
}

static void mend_checksum(struct piece *piece, const struct headers *headers, int moved, int tags, uint32_t start)
{
	uint32_t offset = checksum_field(headers), width = headers->protocol == IPPROTO_SCTP ? SCTP_WIDTH : WIDTH;

	if (headers->transport == NONE || !offset || headers->fragment)
		return;
	uint32_t transport = (uint32_t)(headers->transport + moved), behind = transport + offset + width;

	if (behind > start || (int)behind - tags > MAX_HEADERS)
		return;
	take_in(piece, behind);
	uint32_t end = covered_to(piece, headers, moved, transport);

	if (end <= start)
		return;
	if (headers->protocol == IPPROTO_SCTP)
		make_crc(piece, transport, start, end);
	else
		mend(piece->head + transport + offset, sum_of(piece, start, end), (start - transport) & 1,
		     headers->protocol == IPPROTO_UDP);
}

bool hide(struct piece *piece, const struct headers *headers, int moved, int tags, uint32_t start)
{
	uint32_t length = piece_length(piece);

	if (start >= length)
		return false;
	mend_checksum(piece, headers, moved, tags, start);
	piece->zeros = length - start;
	if (start < piece->head_length) {
		piece->head_length = start;
		piece->tail_length = 0;
	} else {
		piece->tail_length = start - piece->head_length;
	}
	return true;
}

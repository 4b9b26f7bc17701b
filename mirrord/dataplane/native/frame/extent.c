/* How far the headers of a frame reach. */
#include "frame/frame.h"

#include <netinet/in.h>

enum {
	TCP_HEADER = 20, /* without options */
	SCTP_HEADER = 12,
	ICMP_HEADER = 8,
};

/* What TCP says is not believed where it cannot be. */
static uint32_t tcp_length(const uint8_t *data, uint32_t transport, uint32_t length)
{
	uint32_t told = length > transport + 12 ? (data[transport + 12] >> 4) * 4u : TCP_HEADER;

	return told >= TCP_HEADER && transport + told <= length ? told : TCP_HEADER;
}

static uint32_t transport_length(const struct headers *headers, const uint8_t *data, uint32_t length)
{
	switch (headers->protocol) {
	case IPPROTO_TCP:
		return tcp_length(data, (uint32_t)headers->transport, length);
	case IPPROTO_UDP:
		return UDP_HEADER;
	case IPPROTO_SCTP:
		return SCTP_HEADER;
	case IPPROTO_ICMP:
		return headers->family == 4 ? ICMP_HEADER : 0;
	case IPPROTO_ICMPV6:
		return headers->family == 6 ? ICMP_HEADER : 0;
	default:
		return 0;
	}
}

int headers_end(const struct headers *headers, const uint8_t *data, uint32_t length)
{
	uint32_t end;

	if (headers->family == 0 || (headers->transport == NONE && !headers->fragment))
		return NONE;
	end = headers->transport == NONE ? headers->behind
					 : (uint32_t)headers->transport + transport_length(headers, data, length);
	return (int)(end < length ? end : length);
}

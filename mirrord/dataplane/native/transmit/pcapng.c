/* What a packet block of a pcapng file has around its packet. Numbers are little-endian. */
#include "transmit/pcapng.h"

#include <string.h>

#include "bytes.h"
#include "forward/forward.h"

enum {
	PACKET = 6,
	FLAGS = 2, /* epb_flags */
	INBOUND = 1,
	OUTBOUND = 2,
	OPTIONS = 16, /* the flags, the end of the options, and the block's length once more */
};

static uint32_t padding(uint32_t length)
{
	return -length % 4;
}

static uint32_t packet_block_length(uint32_t captured)
{
	return PACKET_HEADER + captured + padding(captured) + OPTIONS;
}

void packet_header(const struct facts *facts, uint64_t time, uint8_t *header)
{
	put_le32(header, PACKET);
	put_le32(header + 4, packet_block_length(facts->kept));
	put_le32(header + 8, 0);
	put_le32(header + 12, (uint32_t)(time >> 32));
	put_le32(header + 16, (uint32_t)time);
	put_le32(header + 20, facts->kept);
	put_le32(header + 24, facts->original);
}

uint32_t packet_trailer(const struct facts *facts, uint8_t *trailer)
{
	uint32_t before = padding(facts->kept);
	uint8_t *options = trailer + before;

	memset(trailer, 0, before + OPTIONS);
	put_le32(options, FLAGS | 4u << 16);
	put_le32(options + 4, left_its_device(facts->frame) ? OUTBOUND : INBOUND);
	put_le32(options + 12, packet_block_length(facts->kept));
	return before + OPTIONS;
}

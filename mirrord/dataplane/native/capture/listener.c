/* Frames out of a tunnel that ends here: packets of a raw IP socket, unwrapped, through the forward step. */
#define _GNU_SOURCE
#include "capture/receive.h"

#include <netinet/in.h>
#include <string.h>

#include "clock.h"

enum { PACKETS_A_LOOK = 16 }; /* at the clock */

/* Whose packet it is, by what recvmmsg tells: an IPv4 address and zeros, or an IPv6 address. */
static void read_sender(const struct sockaddr_storage *address, uint8_t sender[16])
{
	memset(sender, 0, 16);
	if (address->ss_family == AF_INET)
		memcpy(sender, &((const struct sockaddr_in *)address)->sin_addr, 4);
	else
		memcpy(sender, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
}

static uint64_t count_missing(struct tap *tap, const struct told *told, const struct sockaddr_storage *address)
{
	uint8_t sender[16];

	if (!told->numbered || !tap->numbers)
		return 0;
	read_sender(address, sender);
	return note_number(tap->numbers, sender, told->ident, told->number);
}

/* Take one batch, `most` packets; false when that was all. */
static bool run_packets(struct tap *tap, struct work *work, int most)
{
	struct received received;
	struct pipeline *pipeline = tap->members[0]; /* a tunnel's end is one session's */
	const struct plan *plan = &pipeline->plan;
	uint32_t pushed = plan->push_tag ? TAG : 0;
	uint32_t limit = plan->reach.frame_limit > pushed ? plan->reach.frame_limit - pushed : 0;
	int count = receive(tap, work, &received, most);

	for (int n = 0; n < count; n++) {
		uint8_t *packet = received.vectors[n].iov_base;
		uint32_t length = received.messages[n].msg_len;
		uint32_t skip = tap->ip_header ? (packet[0] & 15) * 4u : 0;
		struct frame frame = { 0 };

		if (skip > length || !decapsulate(tap->tunnel, &frame, packet + skip, length - skip)) {
			pipeline->counters[CAPTURED]++;
			pipeline->counters[DROPPED_MALFORMED]++;
			continue;
		}
		pipeline->counters[MISSING] += count_missing(tap, &frame.told, &received.addresses[n]);
		frame.egress = tap->directed && frame.told.direction == TOLD_EGRESS;
		unfinished(&frame, limit);
		read_control(&frame, &received.messages[n].msg_hdr);
		hand_over(tap, work, &frame);
	}
	return count == most;
}

bool run_listener(struct tap *tap, struct work *work, uint64_t until)
{
	for (int left = SOCKET_BATCH; left > 0; left -= PACKETS_A_LOOK) {
		if (!run_packets(tap, work, PACKETS_A_LOOK))
			return false;
		settle(tap, work); /* its messages point to what the next packets lie in */
		if (monotonic() >= until)
			break;
	}
	return true;
}

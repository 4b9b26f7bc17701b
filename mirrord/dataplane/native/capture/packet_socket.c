/* Frames out of a ring or a plain socket, to whoever wants them. */
#define _GNU_SOURCE
#include "capture/receive.h"

#include <linux/if_packet.h>
#include <string.h>

#include "clock.h"

enum {
	BLOCKS_A_TURN = 4, /* then other taps have theirs */
	FRAMES_A_LOOK = 32, /* at the clock */
	FIRST_BATCH = 8,
};

static bool user_may_read(const struct tpacket_block_desc *block)
{
	return __atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
}

static void give_to_kernel(struct tpacket_block_desc *block)
{
	__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

/* Forward a block's frames, from the one on that the last turn came to; false when time is up before the last. */
static bool run_block(struct tap *tap, struct work *work, const struct tpacket_block_desc *block, uint64_t until)
{
	bool begun = tap->left > 0;
	const uint8_t *at = begun ? tap->at : (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
	uint32_t left = begun ? tap->left : block->hdr.bh1.num_pkts;
	struct frame frame = { 0 }; /* once, for what no tunnel tells */

	while (left > 0) {
		const struct tpacket3_hdr *header = (const void *)at;
		const struct sockaddr_ll *address = (const void *)(at + TPACKET_ALIGN(sizeof(*header)));

		frame.data = at + header->tp_mac;
		frame.captured = header->tp_snaplen;
		frame.length = header->tp_len;
		frame.egress = address->sll_pkttype == PACKET_OUTGOING;
		frame.time = header->tp_sec * UINT64_C(1000000000) + header->tp_nsec;
		frame.device = address->sll_ifindex;
		frame.lent = false;
		/* The next frame's header and first bytes; and, if it is as long as this one, those of the one after. */
		for (uint32_t line = 0; line < 192; line += 64) {
			__builtin_prefetch(at + header->tp_next_offset + line);
			__builtin_prefetch(at + 2 * header->tp_next_offset + line);
		}
		memcpy(&frame.vnet, frame.data - sizeof(frame.vnet), sizeof(frame.vnet));
		set_tag(&frame, header->tp_status, header->hv1.tp_vlan_tpid, header->hv1.tp_vlan_tci);
		if (tap->raw) /* the vnet header's place is free now, and what PACKET_RESERVE left before that */
			put_ethernet(&frame, (uint8_t *)(uintptr_t)frame.data, be16toh(address->sll_protocol));
		else if (tap->pvid)
			classify(&frame, tap->pvid);
		hand_over(tap, work, &frame);
		at += header->tp_next_offset;
		left--;
		if (left % FRAMES_A_LOOK == 0 && monotonic() >= until)
			break;
	}
	tap->at = at;
	tap->left = left;
	return left == 0;
}

static struct tpacket_block_desc *block_of(const struct tap *tap, uint32_t n)
{
	return (void *)(tap->ring + (size_t)((tap->block + n) % tap->block_count) * tap->block_size);
}

static void see_waiting(struct tap *tap)
{
	uint32_t waiting = 0;

	while (waiting < tap->block_count && user_may_read(block_of(tap, waiting)))
		waiting++;
	if (waiting > tap->most_waiting)
		tap->most_waiting = waiting;
	if (waiting * 2 > tap->block_count)
		for (uint32_t n = 0; n < tap->count; n++)
			__atomic_store_n(&tap->members[n]->state->thinning.pressed, true, __ATOMIC_RELAXED);
}

static bool run_ring(struct tap *tap, struct work *work, uint64_t until)
{
	see_waiting(tap);
	for (int n = 0; n < BLOCKS_A_TURN && monotonic() < until; n++) {
		struct tpacket_block_desc *block = block_of(tap, 0);

		if (!user_may_read(block))
			return false;
		bool whole = run_block(tap, work, block, until);
		settle(tap, work); /* its messages point into the block */
		if (!whole)
			return true;
		give_to_kernel(block);
		tap->block = (tap->block + 1) % tap->block_count;
	}
	return user_may_read(block_of(tap, 0));
}

/* Forward what there is, `most` frames at most; false when that was all. */
static bool run_frames(struct tap *tap, struct work *work, int most)
{
	struct received received;
	int count = receive(tap, work, &received, most);
	uint64_t bytes = 0;

	for (int n = 0; n < count; n++) {
		uint8_t *data = received.vectors[n].iov_base;
		const struct sockaddr_ll *address = (const void *)&received.addresses[n];
		struct frame frame = {
			.data = data + sizeof(frame.vnet),
			.captured = received.messages[n].msg_len - (uint32_t)sizeof(frame.vnet),
			.egress = address->sll_pkttype == PACKET_OUTGOING,
			.device = address->sll_ifindex,
		};

		memcpy(&frame.vnet, data, sizeof(frame.vnet));
		read_control(&frame, &received.messages[n].msg_hdr);
		if (tap->raw)
			put_ethernet(&frame, data + sizeof(frame.vnet), be16toh(address->sll_protocol));
		else if (tap->pvid)
			classify(&frame, tap->pvid);
		hand_over(tap, work, &frame);
		bytes += frame.captured;
	}
	if (count > 0)
		tap->large = bytes >= (uint64_t)count * LARGE;
	return count == most;
}

/* A few at first: most sources have little to give at a time, and to be ready for many takes time. */
static bool run_socket(struct tap *tap, struct work *work, uint64_t until)
{
	int most = tap->large ? LARGE_BATCH : FIRST_BATCH;

	for (int left = SOCKET_BATCH; left > 0; left -= most, most = tap->large ? LARGE_BATCH : left) {
		if (!run_frames(tap, work, most))
			return false;
		settle(tap, work); /* its messages point to what the next frames lie in */
		if (monotonic() >= until)
			break;
	}
	return true;
}

bool run_socket_or_ring(struct tap *tap, struct work *work, uint64_t until)
{
	return tap->ring ? run_ring(tap, work, until) : run_socket(tap, work, until);
}

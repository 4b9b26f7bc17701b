/* Frames out of a ring or a plain socket, to whoever wants them. */
#define _GNU_SOURCE
#include "capture/receive.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum {
	BLOCKS_A_TURN = 4,	/* then other pipelines have theirs */
	LARGEST_FRAME = 512 << 10,
	FIRST_BATCH = 8,
};

/* What a plain socket's messages are read into. Pages that no frame reached cost nothing. */
static _Thread_local uint8_t *buffers;

bool have_buffers(void)
{
	if (!buffers) {
		buffers = mmap(NULL, (size_t)SOCKET_BATCH * LARGEST_FRAME, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (buffers == MAP_FAILED)
			buffers = NULL;
	}
	return buffers;
}

static void set_tag(struct frame *frame, uint32_t status, uint32_t tpid, uint32_t tci)
{
	frame->tagged = status & TP_STATUS_VLAN_VALID;
	frame->tpid = status & TP_STATUS_VLAN_TPID_VALID ? (uint16_t)tpid : 0x8100;
	frame->tci = (uint16_t)tci;
}

static bool user_may_read(const struct tpacket_block_desc *block)
{
	return __atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
}

static void give_to_kernel(struct tpacket_block_desc *block)
{
	__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

static void run_block(struct tap *tap, struct batch *batch, const struct tpacket_block_desc *block)
{
	const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;

	for (uint32_t left = block->hdr.bh1.num_pkts; left > 0; left--) {
		const struct tpacket3_hdr *header = (const void *)at;
		const struct sockaddr_ll *address = (const void *)(at + TPACKET_ALIGN(sizeof(*header)));
		struct frame frame = {
			.data = at + header->tp_mac,
			.captured = header->tp_snaplen,
			.length = header->tp_len,
			.egress = address->sll_pkttype == PACKET_OUTGOING,
			.time = header->tp_sec * UINT64_C(1000000000) + header->tp_nsec,
		};

		/* The next frame's header and first bytes; and, if it is as long as this one, those of the one after. */
		for (uint32_t line = 0; line < 192; line += 64) {
			__builtin_prefetch(at + header->tp_next_offset + line);
			__builtin_prefetch(at + 2 * header->tp_next_offset + line);
		}
		memcpy(&frame.vnet, frame.data - sizeof(frame.vnet), sizeof(frame.vnet));
		set_tag(&frame, header->tp_status, header->hv1.tp_vlan_tpid, header->hv1.tp_vlan_tci);
		hand_over(tap, batch, &frame);
		at += header->tp_next_offset;
	}
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
}

static bool run_ring(struct tap *tap, struct batch *batch)
{
	see_waiting(tap);
	for (int n = 0; n < BLOCKS_A_TURN; n++) {
		struct tpacket_block_desc *block = block_of(tap, 0);

		if (!user_may_read(block))
			return false;
		run_block(tap, batch, block);
		settle(tap, batch);	/* its messages point into the block */
		give_to_kernel(block);
		tap->block = (tap->block + 1) % tap->block_count;
	}
	return user_may_read(block_of(tap, 0));
}

void read_control(struct frame *frame, struct msghdr *message)
{
	for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		if (control->cmsg_level == SOL_PACKET && control->cmsg_type == PACKET_AUXDATA) {
			struct tpacket_auxdata data;

			memcpy(&data, CMSG_DATA(control), sizeof(data));
			frame->length = data.tp_len;
			set_tag(frame, data.tp_status, data.tp_vlan_tpid, data.tp_vlan_tci);
		} else if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_TIMESTAMPNS) {
			struct timespec stamp;

			memcpy(&stamp, CMSG_DATA(control), sizeof(stamp));
			frame->time = (uint64_t)stamp.tv_sec * 1000000000u + (uint64_t)stamp.tv_nsec;
		}
	}
}

int receive(int descriptor, struct received *received, int most)
{
	for (int n = 0; n < most; n++) {
		received->vectors[n] = (struct iovec){ buffers + (size_t)n * LARGEST_FRAME, LARGEST_FRAME };
		received->messages[n].msg_hdr = (struct msghdr){
			.msg_name = &received->addresses[n], .msg_namelen = sizeof(received->addresses[n]),
			.msg_iov = &received->vectors[n], .msg_iovlen = 1,
			.msg_control = received->controls[n], .msg_controllen = sizeof(received->controls[n]),
		};
	}
	return recvmmsg(descriptor, received->messages, (unsigned int)most, MSG_DONTWAIT, NULL);
}

/* Forward what there is, `most` frames at most; false when that was all. */
static bool run_frames(struct tap *tap, struct batch *batch, int most)
{
	struct received received;
	int count = receive(tap->descriptor, &received, most);
	uint64_t bytes = 0;

	for (int n = 0; n < count; n++) {
		const uint8_t *data = received.vectors[n].iov_base;
		const struct sockaddr_ll *address = (const void *)&received.addresses[n];
		struct frame frame = {
			.data = data + sizeof(frame.vnet),
			.captured = received.messages[n].msg_len - (uint32_t)sizeof(frame.vnet),
			.egress = address->sll_pkttype == PACKET_OUTGOING,
		};

		memcpy(&frame.vnet, data, sizeof(frame.vnet));
		read_control(&frame, &received.messages[n].msg_hdr);
		hand_over(tap, batch, &frame);
		bytes += frame.captured;
	}
	if (count > 0)
		tap->large = bytes >= (uint64_t)count * LARGE;
	return count == most;
}

/* A few at first: most sources have little to give at a time, and to be ready for many takes time. */
static bool run_socket(struct tap *tap, struct batch *batch)
{
	int most = tap->large ? LARGE_BATCH : FIRST_BATCH;

	for (int left = SOCKET_BATCH; left > 0; left -= most, most = tap->large ? LARGE_BATCH : left) {
		if (!run_frames(tap, batch, most))
			return false;
		settle(tap, batch);	/* its messages point to what the next frames lie in */
	}
	return true;
}

bool run_socket_or_ring(struct tap *tap, struct batch *batch)
{
	return tap->ring ? run_ring(tap, batch) : run_socket(tap, batch);
}

/* Frames out of a ring or a plain socket, through the forward step, into batches. */
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
};

/* Working memory of a thread: a batch is always empty between two calls. Pages that no frame reached cost nothing. */
static _Thread_local struct batch *working;
static _Thread_local uint8_t *buffers;

static bool have_memory(void)
{
	if (!working)
		working = malloc(sizeof(*working));
	if (!buffers) {
		buffers = mmap(NULL, (size_t)SOCKET_BATCH * LARGEST_FRAME, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (buffers == MAP_FAILED)
			buffers = NULL;
	}
	return working && buffers && have_outgoing();
}

void forward_one(struct pipeline *pipeline, struct batch *batch, const struct frame *frame)
{
	uint64_t *counters = pipeline->counters;

	counters[frame->egress ? READ_EGRESS_FRAMES : READ_INGRESS_FRAMES]++;
	counters[frame->egress ? READ_EGRESS_BYTES : READ_INGRESS_BYTES] += frame->length;
	int reason = forward(&pipeline->plan, pipeline->state, frame, batch, counters);
	if (reason != NO_REASON)
		counters[reason]++;
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

static void run_block(struct pipeline *pipeline, struct batch *batch, const struct tpacket_block_desc *block)
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
		forward_one(pipeline, batch, &frame);
		at += header->tp_next_offset;
	}
}

static struct tpacket_block_desc *block_of(const struct pipeline *pipeline, uint32_t n)
{
	return (void *)(pipeline->ring + (size_t)((pipeline->block + n) % pipeline->block_count) * pipeline->block_size);
}

static void see_waiting(struct pipeline *pipeline)
{
	uint32_t waiting = 0;

	while (waiting < pipeline->block_count && user_may_read(block_of(pipeline, waiting)))
		waiting++;
	if (waiting > pipeline->most_waiting)
		pipeline->most_waiting = waiting;
}

static void run_ring(struct pipeline *pipeline, struct batch *batch)
{
	see_waiting(pipeline);
	for (int n = 0; n < BLOCKS_A_TURN; n++) {
		struct tpacket_block_desc *block = block_of(pipeline, 0);

		if (!user_may_read(block))
			break;
		run_block(pipeline, batch, block);
		batch->flush(batch, batch->context);	/* its messages point into the block */
		give_to_kernel(block);
		pipeline->block = (pipeline->block + 1) % pipeline->block_count;
	}
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
static bool run_frames(struct pipeline *pipeline, struct batch *batch, int most)
{
	struct received received;
	int count = receive(pipeline->descriptor, &received, most);
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
		forward_one(pipeline, batch, &frame);
		bytes += frame.captured;
	}
	if (count > 0)
		pipeline->large = bytes >= (uint64_t)count * LARGE;
	return count == most;
}

static void run_socket(struct pipeline *pipeline, struct batch *batch)
{
	int most = pipeline->large ? LARGE_BATCH : SOCKET_BATCH;

	for (int left = SOCKET_BATCH; left > 0 && run_frames(pipeline, batch, most); left -= most)
		batch->flush(batch, batch->context);	/* its messages point to what the next frames lie in */
}

/* Count what the kernel captured since it was last asked, by which it begins anew: packet(7), PACKET_STATISTICS. */
static void count_captured(struct pipeline *pipeline)
{
	struct tpacket_stats statistics = { 0 };
	socklen_t length = sizeof(statistics);

	if (getsockopt(pipeline->descriptor, SOL_PACKET, PACKET_STATISTICS, &statistics, &length) < 0)
		return;
	pipeline->counters[CAPTURED] += statistics.tp_packets;
	pipeline->counters[DROPPED_RING_FULL] += statistics.tp_drops;
}

static uint64_t accounted(const uint64_t *counters)
{
	uint64_t sum = counters[MIRRORED];

	for (int slot = SKIPPED_SAMPLED_OUT; slot <= DROPPED_WRITE_ERROR; slot++)
		sum += counters[slot];
	return sum;
}

uint64_t run_pipeline(struct pipeline *pipeline)
{
	if (!have_memory())
		return 0;
	struct batch *batch = working;
	batch->count = 0;
	batch->flush = pipeline->file.output ? write_batch : send_batch;
	batch->context = pipeline->file.output ? (void *)&pipeline->file : &pipeline->transmit;
	if (pipeline->ring)
		run_ring(pipeline, batch);
	else if (pipeline->tunnel)
		run_listener(pipeline, batch);
	else
		run_socket(pipeline, batch);
	batch->flush(batch, batch->context);
	if (!pipeline->tunnel)
		count_captured(pipeline);
	uint64_t captured = pipeline->counters[CAPTURED], done = accounted(pipeline->counters);
	return captured > done ? captured - done : 0;
}

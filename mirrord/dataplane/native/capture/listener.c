/* Frames out of a tunnel that ends here: packets of a raw IP socket, unwrapped, through the forward step. */
#define _GNU_SOURCE
#include "capture/receive.h"

void run_listener(struct pipeline *pipeline, struct batch *batch)
{
	struct received received;
	const struct plan *plan = &pipeline->plan;
	uint32_t pushed = plan->push_tag ? TAG : 0;
	uint32_t limit = plan->frame_limit > pushed ? plan->frame_limit - pushed : 0;
	int count = receive(pipeline->descriptor, &received, SOCKET_BATCH);

	for (int n = 0; n < count; n++) {
		const uint8_t *packet = received.vectors[n].iov_base;
		uint32_t length = received.messages[n].msg_len;
		uint32_t skip = pipeline->ip_header ? (packet[0] & 15) * 4u : 0;
		struct frame frame = { 0 };

		pipeline->counters[CAPTURED]++;
		if (skip > length || !decapsulate(pipeline->tunnel, &frame, packet + skip, length - skip)) {
			pipeline->counters[DROPPED_MALFORMED]++;
			continue;
		}
		unfinished(&frame, limit);
		read_control(&frame, &received.messages[n].msg_hdr);
		forward_one(pipeline, batch, &frame);
	}
}

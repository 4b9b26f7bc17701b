/* Copies into groups that may share a message, without changing the order within any flow. */
#include "core.h"

enum {
	MOST_SEGMENTS = 64,	/* UDP_MAX_SEGMENTS before Linux 6.9 */
	MOST_PAYLOAD = 65507,	/* of one UDP datagram over IPv4 */
};

void order_by_lane(struct batch *batch, uint32_t first, uint32_t lanes, struct message **row, uint32_t *ends)
{
	uint32_t starts[MAX_SOCKETS] = { 0 }, start = 0;

	for (uint32_t n = first; n < batch->count; n++) {
		struct message *message = &batch->messages[n];

		message->lane = (uint8_t)((message->flow >> 32) * lanes >> 32);
		starts[message->lane]++;
	}
	for (uint32_t n = 0; n < lanes; n++) {
		uint32_t size = starts[n];

		starts[n] = start;
		start += size;
		ends[n] = start;
	}
	for (uint32_t n = first; n < batch->count; n++)
		row[starts[batch->messages[n].lane]++] = &batch->messages[n];
}

uint32_t run_length(struct message *const *row, uint32_t count)
{
	uint32_t segment = length_of(row[0]), run = 1;
	uint32_t most = segment ? MOST_PAYLOAD / segment : 1;

	if (most > MOST_SEGMENTS)
		most = MOST_SEGMENTS;
	if (most > count)
		most = count;
	while (run < most && row[run]->lane == row[0]->lane && length_of(row[run]) == segment)
		run++;
	if (run < most && row[run]->lane == row[0]->lane && length_of(row[run]) < segment)
		run++;
	return run;
}

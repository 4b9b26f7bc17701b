/* In which order a batch's copies leave, and which of them may share a message. */
#include "transmit/transmit.h"

enum {
	MOST_SEGMENTS = 64, /* UDP_MAX_SEGMENTS before Linux 6.9 */
	MOST_PAYLOAD = 65507, /* of one UDP datagram over IPv4 */
};

/* By lane; those of one lane, and so of one flow, as they came. */
static void sort(struct message **row, uint32_t count, uint32_t lanes)
{
	uint32_t starts[MAX_SOCKETS] = { 0 }, start = 0;
	struct message *came[BATCH];

	memcpy(came, row, count * sizeof(*row));
	for (uint32_t n = 0; n < count; n++)
		starts[came[n]->lane]++;
	for (uint32_t n = 0; n < lanes; n++) {
		uint32_t size = starts[n];

		starts[n] = start;
		start += size;
	}
	for (uint32_t n = 0; n < count; n++)
		row[starts[came[n]->lane]++] = came[n];
}

void order(const struct transmit *transmit, struct message **row, uint32_t count)
{
	if (transmit->gso && transmit->overtakes)
		sort(row, count, transmit->lanes);
}

uint32_t lane_length(struct message *const *row, uint32_t count)
{
	uint32_t length = 1;

	while (length < count && row[length]->lane == row[0]->lane)
		length++;
	return length;
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

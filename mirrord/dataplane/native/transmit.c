/* Copies out of the host: a batch over a row of sockets, many messages to a system call. */
#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum { PATIENCE_MILLISECONDS = 10, ATTEMPTS = 4, REFUSED_ATTEMPTS = 64 };

static const uint64_t FIRST_BOUND = 50000;	/* counters.py: LATENCY_BOUNDS */

static int dropped_by(int error)
{
	switch (error) {
	case ENETUNREACH:
	case EHOSTUNREACH:
		return DROPPED_NO_ROUTE;
	case EMSGSIZE:
		return DROPPED_MTU_EXCEEDED;
	default:
		return DROPPED_SEND_ERROR;
	}
}

void observe_latency(uint64_t *counters, uint64_t time, uint64_t now)
{
	uint64_t taken = now > time ? now - time : 0, bound = FIRST_BOUND;
	int bucket = 0;

	while (bucket < LATENCY_BOUNDS && taken > bound) {
		bound <<= 1;
		bucket++;
	}
	counters[LATENCY_SUM] += taken;
	counters[LATENCY_BUCKET + bucket]++;
}

/* Empty the error queue: what it holds was about copies that are gone. */
static void clear_errors(int descriptor)
{
	struct msghdr nothing = { 0 };

	while (recvmsg(descriptor, &nothing, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
		;
}

/* How many of the messages were accepted, at least one; or minus the errno that the first was refused with. */
static int send_some(int descriptor, struct mmsghdr *messages, unsigned int count)
{
	int error = 0;

	/* an error may be about an earlier copy; see transmit.py */
	for (int attempt = 0; attempt < (error == ECONNREFUSED ? REFUSED_ATTEMPTS : ATTEMPTS); attempt++) {
		int sent = sendmmsg(descriptor, messages, count, MSG_DONTWAIT);

		if (sent > 0)
			return sent;
		error = errno;
		clear_errors(descriptor);
		if (error == EAGAIN) {
			struct pollfd room = { .fd = descriptor, .events = POLLOUT };

			if (poll(&room, 1, PATIENCE_MILLISECONDS) <= 0)
				return -EAGAIN;
		}
	}
	return -error;
}

/* The messages from `first` on in order of their socket; those of one socket, and so of one flow, as they came. */
static void order_by_socket(const struct batch *batch, uint32_t first, uint32_t sockets, uint16_t *order,
			    uint32_t *ends)
{
	uint32_t starts[MAX_SOCKETS] = { 0 }, start = 0;

	for (uint32_t n = first; n < batch->count; n++)
		starts[(batch->messages[n].flow >> 32) % sockets]++;
	for (uint32_t n = 0; n < sockets; n++) {
		uint32_t size = starts[n];

		starts[n] = start;
		start += size;
		ends[n] = start;
	}
	for (uint32_t n = first; n < batch->count; n++)
		order[starts[(batch->messages[n].flow >> 32) % sockets]++] = (uint16_t)n;
}

/* Send one socket's messages. A frame is mirrored when its last copy was accepted, and lost with the first that was not:
 * the rest of its copies are then not sent. Only the frame that the batch ends in may have copies yet to come. */
static void send_row(struct transmit *transmit, int descriptor, struct message *const *row, struct mmsghdr *headers,
		     uint32_t count)
{
	uint64_t *counters = transmit->counters;
	uint32_t next = 0;

	while (next < count) {
		int sent = send_some(descriptor, headers + next, count - next);
		struct timespec clock;

		clock_gettime(CLOCK_REALTIME, &clock);
		uint64_t now = (uint64_t)clock.tv_sec * 1000000000u + (uint64_t)clock.tv_nsec;
		for (int n = 0; n < sent; n++, next++) {
			counters[SENT_PACKETS]++;
			counters[SENT_BYTES] += row[next]->head_length + row[next]->tail_length + transmit->overhead;
			if (row[next]->last) {
				counters[MIRRORED]++;
				observe_latency(counters, row[next]->time, now);
			}
		}
		if (sent < 0) {
			counters[dropped_by(-sent)]++;
			while (next < count && !row[next]->last)
				next++;
			transmit->failed |= next == count;	/* another socket's may have failed before */
			next++;
		}
	}
}

void send_batch(struct batch *batch, void *context)
{
	struct transmit *transmit = context;
	struct mmsghdr headers[BATCH];
	struct iovec vectors[BATCH][2];
	struct message *row[BATCH];
	uint16_t order[BATCH];
	uint32_t ends[MAX_SOCKETS], first = 0, start = 0;

	while (transmit->failed && first < batch->count)
		transmit->failed = !batch->messages[first++].last;
	order_by_socket(batch, first, transmit->socket_count, order, ends);
	for (uint32_t n = 0; n < batch->count - first; n++) {
		row[n] = &batch->messages[order[n]];
		vectors[n][0] = (struct iovec){ row[n]->head, row[n]->head_length };
		vectors[n][1] = (struct iovec){ (void *)(uintptr_t)row[n]->tail, row[n]->tail_length };
		headers[n] = (struct mmsghdr){ .msg_hdr = { .msg_iov = vectors[n], .msg_iovlen = 2 } };
	}
	for (uint32_t n = 0; n < transmit->socket_count; n++) {
		send_row(transmit, transmit->sockets[n], row + start, headers + start, ends[n] - start);
		start = ends[n];
	}
	batch->count = 0;
}

/* Copies out of the host: a batch over a row of sockets, or one packet socket, many messages to a system call. */
#define _GNU_SOURCE
#include "transmit/rows.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "clock.h"

enum {
	ATTEMPTS = 4,
	REFUSED_ATTEMPTS = 64,
};

static int dropped_by(const struct transmit *transmit, int error)
{
	switch (error) {
	case ENETDOWN:
	case ENXIO: /* what a routed socket calls a device that is down, or gone */
		return transmit->outer.length ? DROPPED_NO_ROUTE : DROPPED_LINK_DOWN;
	case EINVAL: /* what a blackhole route answers; a device has no routes, and its copies no overhead */
		return transmit->overhead && !transmit->outer.length ? DROPPED_NO_ROUTE : DROPPED_SEND_ERROR;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case EACCES: /* a route that prohibits */
		return DROPPED_NO_ROUTE;
	case EMSGSIZE:
		return DROPPED_MTU_EXCEEDED;
	default:
		return DROPPED_SEND_ERROR;
	}
}

/* Empty the error queue: what it holds was about copies that are gone. */
static void clear_errors(int descriptor)
{
	struct msghdr nothing = { 0 };

	while (recvmsg(descriptor, &nothing, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
		;
}

/* Whether the socket is a sender that serves copies for other devices, too. */
static bool lends(const struct transmit *transmit, int descriptor)
{
	return transmit->packet >= 0 && descriptor == transmit->outgoing->sender.packet;
}

/* How many of the messages were accepted, at least one; or minus the errno that the first was refused with. */
static int send_some(struct transmit *transmit, int descriptor, struct mmsghdr *messages, unsigned int count)
{
	int error = 0;

	/* an error may be about an earlier copy; see transmit/sockets.py */
	for (int attempt = 0; attempt < (error == ECONNREFUSED ? REFUSED_ATTEMPTS : ATTEMPTS); attempt++) {
		int sent = sendmmsg(descriptor, messages, count, MSG_DONTWAIT);

		if (sent > 0)
			return sent;
		error = errno;
		clear_errors(descriptor);
		if (error == EAGAIN && lends(transmit, descriptor))
			descriptor = transmit->packet; /* another device may have taken all the room */
		else if (error == EAGAIN && !wait_for_room(transmit, descriptor))
			return -EAGAIN;
	}
	return -error;
}

struct outgoing *new_outgoing(void)
{
	struct outgoing *outgoing = malloc(sizeof(*outgoing));

	if (outgoing)
		outgoing->sender.packet = -1;
	return outgoing;
}

void leave_by(struct outgoing *outgoing, const struct sender *sender)
{
	outgoing->sender = *sender;
}

int packet_of(const struct transmit *transmit)
{
	const struct sender *sender = &transmit->outgoing->sender;
	bool may = sender->packet >= 0 && sender->alike[0] >> 32 == transmit->alike[0] >> 32 &&
		   sender->alike[1] == transmit->alike[1];

	return may ? sender->packet : transmit->packet;
}

/* Whom a message has to name: nobody, where its socket is of the device that it leaves by, or connected. */
static struct msghdr addressed(const struct transmit *transmit)
{
	struct sockaddr_ll *device = &transmit->outgoing->device;

	if (transmit->packet < 0 || packet_of(transmit) == transmit->packet)
		return (struct msghdr){ 0 };
	*device = (struct sockaddr_ll){ .sll_family = AF_PACKET, .sll_ifindex = (int)(uint32_t)transmit->alike[0] };
	return (struct msghdr){ .msg_name = device, .msg_namelen = sizeof(*device) };
}

/* Have the kernel cut the message into datagrams of this size. */
static void ask_for_segments(struct msghdr *message, uint8_t *memory, uint16_t size)
{
	struct cmsghdr *control = (void *)memory;

	control->cmsg_len = CMSG_LEN(sizeof(size));
	control->cmsg_level = IPPROTO_UDP;
	control->cmsg_type = UDP_SEGMENT;
	memcpy(CMSG_DATA(control), &size, sizeof(size));
	message->msg_control = memory;
	message->msg_controllen = CMSG_SPACE(sizeof(size));
}

static uint8_t *align(uint8_t *at)
{
	return (uint8_t *)(((uintptr_t)at + 7) & ~(uintptr_t)7);
}

void build(struct transmit *transmit, struct built *built, struct message *const *row, uint32_t count, uint32_t lone)
{
	struct outgoing *outgoing = transmit->outgoing;
	struct iovec *vector = built->vector;
	uint8_t *at = built->at;
	uint32_t messages = built->messages;
	const struct msghdr empty = addressed(transmit);

	for (uint32_t n = 0; n < count; messages++) {
		uint32_t copies = transmit->gso && n >= lone ? run_length(row + n, count - n) : 1, end = n + copies;
		uint32_t segment = length_of(row[n]), payload = (copies - 1) * segment + length_of(row[end - 1]);
		struct msghdr *message = &outgoing->messages[messages].msg_hdr;

		*message = empty;
		message->msg_iov = vector;
		*vector = (struct iovec){ at, 0 };
		if (transmit->packet >= 0) {
			write_outer(&transmit->outer, (void *)at, transmit->ports[row[n]->lane], payload, segment,
				    copies);
			at += sizeof(struct vnet) + transmit->outer.length;
		} else if (copies > 1) {
			ask_for_segments(message, outgoing->controls[messages], (uint16_t)segment);
		}
		for (; n < end && segment <= SMALL; n++)
			at = gather(row[n], at);
		vector->iov_len = (size_t)(at - (uint8_t *)vector->iov_base);
		at = align(at);
		vector += vector->iov_len > 0;
		for (; n < end; n++) {
			*vector++ = (struct iovec){ (void *)(uintptr_t)row[n]->head, row[n]->head_length };
			if (row[n]->tail_length)
				*vector++ = (struct iovec){ (void *)(uintptr_t)row[n]->tail, row[n]->tail_length };
			if (row[n]->zeros)
				*vector++ = (struct iovec){ zero_bytes, row[n]->zeros };
		}
		message->msg_iovlen = (size_t)(vector - message->msg_iov);
		outgoing->copies[messages] = copies;
	}
	*built = (struct built){ vector, at, messages };
}

void count_sent(const struct transmit *transmit, struct message *const *row, uint32_t copies, uint64_t now)
{
	for (uint32_t n = 0; n < copies;) {
		uint64_t *counters = row[n]->counters, bytes = 0, frames = 0;
		uint32_t first = n;

		for (; n < copies && row[n]->counters == counters; n++) {
			bytes += length_of(row[n]) + transmit->overhead;
			if (!row[n]->last || !transmit->settles)
				continue;
			frames++;
			observe_latency(counters, row[n]->time, now);
		}
		counters[SENT_PACKETS] += n - first;
		counters[SENT_BYTES] += bytes;
		counters[REMOTE_PACKETS + 2 * transmit->place] += n - first;
		counters[REMOTE_BYTES + 2 * transmit->place] += bytes;
		counters[MIRRORED] += frames;
	}
}

/* These copies were refused: each frame they belong to is lost, and the rest of its copies is not sent. Only the frame
 * that the batch ends in may have copies yet to come. Gives the number of copies stepped over. */
static uint32_t count_lost(struct transmit *transmit, struct message *const *row, uint32_t count, uint32_t refused,
			   int error)
{
	uint32_t next = 0;

	while (next < refused) {
		if (transmit->settles)
			row[next]->counters[dropped_by(transmit, error)]++;
		else if (!row[next]->lost)
			row[next]->lost = (uint8_t)dropped_by(transmit, error);
		while (!row[next]->last && next + 1 < count && row[next + 1]->lane == row[next]->lane)
			next++;
		transmit->failed |= !row[next]->last;
		next++;
	}
	return next;
}

/* Whether copies that were refused together may be taken one by one: not when there is no room for any. */
static bool worth_parting(int error)
{
	return error != EAGAIN && error != ENOBUFS;
}

/* How many of the row's first copies were accepted; or minus the errno that the first message was refused with, which
 * holds `*together` copies. The first `lone` copies leave one by one. */
static int give(struct transmit *transmit, int descriptor, struct message *const *row, uint32_t count, uint32_t lone,
		uint32_t *together)
{
	*together = 1;
	if (transmit->ring.memory && !transmit->gso && fits_slot(&transmit->ring, row[0]))
		return send_by_ring(transmit, row, count);
	struct outgoing *outgoing = transmit->outgoing;
	struct built built = nothing_built(outgoing);

	build(transmit, &built, row, count, lone);
	int sent = send_some(transmit, descriptor, outgoing->messages, built.messages);
	int accepted = sent < 0 ? sent : 0;

	*together = outgoing->copies[0];
	for (int n = 0; n < sent; n++)
		accepted += (int)outgoing->copies[n];
	return accepted;
}

void send_row(struct transmit *transmit, int descriptor, struct message *const *row, uint32_t count)
{
	uint32_t next = 0, lone = 0; /* copies up to this one leave one by one */

	while (next < count) {
		uint32_t copies;
		int accepted =
			give(transmit, descriptor, row + next, count - next, lone > next ? lone - next : 0, &copies);

		if (accepted > 0) {
			count_sent(transmit, row + next, (uint32_t)accepted, wall_clock());
			next += (uint32_t)accepted;
			continue;
		}
		if (copies > 1 && worth_parting(-accepted)) {
			lone = next + copies;
			if (accepted == -EIO || accepted == -EINVAL) {
				transmit->gso = false;
				transmit->gso_refused = -accepted;
			}
			continue;
		}
		next += count_lost(transmit, row + next, count - next, copies, -accepted);
	}
}

void open_lanes(struct transmit *transmit, struct message *const *row, uint32_t count)
{
	for (uint32_t n = 0; n < count; n++)
		if (transmit->sockets[row[n]->lane] < 0)
			transmit->open_lane(transmit->context, transmit->place, row[n]->lane);
}

uint32_t pick(struct transmit *transmit, struct batch *batch, uint32_t first, uint32_t end, struct message **row)
{
	uint32_t count = 0;

	for (uint32_t n = first; n < end; n++) {
		struct message *message = &batch->messages[n];

		if (message->remote == EACH ? !transmit->takes : message->remote != transmit->place)
			continue;
		message->lane = (uint8_t)lane_of(message->flow, transmit->lanes);
		if (transmit->failed)
			transmit->failed = !message->last;
		else
			row[count++] = message;
	}
	return count;
}

static void send_picked(struct transmit *transmit, struct message **row, uint32_t count)
{
	bool nowhere = !transmit->lanes; /* there is no way to it yet: the plan is ahead for a moment */

	for (uint32_t next = 0; nowhere && next < count;)
		next += count_lost(transmit, row + next, count - next, 1, ENETUNREACH);
	if (nowhere)
		return;
	order(transmit, row, count);
	open_lanes(transmit, row, count);
	for (uint32_t next = 0; next < count;) {
		uint32_t length = transmit->packet < 0 ? lane_length(row + next, count - next) : count;
		int descriptor = transmit->packet < 0 ? transmit->sockets[row[next]->lane] : packet_of(transmit);

		send_row(transmit, descriptor, row + next, length);
		next += length;
	}
}

/* What the frames count as that were for each of the collectors, of whom any may have refused a copy. */
static void settle_frames(struct exits *exits, const struct batch *batch)
{
	uint64_t now = wall_clock();

	for (uint32_t n = 0; n < batch->count; n++) {
		const struct message *message = &batch->messages[n];

		if (!exits->lost)
			exits->lost = message->lost;
		if (!message->last)
			continue;
		if (!exits->lost)
			observe_latency(message->counters, message->time, now);
		message->counters[exits->lost ? exits->lost : MIRRORED]++;
		exits->lost = 0;
	}
}

void send_batch(struct batch *batch, struct exits *exits)
{
	struct message *row[BATCH];

	for (uint32_t n = 0; n < exits->count; n++)
		send_picked(&exits->transmits[n], row, pick(&exits->transmits[n], batch, 0, batch->count, row));
	if (exits->all)
		settle_frames(exits, batch);
}

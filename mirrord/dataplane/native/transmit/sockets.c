/* Copies out of the host: a batch over a row of sockets, or one packet socket, many messages to a system call. */
#define _GNU_SOURCE
#include "transmit/transmit.h"

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
		if (error == EAGAIN && !wait_for_room(transmit, descriptor))
			return -EAGAIN;
	}
	return -error;
}

/* What sendmmsg takes, built from a row of copies; `copies` says how many of them are in each message. */
struct outgoing {
	struct mmsghdr messages[BATCH];
	uint32_t copies[BATCH];
	struct iovec vectors[4 * BATCH];
	uint8_t gathered[BATCH * (sizeof(struct outer_head) + SMALL)] __attribute__((aligned(8)));
	uint8_t controls[BATCH][CMSG_SPACE(sizeof(uint16_t))] __attribute__((aligned(8)));
};

struct outgoing *new_outgoing(void)
{
	return malloc(sizeof(struct outgoing));
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

/* How far messages have been built. */
struct built {
	struct iovec *vector;
	uint8_t *at;
	uint32_t messages;
};

static struct built nothing_built(struct outgoing *outgoing)
{
	return (struct built){ outgoing->vectors, outgoing->gathered, 0 };
}

/* Build messages of the row's copies behind those there are, runs of them where GSO is on, but the first `lone` each on its
 * own. */
static void build(struct transmit *transmit, struct built *built, struct message *const *row, uint32_t count,
		  uint32_t lone)
{
	struct outgoing *outgoing = transmit->outgoing;
	struct iovec *vector = built->vector;
	uint8_t *at = built->at;
	uint32_t messages = built->messages;

	for (uint32_t n = 0; n < count; messages++) {
		uint32_t copies = transmit->gso && n >= lone ? run_length(row + n, count - n) : 1, end = n + copies;
		uint32_t segment = length_of(row[n]), payload = (copies - 1) * segment + length_of(row[end - 1]);
		struct msghdr *message = &outgoing->messages[messages].msg_hdr;

		*message = (struct msghdr){ .msg_iov = vector };
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

/* These copies were accepted. A frame is mirrored when its last one was, and by each of the ways that it leaves by. */
static void count_sent(const struct transmit *transmit, struct message *const *row, uint32_t copies, uint64_t now)
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

static void send_row(struct transmit *transmit, int descriptor, struct message *const *row, uint32_t count)
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

/* Lanes that have copies for the first time get their sockets. */
static void open_lanes(struct transmit *transmit, struct message *const *row, uint32_t count)
{
	for (uint32_t n = 0; n < count; n++)
		if (transmit->sockets[row[n]->lane] < 0)
			transmit->open_lane(transmit->context, transmit->place, row[n]->lane);
}

/* Those of the batch's messages from `first` up to `end` that are this transmit's, but for what follows in a frame of which a
 * copy was refused. Gives their number. */
static uint32_t pick(struct transmit *transmit, struct batch *batch, uint32_t first, uint32_t end, struct message **row)
{
	uint32_t count = 0;

	for (uint32_t n = first; n < end; n++) {
		struct message *message = &batch->messages[n];

		if (message->remote == EACH ? !transmit->takes : message->remote != transmit->place)
			continue;
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

	order(row, count, nowhere ? 1 : transmit->lanes, transmit->gso && transmit->overtakes);
	for (uint32_t next = 0; nowhere && next < count;)
		next += count_lost(transmit, row + next, count - next, 1, ENETUNREACH);
	if (nowhere)
		return;
	open_lanes(transmit, row, count);
	for (uint32_t next = 0; next < count;) {
		uint32_t length = transmit->packet < 0 ? lane_length(row + next, count - next) : count;
		int descriptor = transmit->packet < 0 ? transmit->sockets[row[next]->lane] : transmit->packet;

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

static void send_batch(struct batch *batch, struct exits *exits)
{
	struct message *row[BATCH];

	for (uint32_t n = 0; n < exits->count; n++)
		send_picked(&exits->transmits[n], row, pick(&exits->transmits[n], batch, 0, batch->count, row));
	if (exits->all)
		settle_frames(exits, batch);
}

/* What leaves by one packet socket, a message after the other. */
static bool is_simple(const struct exits *exits)
{
	const struct transmit *transmit = exits->transmits;

	return exits->count == 1 && !exits->all && transmit->packet >= 0 && transmit->lanes && !transmit->ring.memory;
}

bool may_go_on(const struct parts *parts, const struct exits *exits)
{
	const struct exits *before = parts->parts[0].exits;

	return parts->count < MOST_PARTS && is_simple(before) && is_simple(exits) &&
	       memcmp(before->transmits->alike, exits->transmits->alike, sizeof(exits->transmits->alike)) == 0;
}

/* A part's copies in the row, and how many messages were built of them. */
struct stretch_of_row {
	uint32_t first, count, messages;
};

/* Pick, and build messages of, all parts' copies. Gives the messages' number. */
static uint32_t build_parts(struct batch *batch, const struct parts *parts, struct message **row,
			    struct stretch_of_row *stretches)
{
	struct built built = nothing_built(parts->parts[0].exits->transmits->outgoing);
	uint32_t at = 0;

	for (uint32_t n = 0; n < parts->count; n++) {
		struct transmit *transmit = parts->parts[n].exits->transmits;
		uint32_t end = n + 1 < parts->count ? parts->parts[n + 1].first : batch->count;
		uint32_t count = pick(transmit, batch, parts->parts[n].first, end, row + at), before = built.messages;

		order(row + at, count, transmit->lanes, transmit->gso && transmit->overtakes);
		open_lanes(transmit, row + at, count);
		build(transmit, &built, row + at, count, 0);
		stretches[n] = (struct stretch_of_row){ at, count, built.messages - before };
		at += count;
	}
	return built.messages;
}

/* All parts' copies by the first one's socket, in one system call. What that does not accept, each part sends by itself: it
 * knows what to make of the error. */
static void send_together(struct batch *batch, const struct parts *parts)
{
	struct message *row[BATCH];
	struct stretch_of_row stretches[MOST_PARTS];
	const struct transmit *first = parts->parts[0].exits->transmits;
	struct outgoing *outgoing = first->outgoing;
	uint32_t messages = build_parts(batch, parts, row, stretches), message = 0;
	int sent = messages ? sendmmsg(first->packet, outgoing->messages, messages, MSG_DONTWAIT) : 0;
	uint32_t left = sent > 0 ? (uint32_t)sent : 0;
	uint64_t now = wall_clock();

	for (uint32_t n = 0; n < parts->count; n++) {
		struct transmit *transmit = parts->parts[n].exits->transmits;
		struct message *const *own = row + stretches[n].first;
		uint32_t accepted = 0;

		for (uint32_t of_part = stretches[n].messages; of_part && left; of_part--, left--)
			accepted += outgoing->copies[message++];
		count_sent(transmit, own, accepted, now);
		if (accepted < stretches[n].count) /* as of all parts from here on: what was built is not needed */
			send_row(transmit, transmit->packet, own + accepted, stretches[n].count - accepted);
	}
}

void send_parts(struct batch *batch, void *context)
{
	struct parts *parts = context;

	if (parts->count == 1)
		send_batch(batch, parts->parts[0].exits);
	else
		send_together(batch, parts);
	batch->count = 0;
	parts->parts[0] = (struct part){ parts->parts[parts->count - 1].exits, 0 };
	parts->count = 1;
}

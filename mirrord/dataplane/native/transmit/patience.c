/* How long a turn may wait for room in a full send buffer: see Patience in sockets.py. */
#define _GNU_SOURCE
#include "transmit/transmit.h"

#include <poll.h>
#include <string.h>

#include "clock.h"

enum {
	PATIENCE_MILLISECONDS = 10, /* sockets.py tells why */
	JAMMED_MILLISECONDS = 1,
	JAMMED_SHARE = 8,
};

static const uint64_t MILLISECOND = 1000000, LATELY = 100000000;

/* What a worker has for those that are jammed, all together, and the device that was the last one to jam. */
static _Thread_local struct {
	uint64_t left, at, jammed_at;
	uint64_t alike[2];
} kept;

static void keep(uint64_t now)
{
	uint64_t most = JAMMED_MILLISECONDS * MILLISECOND, more = (now - kept.at) / JAMMED_SHARE;

	kept.left = more < most - kept.left ? kept.left + more : most;
	kept.at = now;
}

/* Whether another way out by the same device ran out of patience a moment ago. */
static bool leads_into_a_jam(const struct transmit *transmit, uint64_t now)
{
	return transmit->packet >= 0 && now - kept.jammed_at < LATELY &&
	       memcmp(transmit->alike, kept.alike, sizeof(kept.alike)) == 0;
}

void begin_turn(struct transmit *transmit, struct outgoing *outgoing, uint64_t turn)
{
	if (transmit->turn == turn)
		return;
	transmit->turn = turn;
	transmit->outgoing = outgoing;
	transmit->patience = PATIENCE_MILLISECONDS * MILLISECOND;
	transmit->was_jammed = transmit->jammed;
	transmit->jammed = false;
}

static bool wait_so_long(int descriptor, uint64_t nanoseconds)
{
	struct pollfd room = { .fd = descriptor, .events = POLLOUT };
	struct timespec most = { .tv_nsec = (long)nanoseconds };

	return ppoll(&room, 1, &most, NULL) > 0;
}

bool wait_for_room(struct transmit *transmit, int descriptor)
{
	uint64_t begun = monotonic();
	bool jammed = transmit->was_jammed || leads_into_a_jam(transmit, begun);
	uint64_t *left = jammed ? &kept.left : &transmit->patience;

	keep(begun);
	bool room = wait_so_long(descriptor, transmit->jammed ? 0 : *left);
	uint64_t now = monotonic(), waited = now - begun;

	*left -= waited < *left ? waited : *left;
	if (room)
		return true;
	transmit->jammed = true;
	if (transmit->packet >= 0) {
		memcpy(kept.alike, transmit->alike, sizeof(kept.alike));
		kept.jammed_at = now;
	}
	return false;
}

/* How long a turn may wait for room in a full send buffer: see Patience in sockets.py. */
#define _GNU_SOURCE
#include "transmit/transmit.h"

#include <poll.h>

#include "clock.h"

enum {
	PATIENCE_MILLISECONDS = 10, /* sockets.py tells why */
	JAMMED_MILLISECONDS = 1,
};

void begin_turn(struct transmit *transmit, struct outgoing *outgoing, uint64_t turn)
{
	if (transmit->turn == turn)
		return;
	transmit->turn = turn;
	transmit->outgoing = outgoing;
	transmit->patience = (transmit->jammed ? JAMMED_MILLISECONDS : PATIENCE_MILLISECONDS) * UINT64_C(1000000);
	transmit->jammed = false;
}

bool wait_for_room(struct transmit *transmit, int descriptor)
{
	struct pollfd room = { .fd = descriptor, .events = POLLOUT };
	struct timespec most = { .tv_nsec = (long)transmit->patience };
	uint64_t begun = monotonic();

	if (ppoll(&room, 1, &most, NULL) <= 0) {
		transmit->patience = 0;
		transmit->jammed = true;
		return false;
	}
	uint64_t waited = monotonic() - begun;
	transmit->patience -= waited < transmit->patience ? waited : transmit->patience;
	return true;
}

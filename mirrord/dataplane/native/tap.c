/* A turn of a source that is captured. See tap.py. */
#include "tap.h"

#include "clock.h"

enum { TURN_MILLISECONDS = 4 }; /* tap.py: TURN_SECONDS */

bool run_tap(struct tap *tap, struct work *work)
{
	uint64_t until = monotonic() + TURN_MILLISECONDS * UINT64_C(1000000);

	if (!tap->count)
		return false;
	work->turn = until;
	leave_by(work->outgoing, &tap->sender);
	begin_handing(tap, work);
	bool more = tap->tunnel ? run_listener(tap, work, until) : run_socket_or_ring(tap, work, until);
	end_handing(tap, work);
	return more;
}

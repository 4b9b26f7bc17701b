/* Which of several collectors a conversation goes to: see forward/remotes.py. */
#include "forward/forward.h"

uint8_t choose_remote(const struct remotes *remotes, uint64_t conversation)
{
	uint64_t most = 0;
	int chosen = NONE;

	for (uint32_t n = 0; n < remotes->count; n++) {
		uint64_t score = mix(conversation ^ remotes->seeds[n]);

		if (remotes->alive[n] && (chosen == NONE || score > most)) {
			most = score;
			chosen = (int)n;
		}
	}
	return (uint8_t)chosen;
}

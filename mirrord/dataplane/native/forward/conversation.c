/* The conversation that a frame is part of: what is kept or left out whole. */
#include "forward/forward.h"

#include <netinet/in.h>

/* Whether only the first fragment of what this is a part of tells the conversation. */
static bool untold(const struct headers *later)
{
	return later->divided == IPPROTO_TCP || (later->family == 6 && is_extension(later->divided));
}

uint64_t conversation_hash(const struct headers *headers, struct fragments *firsts, bool *guessed)
{
	bool tcp = headers->protocol == IPPROTO_TCP;

	*guessed = false;
	if (!headers->fragment)
		return pair_hash(headers, tcp);
	uint64_t guess = pair_hash(headers, false), found;
	if (headers->transport != NONE) {
		struct headers whole = *headers;

		whole.fragment = false;
		uint64_t told = pair_hash(&whole, tcp);
		if (told != guess)
			remember_fragment(firsts, headers, told);
		return told;
	}
	if (!untold(headers))
		return guess;
	*guessed = !recall_fragment(firsts, headers, &found);
	return *guessed ? guess : found;
}

/* What the first fragment of a datagram told, for its later ones: a ring of the last ones, and chains to find them by. */
#include "forward/forward.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 1024 }; /* fragments.py; a power of two */

struct key {
	uint64_t source[2], destination[2];
	uint32_t identification;
	uint32_t protocol; /* and the family */
};

struct entry {
	struct key key;
	uint64_t number;
	uint16_t next; /* entry of the same chain, older: its place and one; or 0 */
};

struct fragments {
	uint64_t count; /* ever remembered; the next one's place */
	uint16_t chains[MOST]; /* newest first */
	struct entry entries[MOST];
};

struct fragments *new_fragments(void)
{
	return calloc(1, sizeof(struct fragments));
}

static struct key key_of(const struct headers *fragment)
{
	uint32_t protocol = fragment->family == 4 ? fragment->divided : 0;
	struct key key = { .identification = fragment->identification,
			   .protocol = (uint32_t)fragment->family << 8 | protocol };

	memcpy(key.source, fragment->source, fragment->address_length);
	memcpy(key.destination, fragment->destination, fragment->address_length);
	return key;
}

static uint16_t *chain_of(struct fragments *fragments, const struct key *key)
{
	const uint64_t words[] = { key->source[0], key->source[1], key->destination[0], key->destination[1],
				   (uint64_t)key->protocol << 32 | key->identification };
	uint64_t hash = 0;

	for (size_t n = 0; n < sizeof(words) / sizeof(*words); n++)
		hash = mix(hash + words[n]);
	return &fragments->chains[hash % MOST];
}

/* Take the oldest entry out of its chain, where it is the last. */
static void forget(struct fragments *fragments, uint16_t place)
{
	uint16_t *link = chain_of(fragments, &fragments->entries[place].key);

	while (*link != place + 1)
		link = &fragments->entries[*link - 1].next;
	*link = 0;
}

void remember_fragment(struct fragments *fragments, const struct headers *first, uint64_t number)
{
	uint16_t place = (uint16_t)(fragments->count % MOST);
	struct entry *entry = &fragments->entries[place];

	if (fragments->count++ >= MOST)
		forget(fragments, place);
	entry->key = key_of(first);
	entry->number = number;
	uint16_t *chain = chain_of(fragments, &entry->key);
	entry->next = *chain;
	*chain = (uint16_t)(place + 1);
}

bool recall_fragment(struct fragments *fragments, const struct headers *later, uint64_t *number)
{
	struct key key = key_of(later);

	for (uint16_t at = *chain_of(fragments, &key); at; at = fragments->entries[at - 1].next) {
		const struct entry *entry = &fragments->entries[at - 1];

		if (!memcmp(&entry->key, &key, sizeof(key))) {
			*number = entry->number;
			return true;
		}
	}
	return false;
}

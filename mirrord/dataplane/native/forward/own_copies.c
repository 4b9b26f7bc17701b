/* Tunnel packets of configured destinations and listeners, which are copies already. */
#include "forward/forward.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "inlining.h"

enum { MOST_WORDS = 2 }; /* own_copies.py */

/* As Guards.packed gives it. In a kind the port is 1 where there is one, and the values are 0. */
struct guard {
	uint8_t address[16]; /* an IPv4 address in the first four, then zeros; all zeros: any */
	uint8_t family, protocol;
	uint16_t port; /* or 0 */
	uint8_t count; /* of words */
	uint8_t kind; /* 1: what guards of an address have in common */
	uint8_t unused[2];
	struct {
		uint32_t at, mask, value;
	} words[MOST_WORDS];
};

/* A bit for each sum in 8 bits that something has: nearly nothing else has one of them. */
struct sums {
	uint64_t bits[4];
};

struct own_copies {
	struct fragments *firsts; /* made when the first fragment comes that has a guard's address; or NULL */
	uint32_t kind_count, count;
	const struct guard *kinds, *guards; /* both in the order of their bytes; of who made them */
	bool anyones; /* whether there are guards of any address */
	struct sums addresses, ports;
	struct sums protocols; /* of guards without a port */
};

/* A sum in 8 bits of an address of 4 or 16 bytes; the same with zeros behind one of 4. */
static unsigned int sum_of(const uint8_t *address, uint32_t length)
{
	uint64_t halves[2] = { 0 };
	uint32_t word;

	if (length == sizeof(word)) {
		memcpy(&word, address, sizeof(word));
		halves[0] = word;
	} else {
		memcpy(halves, address, sizeof(halves));
	}
	uint64_t sum = halves[0] ^ halves[1];
	sum ^= sum >> 32;
	sum ^= sum >> 16;
	return (sum ^ sum >> 8) & 255;
}

static unsigned int sum_of_port(uint16_t port)
{
	return (port ^ port >> 8) & 255;
}

static void add_sum(struct sums *sums, unsigned int sum)
{
	sums->bits[sum / 64] |= (uint64_t)1 << sum % 64;
}

static bool has_sum(const struct sums *sums, unsigned int sum)
{
	return sums->bits[sum / 64] >> sum % 64 & 1;
}

/* Whether a guard may hold, whatever its address. */
static bool is_guarded(const struct own_copies *own, const struct headers *headers)
{
	return has_sum(&own->ports, sum_of_port((uint16_t)headers->destination_port)) ||
	       has_sum(&own->protocols, (uint8_t)headers->protocol);
}

/* Whether a guard of this address may. `end` is NULL where any address is meant. */
static bool may_hold(const struct own_copies *own, const uint8_t *end, const struct headers *headers)
{
	return end ? has_sum(&own->addresses, sum_of(end, headers->address_length)) : own->anyones;
}

struct own_copies *new_own_copies(const void *packed, size_t length)
{
	struct own_copies *own = calloc(1, sizeof(*own));

	if (own) {
		uint32_t all = (uint32_t)(length / sizeof(struct guard));

		own->kinds = packed;
		while (own->kind_count < all && own->kinds[own->kind_count].kind)
			own->kind_count++;
		own->guards = own->kinds + own->kind_count;
		own->count = all - own->kind_count;
		own->anyones = own->kind_count && !memcmp(own->kinds[0].address, (uint8_t[16]){ 0 }, 16);
		for (uint32_t n = 0; n < own->count; n++) {
			const struct guard *guard = &own->guards[n];

			add_sum(&own->addresses, sum_of(guard->address, sizeof(guard->address)));
			if (guard->port)
				add_sum(&own->ports, sum_of_port(guard->port));
			else
				add_sum(&own->protocols, guard->protocol);
		}
	}
	return own;
}

struct own_copies *own_copies_as(const struct own_copies *other)
{
	struct own_copies *own = malloc(sizeof(*own));

	if (own) {
		*own = *other;
		own->firsts = NULL;
	}
	return own;
}

void free_own_copies(struct own_copies *own)
{
	if (own)
		free(own->firsts);
	free(own);
}

void keep_firsts(struct own_copies *own, struct own_copies *next)
{
	next->firsts = own->firsts;
	own->firsts = NULL;
}

/* The first kind of this address, or of one after it. */
static const struct guard *first_of(const struct own_copies *own, const uint8_t *address)
{
	uint32_t low = 0, high = own->kind_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (memcmp(own->kinds[middle].address, address, sizeof(own->kinds[middle].address)) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return own->kinds + low;
}

static bool is_guard(const struct own_copies *own, const struct guard *wanted)
{
	uint32_t low = 0, high = own->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		int order = memcmp(own->guards + middle, wanted, sizeof(*wanted));

		if (!order)
			return true;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* Whether there is a guard of this kind with the frame's own values: a look-up, however many there are. */
static bool has(const struct own_copies *own, const struct guard *kind, const struct headers *headers,
		const struct frame *frame)
{
	struct guard wanted = *kind;

	if (headers->protocol != kind->protocol)
		return false;
	wanted.kind = 0;
	if (kind->port)
		wanted.port = headers->destination_port;
	for (uint32_t n = 0; n < kind->count; n++) {
		uint32_t at = (uint32_t)headers->transport + kind->words[n].at;

		if (frame->captured < at + 4)
			return false;
		wanted.words[n].value = be32(frame->data + at) & kind->words[n].mask;
	}
	return is_guard(own, &wanted);
}

/* Whether one of the guards of this address holds; where the transport header is not there, whether there are any. */
static bool holds(const struct own_copies *own, const uint8_t *end, const struct headers *headers,
		  const struct frame *frame)
{
	uint8_t address[16] = { 0 };

	if (end)
		memcpy(address, end, headers->address_length);
	for (const struct guard *kind = first_of(own, address); kind < own->guards; kind++) {
		if (memcmp(kind->address, address, sizeof(address)) != 0)
			return false;
		if (kind->family == headers->family && (headers->transport == NONE || has(own, kind, headers, frame)))
			return true;
	}
	return false;
}

static bool any_holds(const struct own_copies *own, const struct headers *headers, const struct frame *frame)
{
	const uint8_t *ends[] = { headers->source, headers->destination, NULL };

	for (uint32_t n = 0; n < sizeof(ends) / sizeof(*ends); n++)
		if (may_hold(own, ends[n], headers) && holds(own, ends[n], headers, frame))
			return true;
	return false;
}

static bool guarded_address(const struct own_copies *own, const struct headers *headers, const struct frame *frame)
{
	struct headers later = *headers;

	later.transport = NONE;
	return any_holds(own, &later, frame);
}

RARE bool is_own_fragment(struct own_copies *own, const struct headers *headers, const struct frame *frame)
{
	uint64_t found;

	if (!guarded_address(own, headers, frame))
		return false;
	if (headers->transport == NONE)
		return own->firsts && recall_fragment(own->firsts, headers, &found) && found;
	bool known = any_holds(own, headers, frame);
	if (!own->firsts)
		own->firsts = new_fragments();
	if (own->firsts) /* without memory later fragments are mirrored, as where their first was not seen */
		remember_fragment(own->firsts, headers, known);
	return known;
}

bool is_own_copy(struct own_copies *own, const struct headers *headers, const struct frame *frame)
{
	if (!headers->family)
		return false;
	if (headers->fragment)
		return is_own_fragment(own, headers, frame);
	return headers->transport != NONE && is_guarded(own, headers) && any_holds(own, headers, frame);
}

/* One copy of a packet that passes several of a mirror's sources: a ring of what was copied, in chains by a hash. */
#include "forward/duplicates.h"

#include <linux/if_ether.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "bytes.h"
#include "frame/frame.h"

enum {
	MOST = 65536, /* duplicates.py tells of these; a power of two */
	WALKED = 64,
	STEPS = 4096, /* of others, in a chain that many share */
	TTL = 8,
	CHECKSUM = 10,
	HOP_LIMIT = 7,
	START = ETH_ADDRESSES + 8 * TAG + 2 + 40, /* where what is left out may be; more tags than that nobody has */
};

struct copied {
	uint64_t digest;
	uint64_t time;
	uint64_t seen; /* the sources that have shown it, a bit each */
	uint64_t before; /* the number of the one before it in its chain */
};

struct duplicates {
	bool locked;
	uint64_t secret[2];
	uint64_t count; /* ever copied: the number of the last one */
	uint64_t chains[MOST]; /* the newest's number, or 0 */
	struct copied row[MOST];
};

struct duplicates *new_duplicates(void)
{
	struct duplicates *duplicates = calloc(1, sizeof(*duplicates));

	if (duplicates && getrandom(duplicates->secret, sizeof(duplicates->secret), GRND_NONBLOCK) < 0)
		duplicates->secret[0] = (uintptr_t)duplicates; /* the host has just booted */
	return duplicates;
}

void free_duplicates(struct duplicates *duplicates)
{
	free(duplicates);
}

/* --- SipHash-2-4 (Aumasson, Bernstein, 2012), of several parts --- */

struct sip {
	uint64_t v0, v1, v2, v3;
	uint8_t rest[8];
	uint32_t rest_length;
	uint64_t length;
};

static uint64_t rotated(uint64_t value, int by)
{
	return value << by | value >> (64 - by);
}

static void sip_round(struct sip *sip)
{
	sip->v0 += sip->v1;
	sip->v1 = rotated(sip->v1, 13) ^ sip->v0;
	sip->v0 = rotated(sip->v0, 32);
	sip->v2 += sip->v3;
	sip->v3 = rotated(sip->v3, 16) ^ sip->v2;
	sip->v0 += sip->v3;
	sip->v3 = rotated(sip->v3, 21) ^ sip->v0;
	sip->v2 += sip->v1;
	sip->v1 = rotated(sip->v1, 17) ^ sip->v2;
	sip->v2 = rotated(sip->v2, 32);
}

static void sip_word(struct sip *sip, uint64_t word)
{
	sip->v3 ^= word;
	sip_round(sip);
	sip_round(sip);
	sip->v0 ^= word;
}

static void sip_begin(struct sip *sip, const uint64_t *secret)
{
	*sip = (struct sip){
		.v0 = secret[0] ^ UINT64_C(0x736f6d6570736575),
		.v1 = secret[1] ^ UINT64_C(0x646f72616e646f6d),
		.v2 = secret[0] ^ UINT64_C(0x6c7967656e657261),
		.v3 = secret[1] ^ UINT64_C(0x7465646279746573),
	};
}

static void sip_add(struct sip *sip, const uint8_t *data, uint32_t length)
{
	uint64_t word;

	sip->length += length;
	while (length && sip->rest_length) {
		sip->rest[sip->rest_length++] = *data++;
		length--;
		if (sip->rest_length == sizeof(sip->rest)) {
			memcpy(&word, sip->rest, sizeof(word));
			sip_word(sip, word);
			sip->rest_length = 0;
		}
	}
	for (; length >= sizeof(word); data += sizeof(word), length -= (uint32_t)sizeof(word)) {
		memcpy(&word, data, sizeof(word));
		sip_word(sip, word);
	}
	if (length)
		memcpy(sip->rest, data, length);
	sip->rest_length = sip->rest_length ? sip->rest_length : length;
}

static uint64_t sip_end(struct sip *sip)
{
	uint64_t last = 0;

	memcpy(&last, sip->rest, sip->rest_length);
	sip_word(sip, last | sip->length << 56);
	sip->v2 ^= 0xFF;
	for (int n = 0; n < 4; n++)
		sip_round(sip);
	return sip->v0 ^ sip->v1 ^ sip->v2 ^ sip->v3;
}

/* --- packets --- */

/* Where the ethertype is behind the tags; what changes on the way is zero from there on. */
static uint32_t blank(uint8_t *start, uint32_t length)
{
	uint32_t at = ETH_ADDRESSES;

	while (length >= at + TAG + 2 && is_tpid(be16(start + at)))
		at += TAG;
	if (length < at + 2)
		return at < length ? at : length;
	uint8_t *network = start + at + 2;
	uint32_t left = length - at - 2;
	if (be16(start + at) == ETH_P_IP && left >= IPV4_HEADER) {
		network[TTL] = 0;
		memset(network + CHECKSUM, 0, 2);
	} else if (be16(start + at) == ETH_P_IPV6 && left >= 40) {
		network[HOP_LIMIT] = 0;
	}
	return at;
}

static uint64_t digest_of(const struct duplicates *duplicates, uint64_t cut, const uint8_t *head, uint32_t head_length,
			  const uint8_t *tail, uint32_t tail_length)
{
	uint8_t start[START];
	uint32_t from_head = head_length < START ? head_length : START;
	uint32_t from_tail = START - from_head < tail_length ? START - from_head : tail_length;
	struct sip sip;

	memcpy(start, head, from_head);
	memcpy(start + from_head, tail, from_tail);
	uint32_t at = blank(start, from_head + from_tail);
	sip_begin(&sip, duplicates->secret);
	sip_word(&sip, cut);
	sip_add(&sip, start + at, from_head + from_tail - at);
	sip_add(&sip, head + from_head, head_length - from_head);
	sip_add(&sip, tail + from_tail, tail_length - from_tail);
	return sip_end(&sip);
}

/* The oldest that this source has not shown, of those in time; or NULL. */
static struct copied *find(struct duplicates *duplicates, uint64_t digest, const struct sighting *sighting)
{
	uint64_t bit = UINT64_C(1) << sighting->place, number = duplicates->chains[digest % MOST];
	struct copied *found = NULL;

	for (int equal = 0, steps = 0; number && duplicates->count - number < MOST && steps < STEPS; steps++) {
		struct copied *copied = &duplicates->row[number % MOST];
		uint64_t time = copied->time;

		number = copied->before;
		if (copied->digest != digest)
			continue;
		if (copied->seen & bit) /* and so all that were copied before it */
			break;
		if ((time > sighting->time ? time - sighting->time : sighting->time - time) <= sighting->window)
			found = copied;
		if (++equal == WALKED)
			break;
	}
	return found;
}

static void remember(struct duplicates *duplicates, uint64_t digest, const struct sighting *sighting)
{
	uint64_t *chain = &duplicates->chains[digest % MOST], number = ++duplicates->count;

	duplicates->row[number % MOST] = (struct copied){
		.digest = digest, .time = sighting->time, .seen = UINT64_C(1) << sighting->place, .before = *chain
	};
	*chain = number;
}

bool is_duplicate(struct duplicates *duplicates, const struct sighting *sighting, const uint8_t *head,
		  uint32_t head_length, const uint8_t *tail, uint32_t tail_length)
{
	uint64_t digest = digest_of(duplicates, sighting->cut, head, head_length, tail, tail_length);

	/* One worker runs all of a mirror's sources, but when one of them had to be begun anew on another. */
	while (__atomic_test_and_set(&duplicates->locked, __ATOMIC_ACQUIRE))
		sched_yield();
	struct copied *copied = find(duplicates, digest, sighting);
	if (copied)
		copied->seen |= UINT64_C(1) << sighting->place;
	else
		remember(duplicates, digest, sighting);
	__atomic_clear(&duplicates->locked, __ATOMIC_RELEASE);
	return copied;
}

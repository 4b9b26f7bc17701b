/* TCP connections that are followed from their SYNs on: a table of places, in chains by a hash and in a row by when they were
 * seen.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "bytes.h"
#include "forward/tls.h"

enum {
	MOST = 65536, /* connections.py tells of these */
	FAR = 1 << 30,
	TCP_HEADER = 20,
	TCP_FLAGS = 13,
	TCP_SYN = 0x02,
	NOWHERE = 0, /* no place: they count from 1 */
};

struct key {
	uint64_t ends[4]; /* the lesser address, the greater one */
	uint16_t ports[2];
	uint16_t family;
	int16_t vlan; /* the outermost tag's id, or NONE */
};

/* What one end sends. Numbers are sequence numbers. */
struct direction {
	uint32_t origin; /* of the first byte that is taken for a part of it */
	uint32_t next; /* of the first byte that was not read yet */
	uint32_t end; /* of the first byte that is hidden, where it has ended */
	struct stream stream;
	bool known;
	bool ended;
	bool past; /* it was seen far behind its end */
	bool lost; /* it ends where a gap begins that is too large */
};

struct place {
	struct key key;
	struct direction directions[2];
	uint32_t next; /* of the same chain */
	uint32_t older, newer; /* in the row */
};

_Static_assert(sizeof(struct place) + sizeof(uint32_t) <= 128, "connections.py: MOST");

struct connections {
	uint64_t seed; /* so that nobody outside knows which connections share a chain */
	uint32_t count;
	uint32_t oldest, newest;
	uint32_t *chains;
	struct place *places;
};

struct connections *new_connections(void)
{
	struct connections *connections = calloc(1, sizeof(*connections));

	if (!connections)
		return NULL;
	connections->chains = calloc(MOST, sizeof(*connections->chains));
	connections->places = calloc(MOST, sizeof(*connections->places));
	if (getrandom(&connections->seed, sizeof(connections->seed), GRND_NONBLOCK) < 0)
		connections->seed = (uintptr_t)connections; /* the host has just booted */
	if (connections->chains && connections->places)
		return connections;
	free_connections(connections);
	return NULL;
}

void free_connections(struct connections *connections)
{
	if (!connections)
		return;
	free(connections->chains);
	free(connections->places);
	free(connections);
}

static struct place *place_at(const struct connections *connections, uint32_t number)
{
	return &connections->places[number - 1];
}

static uint32_t *chain_of(const struct connections *connections, const struct key *key)
{
	uint64_t hash = connections->seed + (uint16_t)key->vlan;

	for (int n = 0; n < 4; n++)
		hash = mix(hash + key->ends[n]);
	return &connections->chains[mix(hash + ((uint32_t)key->ports[0] << 16 | key->ports[1])) % MOST];
}

/* --- the row, oldest first --- */

static void take_out(struct connections *connections, const struct place *place)
{
	uint32_t *after = place->older ? &place_at(connections, place->older)->newer : &connections->oldest;
	uint32_t *before = place->newer ? &place_at(connections, place->newer)->older : &connections->newest;

	*after = place->newer;
	*before = place->older;
}

static void put_last(struct connections *connections, uint32_t number)
{
	struct place *place = place_at(connections, number);

	place->older = connections->newest;
	place->newer = NOWHERE;
	*(place->older ? &place_at(connections, place->older)->newer : &connections->oldest) = number;
	connections->newest = number;
}

static void see(struct connections *connections, uint32_t number)
{
	if (connections->newest == number)
		return;
	take_out(connections, place_at(connections, number));
	put_last(connections, number);
}

/* --- places --- */

/* The place of the connection that was seen longest ago. */
static uint32_t make_room(struct connections *connections)
{
	uint32_t number = connections->oldest;
	struct place *place = place_at(connections, number);
	uint32_t *link = chain_of(connections, &place->key);

	while (*link != number)
		link = &place_at(connections, *link)->next;
	*link = place->next;
	take_out(connections, place);
	*place = (struct place){ 0 };
	return number;
}

static uint32_t add(struct connections *connections, const struct key *key)
{
	uint32_t number = connections->count < MOST ? ++connections->count : make_room(connections);
	uint32_t *chain = chain_of(connections, key);
	struct place *place = place_at(connections, number);

	place->key = *key;
	place->next = *chain;
	*chain = number;
	put_last(connections, number);
	return number;
}

static uint32_t find(const struct connections *connections, const struct key *key)
{
	uint32_t number = *chain_of(connections, key);

	while (number && memcmp(&place_at(connections, number)->key, key, sizeof(*key)))
		number = place_at(connections, number)->next;
	return number;
}

/* Gives which of the two directions the frame's is. */
static int make_key(const struct headers *headers, struct key *key)
{
	uint16_t from = headers->source_port == NONE ? 0 : (uint16_t)headers->source_port;
	uint16_t to = headers->destination_port == NONE ? 0 : (uint16_t)headers->destination_port;
	int order = memcmp(headers->source, headers->destination, headers->address_length);
	bool turned = order > 0 || (order == 0 && from > to);

	*key = (struct key){ .family = headers->family, .vlan = (int16_t)headers->vlan };
	memcpy(key->ends, turned ? headers->destination : headers->source, headers->address_length);
	memcpy(key->ends + 2, turned ? headers->source : headers->destination, headers->address_length);
	key->ports[0] = turned ? to : from;
	key->ports[1] = turned ? from : to;
	return turned;
}

/* What is known of the frame's direction; NULL: nothing. With `syn`, its first byte has this number. */
static struct direction *find_direction(struct connections *connections, const struct headers *headers, bool syn,
					uint32_t begins)
{
	struct key key;
	int turned = make_key(headers, &key);
	uint32_t number = find(connections, &key);

	if (!number) {
		if (!syn)
			return NULL;
		number = add(connections, &key);
	}
	see(connections, number);
	struct direction *direction = &place_at(connections, number)->directions[turned];
	if (syn && !(direction->known && direction->origin == begins))
		*direction = (struct direction){ .origin = begins, .next = begins, .known = true };
	return direction->known ? direction : NULL;
}

/* --- what is shown --- */

static void read_new(struct direction *direction, const uint8_t *data, uint32_t length)
{
	int64_t ago = read_stream(&direction->stream, data, length);

	direction->next += length;
	if (ago != NONE) {
		direction->ended = true;
		direction->end = direction->next - (uint32_t)ago;
	}
	if (direction->next - direction->origin > FAR)
		direction->origin = direction->next - FAR;
}

static struct shown show_ended(struct direction *direction, uint32_t start, uint32_t length)
{
	uint32_t before = direction->end - start;

	direction->past |= (int32_t)(start - direction->end) > FAR;
	if (direction->past || before > direction->end - direction->origin)
		return (struct shown){ 0, direction->lost };
	return (struct shown){ before >= length ? SHOW_ALL : before, false };
}

/* How much of these bytes is shown; the first one has the number `start`. */
static struct shown show(struct direction *direction, uint32_t start, const uint8_t *data, uint32_t length)
{
	if (!direction->ended) {
		int32_t ahead = (int32_t)(start - direction->next);

		if (ahead > FAR) {
			direction->ended = direction->past = direction->lost = true;
			direction->end = direction->next;
		}
		if (ahead > 0 || direction->next - start > direction->next - direction->origin)
			return (struct shown){ 0, true };
		uint32_t old = direction->next - start;
		if (old < length)
			read_new(direction, data + old, length - old);
	}
	return direction->ended ? show_ended(direction, start, length) : (struct shown){ SHOW_ALL, false };
}

/* Behind the last byte that IP says to carry, as far as it was captured. A super-frame's length is its own. */
static uint32_t payload_end(const struct frame *frame, const struct headers *headers)
{
	uint32_t at = headers->network, length = be16(frame->data + at + (headers->family == 4 ? 2 : 4));
	uint32_t end = at + length + (headers->family == 4 ? 0 : 40);

	return frame->vnet.gso_type || length == 0 || end > frame->captured ? frame->captured : end;
}

struct shown show_payload(struct connections *connections, const struct frame *frame, const struct headers *headers)
{
	uint32_t at = (uint32_t)headers->transport,
		 begins = (uint32_t)headers_end(headers, frame->data, frame->captured);

	if (headers->protocol != IPPROTO_TCP || headers->transport == NONE)
		return (struct shown){ 0, false };
	if (headers->fragment || frame->captured < at + TCP_HEADER || begins != at + (frame->data[at + 12] >> 4) * 4u)
		return (struct shown){ 0, true };
	bool syn = frame->data[at + TCP_FLAGS] & TCP_SYN;
	uint32_t end = payload_end(frame, headers), number = be32(frame->data + at + 4) + syn;
	struct direction *direction = find_direction(connections, headers, syn, number);

	if (end <= begins)
		return (struct shown){ SHOW_ALL, false };
	return direction ? show(direction, number, frame->data + begins, end - begins) : (struct shown){ 0, true };
}

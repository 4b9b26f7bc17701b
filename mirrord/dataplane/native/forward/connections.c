/* TCP connections that are followed from their SYNs on. See connections.py. */
#include <netinet/in.h>
#include <stdlib.h>

#include "bytes.h"
#include "forward/table.h"
#include "forward/tls.h"

enum {
	MOST = 65536, /* connections.py tells of these */
	FAR = 1 << 30,
	TCP_HEADER = 20,
	TCP_FLAGS = 13,
	TCP_SYN = 0x02,
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

struct connection {
	struct place place; /* its pair's kind: the outermost tag's id, or UINT16_MAX */
	struct direction directions[2];
};

_Static_assert(sizeof(struct connection) + sizeof(uint32_t) <= 128, "connections.py: MOST");

struct connections {
	struct table table;
};

struct connections *new_connections(void)
{
	struct connections *connections = calloc(1, sizeof(*connections));

	if (!connections || open_table(&connections->table, MOST, sizeof(struct connection)))
		return connections;
	free_connections(connections);
	return NULL;
}

void free_connections(struct connections *connections)
{
	if (!connections)
		return;
	close_table(&connections->table);
	free(connections);
}

static struct connection *begin(struct table *table, const struct pair *pair)
{
	if (table->count == table->most)
		forget_oldest(table);
	return (struct connection *)add_place(table, pair);
}

/* What is known of the frame's direction; NULL: nothing. With `syn`, its first byte has this number. */
static struct direction *find_direction(struct connections *connections, const struct headers *headers, bool syn,
					uint32_t begins)
{
	struct pair pair;
	bool turned = make_pair(&pair, headers, (uint16_t)headers->vlan);
	struct connection *connection = (struct connection *)find_place(&connections->table, &pair);

	if (connection)
		see_place(&connections->table, &connection->place);
	else if (syn)
		connection = begin(&connections->table, &pair);
	else
		return NULL;
	struct direction *direction = &connection->directions[turned];
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

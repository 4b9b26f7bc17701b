/* A batch of several parts: copies of several sessions that leave by one packet socket, in one system call. Those of the
 * same source ports share messages, too: for that, parts whose first copies have one lane come to stand together. */
#define _GNU_SOURCE
#include "transmit/rows.h"

#include <string.h>

#include "clock.h"

enum { PILES = 64 };

/* Where the copies of a part are in the row. */
struct section {
	struct transmit *transmit;
	uint32_t first, count;
};

/* What leaves by one packet socket, a message after the other. */
static bool is_simple(const struct exits *exits)
{
	const struct transmit *transmit = exits->transmits;

	return exits->count == 1 && !exits->all && transmit->packet >= 0 && transmit->lanes && !transmit->ring.memory;
}

bool may_go_on(const struct parts *parts, const struct exits *exits)
{
	const struct exits *before = parts->parts[0].exits;

	return parts->count < MOST_PARTS && is_simple(before) && is_simple(exits) &&
	       memcmp(before->transmits->alike, exits->transmits->alike, sizeof(exits->transmits->alike)) == 0;
}

static uint32_t end_of(const struct batch *batch, const struct parts *parts, uint32_t n)
{
	return n + 1 < parts->count ? parts->parts[n + 1].first : batch->count;
}

/* Parts of one session have one pile, so that they stay in order. */
static uint32_t pile_of(const struct batch *batch, const struct parts *parts, uint32_t n)
{
	struct exits *exits = parts->parts[n].exits;
	const struct transmit *transmit = exits->transmits;
	uint32_t first = parts->parts[n].first;

	if (exits->batch != parts->batch) {
		bool empty = first == end_of(batch, parts, n);
		uint32_t lane = empty ? 0 : lane_of(batch->messages[first].flow, transmit->lanes);

		exits->batch = parts->batch;
		exits->pile = (transmit->source_ports * MAX_SOCKETS / 2 + lane) % PILES;
	}
	return exits->pile;
}

/* The parts' numbers, by their piles; those of one pile as they came. */
static void sort(const struct batch *batch, const struct parts *parts, uint32_t *sorted)
{
	uint32_t starts[PILES + 1] = { 0 };
	uint8_t piles[MOST_PARTS];

	for (uint32_t n = 0; n < parts->count; n++) {
		piles[n] = (uint8_t)pile_of(batch, parts, n);
		starts[piles[n] + 1]++;
	}
	for (uint32_t n = 1; n < PILES; n++)
		starts[n] += starts[n - 1];
	for (uint32_t n = 0; n < parts->count; n++)
		sorted[starts[piles[n]]++] = n;
}

static void pick_all(struct batch *batch, const struct parts *parts, struct message **row, struct section *sections)
{
	uint32_t sorted[MOST_PARTS], at = 0;

	sort(batch, parts, sorted);
	for (uint32_t n = 0; n < parts->count; n++) {
		const struct part *part = &parts->parts[sorted[n]];
		struct transmit *transmit = part->exits->transmits;
		uint32_t count = pick(transmit, batch, part->first, end_of(batch, parts, sorted[n]), row + at);

		order(transmit, row + at, count);
		sections[n] = (struct section){ transmit, at, count };
		at += count;
	}
}

/* Whether a copy of one may be a segment behind the other's. */
static bool share_messages(const struct transmit *one, const struct transmit *other)
{
	return one->gso && other->gso && one->source_ports && one->source_ports == other->source_ports &&
	       memcmp(one->outer.header, other->outer.header, sizeof(one->outer.header)) == 0;
}

/* Gives the messages' number. */
static uint32_t build_all(struct message *const *row, const struct section *sections, uint32_t count)
{
	struct built built = nothing_built(sections->transmit->outgoing);

	for (uint32_t n = 0; n < count;) {
		struct transmit *transmit = sections[n].transmit;
		struct message *const *start = row + sections[n].first;
		uint32_t copies = sections[n++].count;

		while (n < count && share_messages(transmit, sections[n].transmit))
			copies += sections[n++].count;
		open_lanes(transmit, start, copies);
		build(transmit, &built, start, copies, 0);
	}
	return built.messages;
}

/* All parts' copies by the first one's socket. What that does not accept, each part sends by itself: it knows what to make of
 * the error. */
static void send_together(struct batch *batch, const struct parts *parts)
{
	const struct transmit *first = parts->parts->exits->transmits;
	struct message *row[BATCH];
	struct section sections[MOST_PARTS];

	pick_all(batch, parts, row, sections);
	struct outgoing *outgoing = first->outgoing;
	uint32_t messages = build_all(row, sections, parts->count), accepted = 0;
	int sent = messages ? sendmmsg(packet_of(first), outgoing->messages, messages, MSG_DONTWAIT) : 0;
	uint64_t now = wall_clock();

	for (int n = 0; n < sent; n++)
		accepted += outgoing->copies[n];
	for (uint32_t n = 0; n < parts->count; n++) {
		const struct section *section = &sections[n];
		uint32_t own = accepted < section->count ? accepted : section->count, left = section->count - own;

		accepted -= own;
		count_sent(section->transmit, row + section->first, own, now);
		if (left) {
			open_lanes(section->transmit, row + section->first + own, left);
			send_row(section->transmit, section->transmit->packet, row + section->first + own, left);
		}
	}
}

void send_parts(struct batch *batch, void *context)
{
	struct parts *parts = context;

	if (parts->count == 1)
		send_batch(batch, parts->parts[0].exits);
	else
		send_together(batch, parts);
	batch->count = 0;
	parts->parts[0] = (struct part){ parts->parts[parts->count - 1].exits, 0 };
	parts->count = 1;
	parts->batch++;
}

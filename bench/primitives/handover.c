// Moving between a plain socket and a ring under load without losing or doubling a frame.
//
// The new capture is opened while the old one still runs, so both see the frames in between. The kernel stamps a frame
// once for all who capture it (when SO_TIMESTAMPNS is on), so a stamp that the old capture has delivered marks the
// same frame in the new one. Order: open the new one, accept on it, reject on the old one, read the old one to its
// end and note its stamps, read the new one and leave out what has a noted stamp. Opening and closing take the kernel
// milliseconds, so another thread does both while this one goes on reading.
#define _GNU_SOURCE
#include "capturing.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define STREAMS 2
#define MOST_FRAMES (8u << 20) // of a stream
#define OVERLAP 1000000 // nanoseconds in which both see every frame: longer than needed, to have many
#define TABLE (1u << 18) // room for the stamps of one overlap; a power of two

struct reader {
	struct capture *capture;
	uint64_t read, captured, lost;
};

struct opening {
	const char *device;
	const struct capture_options *options;
	struct capture *old, *new; // one to close, one that was opened
	int64_t open_ns, close_ns;
	atomic_bool done;
};

static uint8_t seen[STREAMS][MOST_FRAMES];
static uint64_t last[STREAMS];
static int64_t noted[TABLE];
static unsigned notes;
static uint64_t forwarded, skipped, doubled, disordered;

static int64_t *place(int64_t stamp)
{
	uint32_t at = (uint32_t)((uint64_t)stamp * 0x9e3779b97f4a7c15u >> 40) & (TABLE - 1);
	while (noted[at] && noted[at] != stamp)
		at = (at + 1) & (TABLE - 1);
	return &noted[at];
}

static void note(int64_t stamp)
{
	if (++notes > TABLE / 2) {
		errno = ENOBUFS;
		die("the overlap is too long");
	}
	*place(stamp) = stamp;
}

static void forward(const struct frame *frame)
{
	uint32_t stream;
	uint64_t sequence;
	if (!read_number(frame, &stream, &sequence) || stream >= STREAMS || sequence >= MOST_FRAMES)
		return;
	doubled += seen[stream][sequence];
	disordered += sequence < last[stream];
	seen[stream][sequence] = 1;
	last[stream] = sequence;
	forwarded++;
}

// Forwards what the capture holds now, but what has a noted stamp; notes the stamps if asked.
static void drain(struct reader *reader, bool noting)
{
	const struct frame *frames;
	unsigned count;
	while ((count = capture_read(reader->capture, &frames)) > 0) {
		reader->read += count;
		for (unsigned i = 0; i < count; i++) {
			if (!noting && notes > 0 && *place(frames[i].stamp) != 0) {
				skipped++;
				continue;
			}
			if (noting)
				note(frames[i].stamp);
			forward(&frames[i]);
		}
	}
	capture_statistics(reader->capture, &reader->captured, &reader->lost);
}

// The last block of a ring is handed over only when its timer says so. The kernel's count tells when all is read.
static void drain_to_the_end(struct reader *reader)
{
	int64_t deadline = clock_ns(CLOCK_MONOTONIC) + SECOND;
	do {
		capture_wait(reader->capture, 1);
		drain(reader, true);
	} while (reader->read + reader->lost < reader->captured && clock_ns(CLOCK_MONOTONIC) < deadline);
}

static void *open_new(void *argument)
{
	struct opening *o = argument;
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	o->new = capture_open(o->device, o->options);
	o->open_ns += clock_ns(CLOCK_MONOTONIC) - start;
	o->done = true;
	return NULL;
}

static void *close_old(void *argument)
{
	struct opening *o = argument;
	int64_t start = clock_ns(CLOCK_MONOTONIC);
	capture_close(o->old);
	o->close_ns += clock_ns(CLOCK_MONOTONIC) - start;
	o->done = true;
	return NULL;
}

static void read_while(struct reader *reader, void *(*job)(void *), struct opening *opening)
{
	pthread_t thread;
	opening->done = false;
	if (pthread_create(&thread, NULL, job, opening) != 0)
		die("pthread_create");
	while (!opening->done) {
		capture_wait(reader->capture, 1);
		drain(reader, false);
	}
	pthread_join(thread, NULL);
}

static void hand_over(struct reader *reader, struct opening *opening, uint64_t *captured, uint64_t *lost)
{
	read_while(reader, open_new, opening);
	drain(reader, false);
	memset(noted, 0, sizeof(noted));
	notes = 0;
	capture_filter(opening->new, true); // from here both see every frame
	sleep_until(clock_ns(CLOCK_MONOTONIC) + OVERLAP);
	capture_filter(reader->capture, false);
	drain_to_the_end(reader);
	*captured += reader->captured;
	*lost += reader->lost;
	opening->old = reader->capture;
	*reader = (struct reader){ .capture = opening->new };
	read_while(reader, close_old, opening);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr,
			"usage: handover DEVICE [--moves N] [--every MS] [--tail MS] [--ring BYTES] [--cpu N]\n");
		return 2;
	}
	struct capture_options ways[2] = { capture_options(argv), capture_options(argv) };
	long moves = option(argv, "moves", 20), every = option(argv, "every", 100);
	ways[0].way = PLAIN_SOCKET;
	ways[1].way = RING_V3;
	pin((int)option(argv, "cpu", 1));
	memset(seen, 1, sizeof(seen)); // no page faults later
	memset(seen, 0, sizeof(seen));
	struct reader reader = { .capture = capture_open(argv[1], &ways[0]) };
	struct opening opening = { .device = argv[1] };
	uint64_t captured = 0, lost = 0;
	capture_filter(reader.capture, true);
	printf("ready\n");
	fflush(stdout);

	int64_t end = clock_ns(CLOCK_MONOTONIC);
	for (long i = 0; i <= moves; i++) {
		end += (i < moves ? every : option(argv, "tail", 500)) * 1000000;
		while (clock_ns(CLOCK_MONOTONIC) < end) {
			capture_wait(reader.capture, 10);
			drain(&reader, false);
		}
		opening.options = &ways[(i + 1) % 2];
		if (i < moves)
			hand_over(&reader, &opening, &captured, &lost);
	}
	captured += reader.captured;
	lost += reader.lost;
	capture_close(reader.capture);
	moves = moves ? moves : 1;
	printf("{\"forwarded\": %llu, \"doubled\": %llu, \"skipped\": %llu, \"disordered\": %llu, \"captured\": %llu, "
	       "\"lost\": %llu, \"open_ms\": %.1f, \"close_ms\": %.1f}\n",
	       (unsigned long long)forwarded, (unsigned long long)doubled, (unsigned long long)skipped,
	       (unsigned long long)disordered, (unsigned long long)captured, (unsigned long long)lost,
	       (double)opening.open_ns / 1e6 / (double)moves, (double)opening.close_ns / 1e6 / (double)moves);
	return 0;
}

// One way to capture: read every frame, look at its number, drop it. Prints frames, losses, CPU and how long the
// oldest frame of each run had waited.
#define _GNU_SOURCE
#include "capturing.h"

#include <stdio.h>
#include <stdlib.h>

#define SAMPLES 100000

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static int64_t waits[SAMPLES];

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: capture DEVICE [--way 0|1|2] [--ms N] [--pause US] [--spin 1] [--cpu N] ...\n");
		return 2;
	}
	struct capture_options options = capture_options(argv);
	long pause_us = option(argv, "pause", 0);
	bool spin = option(argv, "spin", 0); // poll() without ever sleeping
	pin((int)option(argv, "cpu", 1));
	struct capture *capture = capture_open(argv[1], &options);
	capture_filter(capture, true);
	printf("ready\n");
	fflush(stdout);

	uint64_t read = 0, gaps = 0, expected = 0, waited = 0, captured = 0, lost = 0;
	unsigned samples = 0;
	int64_t start = clock_ns(CLOCK_MONOTONIC), end = start + option(argv, "ms", 500) * 1000000, now = start;
	int64_t cpu = cpu_ns();
	bool fresh = true; // just woken: the next frame is the oldest that waited
	while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
		const struct frame *frames;
		unsigned count = capture_read(capture, &frames);
		if (count == 0) {
			if (pause_us)
				sleep_until(now + pause_us * 1000);
			else
				capture_wait(capture, spin ? 0 : (int)((end - now) / 1000000 + 1));
			waited++;
			fresh = true;
			continue;
		}
		if (fresh && samples < SAMPLES)
			waits[samples++] = clock_ns(CLOCK_REALTIME) - frames[0].stamp;
		fresh = false;
		for (unsigned i = 0; i < count; i++) {
			uint32_t stream;
			uint64_t sequence;
			if (!read_number(&frames[i], &stream, &sequence))
				continue;
			gaps += read > 0 && sequence > expected ? sequence - expected : 0;
			expected = sequence + 1;
			read++;
		}
	}
	cpu = cpu_ns() - cpu;
	capture_statistics(capture, &captured, &lost);
	capture_close(capture);
	qsort(waits, samples, sizeof(*waits), by_value);
	printf("{\"frames\": %llu, \"gaps\": %llu, \"captured\": %llu, \"lost\": %llu, \"waits\": %llu, \"cpu_ns\": %lld, "
	       "\"wall_ns\": %lld, \"wait_p50_us\": %.1f, \"wait_p99_us\": %.1f, \"wait_max_us\": %.1f}\n",
	       (unsigned long long)read, (unsigned long long)gaps, (unsigned long long)captured,
	       (unsigned long long)lost, (unsigned long long)waited, (long long)cpu, (long long)(now - start),
	       samples ? (double)waits[samples / 2] / 1000 : 0, samples ? (double)waits[samples * 99 / 100] / 1000 : 0,
	       samples ? (double)waits[samples - 1] / 1000 : 0);
	return 0;
}

// One way to send, alone: VXLAN copies of frames that are already in memory. Prints copies and CPU.
#define _GNU_SOURCE
#include "outgoing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FRAMES 256
#define LARGEST 1400

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: send DEVICE [--send 0..5] [--ms N] [--size N] [--batch N] [--cpu N] ...\n");
		return 2;
	}
	struct outgoing_options options = outgoing_options(argv);
	size_t size = (size_t)option(argv, "size", 64);
	size = size < 64 || size > LARGEST ? 64 : size;
	pin((int)option(argv, "cpu", 1));
	struct outgoing *outgoing = outgoing_open(argv[1], &options);

	static uint8_t bytes[FRAMES][LARGEST];
	struct frame frames[FRAMES];
	for (unsigned i = 0; i < FRAMES; i++) {
		write_headers(bytes[i], size - ETHERNET_IP_UDP, 1000, 2000);
		frames[i] = (struct frame){ bytes[i], (uint32_t)size, 0 };
	}
	uint64_t tried = 0, accepted = 0;
	int last_error = 0;
	int64_t start = clock_ns(CLOCK_MONOTONIC), end = start + option(argv, "ms", 300) * 1000000, now = start;
	int64_t cpu = cpu_ns();
	while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
		uint64_t taken = outgoing_send(outgoing, frames, FRAMES);
		if (taken < FRAMES)
			last_error = errno;
		accepted += taken;
		tried += FRAMES;
	}
	cpu = cpu_ns() - cpu;
	printf("{\"tried\": %llu, \"accepted\": %llu, \"cpu_ns\": %lld, \"wall_ns\": %lld, \"error\": \"%s\"}\n",
	       (unsigned long long)tried, (unsigned long long)accepted, (long long)cpu, (long long)(now - start),
	       last_error ? strerror(last_error) : "");
	return 0;
}

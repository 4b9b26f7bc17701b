// A whole mirror: a TPACKET_V3 ring and one way to send. Frames stay in the ring until the kernel has the copies.
#define _GNU_SOURCE
#include "capturing.h"
#include "outgoing.h"

#include <stdio.h>

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: mirror SOURCE SINK [--send 0..5] [--ms N] [--cpu N] ...\n");
		return 2;
	}
	struct capture_options from = capture_options(argv);
	struct outgoing_options to = outgoing_options(argv);
	pin((int)option(argv, "cpu", 1));
	struct outgoing *outgoing = outgoing_open(argv[2], &to);
	struct capture *capture = capture_open(argv[1], &from);
	capture_filter(capture, true);
	printf("ready\n");
	fflush(stdout);

	uint64_t read = 0, accepted = 0, captured = 0, lost = 0;
	int64_t start = clock_ns(CLOCK_MONOTONIC), end = start + option(argv, "ms", 500) * 1000000, now = start;
	int64_t cpu = cpu_ns();
	while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
		const struct frame *frames;
		unsigned count = capture_read(capture, &frames);
		if (count == 0)
			capture_wait(capture, (int)((end - now) / 1000000 + 1));
		else
			accepted += outgoing_send(outgoing, frames, count);
		read += count;
	}
	cpu = cpu_ns() - cpu;
	capture_statistics(capture, &captured, &lost);
	capture_close(capture);
	printf("{\"frames\": %llu, \"accepted\": %llu, \"captured\": %llu, \"lost\": %llu, \"cpu_ns\": %lld, "
	       "\"wall_ns\": %lld}\n",
	       (unsigned long long)read, (unsigned long long)accepted, (unsigned long long)captured,
	       (unsigned long long)lost, (long long)cpu, (long long)(now - start));
	return 0;
}

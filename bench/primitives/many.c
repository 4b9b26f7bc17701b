// Many sources, each with a little traffic: a socket for each of them, or one for all devices, whose program asks first
// which device a frame is of. Reads every frame, looks at its number, drops it. Prints frames, losses and CPU.
#define _GNU_SOURCE
#include "capturing.h"

#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>

#define MOST 1000

static struct capture *captures[MOST];

static unsigned index_of(const char *prefix, long number)
{
	char name[64];
	snprintf(name, sizeof(name), "%s%ld", prefix, number);
	unsigned index = if_nametoindex(name);
	if (!index)
		die(name);
	return index;
}

// One for each device, or one for all of them, whose indexes follow one another.
static long open_captures(const char *prefix, long devices, const struct capture_options *options, bool together)
{
	if (together) {
		captures[0] = capture_open(NULL, options);
		capture_filter_devices(captures[0], index_of(prefix, 0), index_of(prefix, devices - 1));
		return 1;
	}
	for (long n = 0; n < devices; n++) {
		char name[64];
		snprintf(name, sizeof(name), "%s%ld", prefix, n);
		captures[n] = capture_open(name, options);
		capture_filter(captures[n], true);
	}
	return devices;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr,
			"usage: many PREFIX [--devices N] [--together 1] [--way 0|1|2] [--ms N] [--pause US] [--cpu N] ...\n");
		return 2;
	}
	struct capture_options options = capture_options(argv);
	long devices = option(argv, "devices", 200), pause_us = option(argv, "pause", 1000);
	pin((int)option(argv, "cpu", 1));
	long count = open_captures(argv[1], devices > MOST ? MOST : devices, &options, option(argv, "together", 0));
	int epoll = epoll_create1(0);
	for (long n = 0; n < count; n++) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = captures[n] };
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, capture_descriptor(captures[n]), &event) < 0)
			die("epoll_ctl");
	}
	printf("ready\n");
	fflush(stdout);

	static struct epoll_event events[MOST];
	uint64_t read = 0, captured = 0, lost = 0, sum = 0;
	int64_t start = clock_ns(CLOCK_MONOTONIC), end = start + option(argv, "ms", 500) * 1000000, now = start;
	int64_t cpu = cpu_ns();
	while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
		int ready = epoll_wait(epoll, events, MOST, 5);
		for (int n = 0; n < ready; n++) {
			const struct frame *frames;
			unsigned got;
			while ((got = capture_read(events[n].data.ptr, &frames)) > 0) {
				for (unsigned i = 0; i < got; i++) {
					uint32_t stream;
					uint64_t sequence;
					if (read_number(&frames[i], &stream, &sequence))
						sum += sequence;
				}
				read += got;
				if (options.way == PLAIN_SOCKET && got < options.batch)
					break;
			}
		}
		sleep_until(now + pause_us * 1000);
	}
	cpu = cpu_ns() - cpu;
	for (long n = 0; n < count; n++)
		capture_statistics(captures[n], &captured, &lost);
	printf("{\"frames\": %llu, \"captured\": %llu, \"lost\": %llu, \"cpu_ns\": %lld, \"sum\": %llu}\n",
	       (unsigned long long)read, (unsigned long long)captured, (unsigned long long)lost, (long long)cpu,
	       (unsigned long long)sum);
	return 0;
}

#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0x6d697272u

struct number {
	uint32_t magic;
	uint32_t stream;
	uint64_t sequence;
};

void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

int64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

int64_t cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void sleep_until(int64_t monotonic_ns)
{
	struct timespec t = { .tv_sec = monotonic_ns / SECOND, .tv_nsec = monotonic_ns % SECOND };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("sched_setaffinity");
}

long option(char **argv, const char *name, long otherwise)
{
	for (; *argv; argv++)
		if (strncmp(*argv, "--", 2) == 0 && strcmp(*argv + 2, name) == 0 && argv[1])
			return atol(argv[1]);
	return otherwise;
}

static void put16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint16_t ip_checksum(const uint8_t *header)
{
	uint32_t sum = 0;
	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)(header[i] << 8 | header[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

void write_lengths(uint8_t *headers, size_t payload)
{
	uint8_t *ip = headers + 14;
	put16(ip + 2, payload + 28);
	put16(ip + 10, 0);
	put16(ip + 10, ip_checksum(ip));
	put16(ip + 24, payload + 8);
}

void write_headers(uint8_t *at, size_t payload, uint16_t source_port, uint16_t destination_port)
{
	static const uint8_t template[ETHERNET_IP_UDP] = {
		2,    0, 0, 0, 0, 2, 2,	   0, 0,  0,  0, 1, 8,	0, // Ethernet
		0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2, // IPv4, DF
	};
	memcpy(at, template, sizeof(template));
	put16(at + 34, source_port);
	put16(at + 36, destination_port);
	write_lengths(at, payload);
}

void number_frame(uint8_t *frame, uint32_t stream, uint64_t sequence)
{
	struct number number = { .magic = MAGIC, .stream = stream, .sequence = sequence };
	memcpy(frame + ETHERNET_IP_UDP, &number, sizeof(number));
}

bool read_number(const struct frame *frame, uint32_t *stream, uint64_t *sequence)
{
	struct number number;
	if (frame->length < ETHERNET_IP_UDP + sizeof(number))
		return false;
	memcpy(&number, frame->data + ETHERNET_IP_UDP, sizeof(number));
	*stream = number.stream;
	*sequence = number.sequence;
	return number.magic == MAGIC;
}

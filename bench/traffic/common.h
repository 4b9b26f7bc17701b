// What every program of the bench shares: clocks, options, and the numbered frame that the load consists of.
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define ETHERNET_IP_UDP 42 // bytes of the three headers
#define SECOND 1000000000LL

struct frame {
	const uint8_t *data;
	uint32_t length;
	int64_t stamp; // nanoseconds since 1970, from the kernel
};

_Noreturn void die(const char *what); // prints errno too

int64_t clock_ns(clockid_t clock);
int64_t cpu_ns(void); // CPU time of the calling thread, user and system, softirqs it ran included
void sleep_until(int64_t monotonic_ns);
void pin(int cpu);

// The value after "--name", or the given one.
long option(char **argv, const char *name, long otherwise);

// Headers of one IPv4 datagram whose payload has this many bytes. UDP checksum zero.
void write_headers(uint8_t *at, size_t payload, uint16_t source_port, uint16_t destination_port);
// Patches the three length-dependent fields of such headers.
void write_lengths(uint8_t *headers, size_t payload);

// A frame of the load carries a stream and a sequence number behind its headers.
void number_frame(uint8_t *frame, uint32_t stream, uint64_t sequence);
bool read_number(const struct frame *frame, uint32_t *stream, uint64_t *sequence);

#endif

// The mirrored traffic: numbered 64-byte frames out of a device by AF_PACKET sendmmsg, through the qdisc, so that
// egress taps see them; of one flow, or of many in turn. Prints what it sent, and what each frame cost the sending thread.
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64
#define LARGEST 1514
#define LAST_OF_DESTINATION 33 // offset of the IPv4 address's last byte
#define SOURCE_PORT 34 // its offset
#define MOST_DEVICES 1000

// "Simple IMIX", 7:4:1, evenly mixed.
static const size_t IMIX[] = { 64, 594, 64, 64, 594, 64, 1514, 64, 594, 64, 64, 594 };

static struct sockaddr_ll addresses[MOST_DEVICES];

static struct sockaddr_ll address_of(const char *device)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device) };
	if (address.sll_ifindex == 0)
		die(device);
	return address;
}

static void find_devices(const char *device, long count)
{
	if (count == 1)
		addresses[0] = address_of(device);
	for (long n = 0; count > 1 && n < count; n++) {
		char name[64];
		snprintf(name, sizeof(name), "%s%ld", device, n);
		addresses[n] = address_of(name);
	}
}

// When the frame after `sent` is due at this rate. A lone frame is moved at random by up to its period, so that no
// timer of the kernel can keep step with it.
static int64_t due(int64_t start, uint64_t sent, long rate)
{
	int64_t period = SECOND / rate;
	int64_t shift = rate < 10000 ? rand() % period : 0;
	return start + (int64_t)((__int128)sent * SECOND / rate) + shift;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr,
			"usage: load DEVICE [--ms N] [--rate N] [--size N | --imix 1] [--flows N] [--pairs N] [--devices N] "
			"[--stream N] [--cpu N]\n");
		return 2;
	}
	long rate = option(argv, "rate", 0);
	size_t size = (size_t)option(argv, "size", 64);
	uint32_t stream = (uint32_t)option(argv, "stream", 0);
	long flows = option(argv, "flows", 1);
	long pairs = option(argv, "pairs", 1); // of addresses; 256 at most
	bool imix = option(argv, "imix", 0);
	if (size < 64 || size > LARGEST)
		size = 64;
	unsigned batch = rate == 0 ? BATCH : rate < 100000 ? 1 : 16;
	pin((int)option(argv, "cpu", 0));
	long devices = option(argv, "devices", 1);
	if (devices < 1 || devices > MOST_DEVICES)
		devices = 1;
	find_devices(argv[1], devices);
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0)
		die("socket");

	static uint8_t frames[BATCH][LARGEST];
	struct iovec parts[BATCH];
	struct mmsghdr messages[BATCH] = { 0 };
	for (unsigned i = 0; i < BATCH; i++) {
		size_t length = imix ? IMIX[i % (sizeof(IMIX) / sizeof(*IMIX))] : size;
		write_headers(frames[i], length - ETHERNET_IP_UDP, 1000, 2000);
		parts[i] = (struct iovec){ frames[i], length };
		messages[i].msg_hdr =
			(struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1, .msg_namelen = sizeof(*addresses) };
	}

	uint64_t sent = 0, refused = 0;
	int64_t start = clock_ns(CLOCK_MONOTONIC), end = start + option(argv, "ms", 500) * 1000000, now = start;
	int64_t cpu = cpu_ns();
	while ((now = clock_ns(CLOCK_MONOTONIC)) < end) {
		if (rate)
			sleep_until(due(start, sent, rate));
		for (unsigned i = 0; i < batch; i++) {
			uint64_t port = 1000 + (sent + i) % (uint64_t)flows;
			frames[i][SOURCE_PORT] = (uint8_t)(port >> 8);
			frames[i][SOURCE_PORT + 1] = (uint8_t)port;
			if (pairs > 1)
				frames[i][LAST_OF_DESTINATION] = (uint8_t)((sent + i) % (uint64_t)pairs);
			number_frame(frames[i], stream, sent + i);
			messages[i].msg_hdr.msg_name = &addresses[(sent + i) % (uint64_t)devices];
		}
		int taken = sendmmsg(fd, messages, batch, 0);
		if (taken > 0)
			sent += (unsigned)taken;
		else if (errno == ENOBUFS)
			refused++;
		else
			die("sendmmsg");
	}
	cpu = cpu_ns() - cpu;
	printf("{\"frames\": %llu, \"refused\": %llu, \"wall_ns\": %lld, \"cpu_ns\": %lld}\n", (unsigned long long)sent,
	       (unsigned long long)refused, (long long)(now - start), (long long)cpu);
	return 0;
}

// Three ways to capture behind one interface, as the data plane will have it: open without a frame, accept, read runs
// of frames in place, close.
#ifndef CAPTURING_H
#define CAPTURING_H

#include "common.h"

#define RUN 256 // frames handed out at once

enum capture_way { RING_V3, RING_V2, PLAIN_SOCKET };

struct capture_options {
	enum capture_way way;
	unsigned ring_size; // bytes
	unsigned block_size; // bytes, V3 only
	unsigned retire_ms; // V3 only
	unsigned batch; // recvmmsg, plain socket only
	bool vnet; // a vnet header before each frame
	bool stamps; // ask the kernel to stamp a frame once, before any capture gets it
};

struct capture;

struct capture_options capture_options(char **argv); // from --way, --ring, --block, --retire, --batch, --vnet, --stamps
// Rejects every frame. Without a device, it is on all of them.
struct capture *capture_open(const char *device, const struct capture_options *options);
void capture_filter(struct capture *capture, bool accept);
void capture_filter_devices(struct capture *capture, unsigned first, unsigned last); // of these indexes only
int capture_descriptor(const struct capture *capture);
bool capture_wait(struct capture *capture, int timeout_ms); // poll; true when there is something to read
// The next run of frames, at most RUN; 0 when there are none now. They are given back at the next call.
unsigned capture_read(struct capture *capture, const struct frame **frames);
// Adds to both counters what the kernel counted since the last call. It counts lost frames as captured, too.
void capture_statistics(struct capture *capture, uint64_t *captured, uint64_t *lost);
void capture_close(struct capture *capture);

#endif

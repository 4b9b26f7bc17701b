/* A source that is captured, the pipelines that want its frames, and the memory that a worker has for a turn. */
#ifndef MIRRORD_TAP_H
#define MIRRORD_TAP_H

#include "capture/numbers.h"
#include "transmit/file.h"
#include "transmit/queue.h"
#include "transmit/transmit.h"

/* work.c: the working memory of a worker. Between two turns of a round copies may wait for those of other taps. */
struct work {
	struct batch *batch;
	struct outgoing *outgoing;
	struct parts *parts;
	uint8_t *buffers; /* that plain sockets' frames are read into; pages that none reached cost nothing */
	uint32_t buffered; /* how many of them hold frames of which copies may wait */
	struct staged *staged; /* frames that are to be given out, */
	uint32_t stage_count; /* and how many: none between two turns */
	uint64_t turn; /* a number that no other turn has */
};

/* False when there is no memory: then there is nothing to close. */
bool open_work(struct work *work);
void close_work(struct work *work);

/* pipeline.py: where the frames of a session go that it wants of a source. */
struct pipeline {
	uint64_t *counters;
	uint64_t since, until; /* what was captured before, or from then on, is not its; nanoseconds since 1970 */
	struct state *state; /* its own, or another's */
	struct exits *exits; /* its own, or those of another source of its session on the same thread */
	bool shares; /* its source: what it does not match is another's, and not counted */
	struct plan plan;
	struct file file; /* in place of exits, when it has an output */
	struct queued queued; /* the same, when it has queues */
	struct state own;
	struct exits own_exits;
};

/* Which of a device's members may want a frame. */
struct matcher {
	struct sock_filter *program; /* gives the number of a set of them */
	uint32_t length;
	uint32_t *sets; /* where each set begins in candidates, and behind the last one, where it ends */
	uint32_t set_count;
	uint32_t *candidates; /* a member's place, twice, and one where it wants the frame for certain */
};

/* A device, and who wants its frames: members that follow one another. */
struct stretch {
	int device; /* its index; 0: whatever the tap captures */
	uint32_t first, count;
	int matcher; /* or NONE: the one member there is asked */
};

/* That a member may want one of the frames at hand. */
struct share {
	uint32_t member;
	uint32_t next; /* of its outlet, or END */
	uint16_t frame;
	bool certain; /* it does */
};

/* Members that leave by one way, and their shares in the frames at hand, in order. */
struct outlet {
	uint32_t first, last; /* or END */
	uint64_t frames, octets; /* that it may have had since somebody asked */
};

/* What is captured together, and who wants its frames. */
struct tap {
	int descriptor;
	uint8_t *ring; /* or NULL: a plain socket */
	uint32_t block_size, block_count, block;
	const uint8_t *at; /* the next frame in the block, */
	uint32_t left; /* where the last turn ended before so many; or 0 */
	int error; /* the errno that a reading came upon, or 0: a socket tells it once */
	uint32_t most_waiting; /* blocks, whenever it was run since somebody asked */
	bool large; /* a plain socket's frames were, lately */
	enum tunnel tunnel; /* that a raw IP socket is the end of, or NO_TUNNEL */
	bool ip_header; /* its packets begin with one */
	bool directed; /* a frame's direction is what its packet tells */
	struct sender sender; /* that copies may leave by, which the tap does not hear then */
	struct numbers *numbers; /* that its packets have */
	uint16_t pvid; /* what has no tag there is of this VLAN, or 0 */
	bool raw; /* a device without Ethernet: its packets begin with a network header */
	uint64_t *seen;
	uint64_t told, told_at; /* how many frames had been read, when Python was last told of it, and the time */
	bool eager; /* a member acts by time: Python is told each time */
	struct pipeline **members;
	uint32_t count;
	struct stretch *stretches; /* by their devices, ascending */
	uint32_t stretch_count;
	struct matcher *matchers;
	uint32_t matcher_count;
	uint32_t *outlet_of; /* of each member, the place of its outlet */
	struct outlet *outlets;
	uint32_t outlet_count;
	bool split; /* members of one way are of several outlets */
	uint32_t *awaited; /* the places of those outlets that have shares, */
	uint32_t awaited_count; /* and how many */
	struct share *shares;
	uint32_t share_count, share_room;
};

enum { END = UINT32_MAX };
enum { STAGED = 256 }; /* frames given out at a time: what is known of them stays in the processor's cache */

/* Forward what has been captured: at most a few blocks, and for a few milliseconds. Tells whether there was more. Copies of
 * its last frames may wait for those of other taps, so that they leave together: until send_all(). */
bool run_tap(struct tap *tap, struct work *work);

/* capture/packet_socket.c */
bool run_socket_or_ring(struct tap *tap, struct work *work, uint64_t until);

/* capture/listener.c */
bool run_listener(struct tap *tap, struct work *work, uint64_t until);

/* members.c: what open_work() gives for frames that are to be given out; NULL when there is no memory. */
struct staged *new_staged(void);
/* Before the first frame of a turn. */
void begin_handing(struct tap *tap, struct work *work);
/* After the last one of a turn. */
void end_handing(struct tap *tap, struct work *work);
/* Copies that wait leave now: what their frames lie in is to be used again. */
void send_all(struct work *work);
/* A frame was read; its data stay until settle() or send_all(). */
void hand_over(struct tap *tap, struct work *work, const struct frame *frame);
/* All of the frames that were taken have to be sent now: what they lie in is to be used again. */
void settle(struct tap *tap, struct work *work);

#endif

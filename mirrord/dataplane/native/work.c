/* The memory that a worker's turns have: see tap.h. */
#define _GNU_SOURCE
#include "tap.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "capture/receive.h"

static const size_t BUFFERS = (size_t)SOCKET_BATCH * LARGEST_FRAME;

bool open_work(struct work *work)
{
	void *buffers = mmap(NULL, BUFFERS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	*work = (struct work){ .batch = malloc(sizeof(struct batch)),
			       .outgoing = new_outgoing(),
			       .parts = malloc(sizeof(struct parts)),
			       .staged = new_staged(),
			       .buffers = buffers == MAP_FAILED ? NULL : buffers };
	if (!work->batch || !work->outgoing || !work->parts || !work->staged || !work->buffers) {
		close_work(work);
		return false;
	}
	work->batch->count = 0;
	*work->parts = (struct parts){ .batch = 1 };
	return true;
}

void close_work(struct work *work)
{
	free(work->batch);
	free(work->outgoing);
	free(work->parts);
	free(work->staged);
	if (work->buffers)
		munmap(work->buffers, BUFFERS);
	*work = (struct work){ 0 };
}

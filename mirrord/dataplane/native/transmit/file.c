/* Copies into a file: a batch in one system call. When to begin another file, and what to do about a full disk, Python
 * decides.
 */
#define _GNU_SOURCE
#include "transmit/file.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "transmit/pcapng.h"

enum { MOST_VECTORS = 1024 }; /* in one call, UIO_MAXIOV */

static int64_t block_length(const struct message *message)
{
	return (int64_t)length_of(message) + message->trailer_length;
}

static uint32_t vectors_of(const struct message *message)
{
	return message->zeros ? 4 : 3;
}

/* One more frame is lost: step over its copies. Only the frame that the batch ends in may have copies yet to come. */
static uint32_t refuse(struct file *file, const struct batch *batch, uint32_t next)
{
	batch->messages[next].counters[DROPPED_WRITE_ERROR]++;
	while (next < batch->count && !batch->messages[next].last)
		next++;
	file->failed = next == batch->count;
	return next + !file->failed;
}

/* How many of the messages from `first` on the file may still take in one call. A file without a packet takes any. */
static uint32_t fitting(const struct output *output, const struct batch *batch, uint32_t first)
{
	int64_t written = output->written;
	uint32_t n = first, vectors = 0;

	for (; n < batch->count; n++) {
		int64_t length = block_length(&batch->messages[n]);

		vectors += vectors_of(&batch->messages[n]);
		if (vectors > MOST_VECTORS)
			break;
		if (output->limit && written > output->start && written + length > output->limit)
			break;
		written += length;
	}
	return n - first;
}

/* Write all of the vectors, which are used up, however often that is interrupted. What was written, and in *error why it
 * was no more, or 0: write(2), a short count is no failure yet.
 */
static int64_t write_all(int descriptor, struct iovec *vectors, int count, int64_t *error)
{
	int64_t written = 0;

	*error = 0;
	while (count > 0) {
		ssize_t done = writev(descriptor, vectors, count);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			*error = done < 0 ? errno : ENOSPC;
			break;
		}
		written += done;
		for (; count > 0 && (size_t)done >= vectors->iov_len; vectors++, count--)
			done -= (ssize_t)vectors->iov_len;
		if (count > 0) {
			vectors->iov_base = (char *)vectors->iov_base + done;
			vectors->iov_len -= (size_t)done;
		}
	}
	return written;
}

/* A write that stops in a block is cut back to the last whole one, so that a reader finds nothing but whole blocks. */
static uint32_t write_some(struct output *output, struct batch *batch, uint32_t first, uint32_t count)
{
	const struct message *messages = &batch->messages[first];
	struct iovec vectors[MOST_VECTORS], *vector = vectors;
	int64_t length = 0;
	uint32_t whole = 0;

	if (count == 0)
		return 0;
	for (uint32_t n = 0; n < count; n++) {
		const struct message *message = &messages[n];

		*vector++ = (struct iovec){ (void *)(uintptr_t)message->head, message->head_length };
		*vector++ = (struct iovec){ (void *)(uintptr_t)message->tail, message->tail_length };
		if (message->zeros)
			*vector++ = (struct iovec){ zero_bytes, message->zeros };
		*vector++ = (struct iovec){ room_of(batch, message)->trailer, message->trailer_length };
		length += block_length(message);
	}
	int64_t done = write_all((int)output->descriptor, vectors, (int)(vector - vectors), &output->error);
	for (int64_t left = done; whole < count && left >= block_length(&messages[whole]); whole++) {
		left -= block_length(&messages[whole]);
		output->written += block_length(&messages[whole]);
	}
	/* If this fails, as of a pipe, it ends in half a block: a reader says that it was cut short. */
	if (done < length) {
		int cut = ftruncate((int)output->descriptor, output->written);
		(void)cut;
	}
	return whole;
}

static void count_written(const struct message *messages, uint32_t count)
{
	uint64_t now = wall_clock();

	for (uint32_t n = 0; n < count; n++) {
		uint64_t *counters = messages[n].counters;

		counters[SENT_PACKETS]++;
		counters[SENT_BYTES] += length_of(&messages[n]) - PACKET_HEADER;
		if (messages[n].last) {
			counters[MIRRORED]++;
			observe_latency(counters, messages[n].time, now);
		}
	}
}

void write_batch(struct batch *batch, void *context)
{
	struct file *file = context;
	struct output *output = file->output;
	uint32_t next = 0;

	while (file->failed && next < batch->count)
		file->failed = !batch->messages[next++].last;
	while (next < batch->count) {
		uint32_t count = output->error ? 0 : fitting(output, batch, next);

		if (!output->error && count == 0) {
			file->next(file->context);
			continue;
		}
		uint32_t written = write_some(output, batch, next, count);
		count_written(&batch->messages[next], written);
		next += written;
		if (written < count || count == 0)
			next = refuse(file, batch, next);
	}
	batch->count = 0;
}

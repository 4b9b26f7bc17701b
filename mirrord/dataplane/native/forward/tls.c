/* Where application data begin in the bytes that one end of a TCP connection sends. */
#include "forward/tls.h"

#include <string.h>

#include "bytes.h"

enum {
	HANDSHAKE = 22,
	APPLICATION_DATA = 23,
	FIRST_TYPE = 20, /* tls.py tells of these */
	LAST_TYPE = 24,
	MAJOR = 3,
	LAST_MINOR = 4,
	MOST_HIGH = 0x48,
};

/* Whether these bytes, or so many of them as there are, may be a record's header. */
static bool may_be_header(const uint8_t *header, uint32_t length)
{
	return header[0] >= FIRST_TYPE && header[0] <= LAST_TYPE && (length < 2 || header[1] == MAJOR) &&
	       (length < 3 || header[2] <= LAST_MINOR) && (length < 4 || header[3] <= MOST_HIGH);
}

static bool is_hello(const uint8_t *at)
{
	return at[0] == HANDSHAKE && may_be_header(at, RECORD_HEADER) && be16(at + 3) >= 2 &&
	       (at[5] == 1 || at[5] == 2) && at[6] == 0;
}

static void begin_record(struct stream *stream, const uint8_t *header)
{
	stream->records = true;
	stream->plain = false;
	stream->begun_length = 0;
	stream->left = be16(header + 3);
}

/* Keep the last bytes of what was begun and of these. */
static void keep_last(struct stream *stream, const uint8_t *data, uint32_t length)
{
	uint32_t most = sizeof(stream->begun), before = stream->begun_length;

	if (length >= most) {
		memcpy(stream->begun, data + (length - most), most);
		stream->begun_length = (uint8_t)most;
		return;
	}
	uint32_t kept = before + length > most ? most - length : before;

	memmove(stream->begun, stream->begun + (before - kept), kept);
	memcpy(stream->begun + kept, data, length);
	stream->begun_length = (uint8_t)(kept + length);
}

/* How many of these bytes follow the header of a hello's record, which may have begun before; 0 where there is none yet. */
static uint32_t search(struct stream *stream, const uint8_t *data, uint32_t length)
{
	uint8_t border[2 * HELLO_LENGTH];
	uint32_t before = stream->begun_length, head = length < HELLO_LENGTH - 1 ? length : HELLO_LENGTH - 1;

	/* Those that begin in what was begun before. */
	memcpy(border, stream->begun, before);
	memcpy(border + before, data, head);
	for (uint32_t n = 0; n < before && n + HELLO_LENGTH <= before + head; n++)
		if (is_hello(border + n)) {
			uint32_t behind = before + length - n - RECORD_HEADER;

			begin_record(stream, border + n);
			if (behind <= length)
				return behind;
			stream->left = (uint16_t)(stream->left - (behind - length)); /* the first of it came before */
			return length;
		}
	for (uint32_t n = 0; n + HELLO_LENGTH <= length;) {
		const uint8_t *found = memchr(data + n, HANDSHAKE, length - n - (HELLO_LENGTH - 1));

		if (!found)
			break;
		if (is_hello(found)) {
			begin_record(stream, found);
			return (uint32_t)(data + length - found) - RECORD_HEADER;
		}
		n = (uint32_t)(found - data) + 1;
	}
	keep_last(stream, data, length);
	return 0;
}

/* A header's bytes, up to five, some of which may have come before. Gives how many of `length` were taken. */
static uint32_t take_header(struct stream *stream, const uint8_t *data, uint32_t length, uint8_t *header,
			    uint32_t *have)
{
	uint32_t before = stream->begun_length, more = RECORD_HEADER - before;

	if (more > length)
		more = length;
	memcpy(header, stream->begun, before);
	memcpy(header + before, data, more);
	*have = before + more;
	return more;
}

/* What did not begin with a record is searched, from its first byte on. */
static uint32_t begin_plain(struct stream *stream, const uint8_t *header, uint32_t have, uint32_t taken,
			    const uint8_t *data, uint32_t length)
{
	stream->plain = true;
	stream->begun_length = (uint8_t)(have - taken);
	memcpy(stream->begun, header, stream->begun_length);
	return search(stream, data - taken, length + taken);
}

int64_t read_stream(struct stream *stream, const uint8_t *data, uint32_t length)
{
	const uint8_t *end = data + length;

	while (data < end) {
		uint32_t rest = (uint32_t)(end - data), have;
		uint8_t header[RECORD_HEADER];

		if (stream->plain) {
			rest = search(stream, data, rest);
		} else if (stream->left) {
			uint32_t skipped = stream->left < rest ? stream->left : rest;

			stream->left = (uint16_t)(stream->left - skipped);
			rest -= skipped;
		} else {
			uint32_t taken = take_header(stream, data, rest, header, &have);
			bool sound = may_be_header(header, have), data_begin = header[0] == APPLICATION_DATA;

			data += taken;
			rest -= taken;
			if ((stream->records && (!sound || data_begin)) ||
			    (sound && data_begin && have == RECORD_HEADER))
				return (int64_t)have + rest;
			if (!sound) {
				rest = begin_plain(stream, header, have, taken, data, rest);
			} else if (have < RECORD_HEADER) {
				memcpy(stream->begun, header, have);
				stream->begun_length = (uint8_t)have;
			} else {
				begin_record(stream, header);
			}
		}
		data = end - rest;
	}
	return NONE;
}

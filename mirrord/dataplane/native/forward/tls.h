/* What of TCP may be shown where application data of TLS may not. */
#ifndef MIRRORD_TLS_H
#define MIRRORD_TLS_H

#include <stdbool.h>
#include <stdint.h>

#include "frame/frame.h"

enum { RECORD_HEADER = 5, HELLO_LENGTH = 7 };

/* What one end has sent so far: tls.py. All zeros at its beginning. */
struct stream {
	bool records; /* it is TLS */
	bool plain; /* it did not begin as such */
	uint16_t left; /* bytes of the record at hand */
	uint8_t begun_length;
	uint8_t begun[HELLO_LENGTH - 1]; /* the beginning of a header; of a plain stream, its last bytes */
};

/* forward/tls.c: how many bytes from the end the application data have begun, or NONE. */
int64_t read_stream(struct stream *stream, const uint8_t *data, uint32_t length);

#define SHOW_ALL UINT32_MAX

/* How much of a frame's payload is shown: bytes from its beginning, or SHOW_ALL. */
struct shown {
	uint32_t kept;
	bool unfollowed; /* its connection's beginning, or a part of it before this frame, was not seen */
};

/* forward/connections.c: made by new_connections; NULL: no memory. */
struct connections;
struct connections *new_connections(void);
void free_connections(struct connections *connections);
/* To be asked once for each frame, in the order of capture. */
struct shown show_payload(struct connections *connections, const struct frame *frame, const struct headers *headers);

#endif

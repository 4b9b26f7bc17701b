/* A copy as a packet block of a pcapng file. */
#ifndef MIRRORD_PCAPNG_H
#define MIRRORD_PCAPNG_H

#include <stdint.h>

struct facts;

enum { PACKET_HEADER = 28 }; /* bytes of a packet block before its packet */

void packet_header(const struct facts *facts, uint64_t time, uint8_t *header);
/* Gives the trailer's length. */
uint32_t packet_trailer(const struct facts *facts, uint8_t *trailer);

#endif

/* The Internet checksum, RFC 1071. */
#include "core.h"

#include <arpa/inet.h>

uint32_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return (uint32_t)sum;
}

/* The 16-bit one's complement sum, not complemented. Summed eight bytes at a time in the machine's own byte order, and
 * turned round at the end (RFC 1071 2). */
uint32_t ones_sum(const uint8_t *data, size_t length)
{
	uint64_t sum = 0, word;
	uint32_t half;

	for (; length >= 8; data += 8, length -= 8) {
		memcpy(&word, data, 8);
		sum += (word & 0xFFFFFFFF) + (word >> 32);
	}
	if (length >= 4) {
		memcpy(&half, data, 4);
		sum += half;
		data += 4;
		length -= 4;
	}
	if (length) {
		uint8_t rest[4] = { 0 };

		memcpy(rest, data, length);
		memcpy(&half, rest, 4);
		sum += half;
	}
	return ntohs((uint16_t)fold(sum));
}

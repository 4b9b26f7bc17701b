/* The Internet checksum, RFC 1071; and the CRC32c that SCTP has in its place, RFC 9260 appendix A. */
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

uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t length)
{
	/* Of each half of a byte: the reflected polynomial, 0x82F63B78. */
	static const uint32_t table[16] = {
		0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1,
		0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
		0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
		0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
	};

	while (length-- > 0) {
		crc ^= *data++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return crc;
}

/* The Internet checksum, RFC 1071; and the CRC32c that SCTP has in its place, RFC 9260 appendix A. */
#include "frame/frame.h"

#include <arpa/inet.h>
#include <string.h>

#include "inlining.h"

uint32_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return (uint32_t)sum;
}

/* Of `count` times eight bytes, in the machine's own byte order. */
USUAL uint64_t sum_words(const uint8_t *data, size_t count)
{
	uint64_t sum = 0, word;

	for (; count > 0; data += 8, count--) {
		memcpy(&word, data, 8);
		sum += (word & 0xFFFFFFFF) + (word >> 32);
	}
	return sum;
}

enum { MANY_WORDS = 32 };

/* Wider registers, which nearly every x86-64 processor has but the compiler may not take for granted. */
#ifdef __x86_64__
#define WIDE __attribute__((target("avx2")))
#define HAS_WIDE __builtin_cpu_supports("avx2")
#else
#define WIDE
#define HAS_WIDE false
#endif

WIDE static uint64_t sum_many_words(const uint8_t *data, size_t count)
{
	return sum_words(data, count);
}

/* The 16-bit one's complement sum, not complemented. It may be summed in any byte order, and turned round at the end
 * (RFC 1071 2). */
uint32_t ones_sum(const uint8_t *data, size_t length)
{
	size_t words = length / 8;
	uint64_t sum = words >= MANY_WORDS && HAS_WIDE ? sum_many_words(data, words) : sum_words(data, words);
	uint32_t half;

	data += words * 8;
	length %= 8;
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
		0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3, 0x61C69362, 0x7198540D,
		0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9, 0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75,
	};

	while (length-- > 0) {
		crc ^= *data++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return crc;
}

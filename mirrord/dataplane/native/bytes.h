/* Numbers in network order (be), or little-endian (le), wherever they lie. Names say be_ of what is not in host order. */
#ifndef MIRRORD_BYTES_H
#define MIRRORD_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t be16(const uint8_t *at)
{
	uint16_t number;

	memcpy(&number, at, sizeof(number));
	return be16toh(number);
}

static inline uint32_t be32(const uint8_t *at)
{
	uint32_t number;

	memcpy(&number, at, sizeof(number));
	return be32toh(number);
}

static inline uint64_t be64(const uint8_t *at)
{
	uint64_t number;

	memcpy(&number, at, sizeof(number));
	return be64toh(number);
}

static inline void put_be16(uint8_t *at, uint32_t number)
{
	uint16_t be_number = htobe16((uint16_t)number);

	memcpy(at, &be_number, sizeof(be_number));
}

static inline void put_be32(uint8_t *at, uint32_t number)
{
	uint32_t be_number = htobe32(number);

	memcpy(at, &be_number, sizeof(be_number));
}

static inline uint32_t le32(const uint8_t *at)
{
	uint32_t number;

	memcpy(&number, at, sizeof(number));
	return le32toh(number);
}

static inline void put_le32(uint8_t *at, uint32_t number)
{
	uint32_t le_number = htole32(number);

	memcpy(at, &le_number, sizeof(le_number));
}

#endif

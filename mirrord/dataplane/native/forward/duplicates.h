/* One copy of a packet that passes several of a mirror's sources. See duplicates.py. */
#ifndef MIRRORD_DUPLICATES_H
#define MIRRORD_DUPLICATES_H

#include <stdbool.h>
#include <stdint.h>

struct duplicates;
struct duplicates *new_duplicates(void); /* NULL: no memory */
void free_duplicates(struct duplicates *duplicates);

/* What is looked for: by whom, when, and within which time before and after, in nanoseconds. */
struct sighting {
	uint32_t place;
	uint64_t time, window;
	uint64_t cut; /* bytes that the capture left out */
};

/* Whether the packet that is made of head and tail is a duplicate; else it is remembered. */
bool is_duplicate(struct duplicates *duplicates, const struct sighting *sighting, const uint8_t *head,
		  uint32_t head_length, const uint8_t *tail, uint32_t tail_length);

#endif

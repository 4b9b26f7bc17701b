/* Copies out by a packet socket's TX ring: the kernel takes them from memory that both sides see, all of a batch in one
 * system call. See tx_ring.py. Kernel: Documentation/networking/packet_mmap.rst, net/packet/af_packet.c (tpacket_snd).
 */
#define _GNU_SOURCE
#include "transmit/transmit.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

enum {
	DATA = TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), /* where the kernel looks for the packet in a slot */
};

static struct tpacket2_hdr *slot(const struct tx_ring *ring, uint32_t n)
{
	uint32_t place = ring->next + n; /* both below their number; a division would cost what a copy does */

	return (void *)(ring->memory + (size_t)(place < ring->slots ? place : place - ring->slots) * ring->slot_size);
}

static uint32_t status(const struct tx_ring *ring, uint32_t n)
{
	return __atomic_load_n(&slot(ring, n)->tp_status, __ATOMIC_ACQUIRE);
}

static void set_status(const struct tx_ring *ring, uint32_t n, uint32_t status)
{
	__atomic_store_n(&slot(ring, n)->tp_status, status, __ATOMIC_RELEASE);
}

bool fits_slot(const struct tx_ring *ring, const struct message *message)
{
	return DATA + sizeof(struct outer_head) + length_of(message) <= ring->slot_size;
}

static void fill_slot(struct transmit *transmit, uint32_t n, const struct message *message)
{
	struct tpacket2_hdr *header = slot(&transmit->ring, n);
	uint8_t *start = (uint8_t *)header + DATA, *at = start;

	if (transmit->outer.length) {
		uint32_t length = length_of(message);

		write_outer(&transmit->outer, (void *)at, transmit->ports[message->lane], length, length, 1);
		at += sizeof(struct vnet) + transmit->outer.length;
	}
	at = gather(message, at);
	header->tp_len = (uint32_t)(at - start);
	set_status(&transmit->ring, n, TP_STATUS_SEND_REQUEST);
}

/* Put as many copies into the ring as there is room for. */
static uint32_t fill_ring(struct transmit *transmit, struct message *const *row, uint32_t count)
{
	struct tx_ring *ring = &transmit->ring;
	uint32_t filled = 0;

	while (filled < count && filled < ring->slots && status(ring, filled) == TP_STATUS_AVAILABLE &&
	       fits_slot(ring, row[filled])) {
		fill_slot(transmit, filled, row[filled]);
		filled++;
	}
	return filled;
}

/* How many copies the kernel took. It stops at one that it refuses, and begins there the next time: the rest is taken
 * back, to be given again or not. */
static uint32_t take_back(struct tx_ring *ring, uint32_t filled)
{
	uint32_t taken = 0;

	while (taken < filled && !(status(ring, taken) & (TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT)))
		taken++;
	for (uint32_t n = taken; n < filled; n++)
		set_status(ring, n, TP_STATUS_AVAILABLE);
	ring->next = (ring->next + taken) % ring->slots;
	return taken;
}

int send_by_ring(struct transmit *transmit, struct message *const *row, uint32_t count)
{
	struct tx_ring *ring = &transmit->ring;
	uint32_t filled = fill_ring(transmit, row, count);

	if (!filled && wait_for_room(transmit, ring->descriptor))
		filled = fill_ring(transmit, row, count);
	if (!filled)
		return -EAGAIN;
	int error = send(ring->descriptor, NULL, 0, MSG_DONTWAIT) < 0 ? errno : EIO;
	uint32_t taken = take_back(ring, filled);

	return taken ? (int)taken : -error;
}

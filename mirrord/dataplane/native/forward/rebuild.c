/* A frame as the wire carried it, its tags put on and taken off as planned. See frame/wire.py. */
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "bytes.h"
#include "forward/copies.h"

/* Where checksums are in their headers. No other protocol has one where SCTP's is, so it tells SCTP in tunnels too. */
enum { TCP_CHECKSUM = 16, UDP_CHECKSUM = 6, SCTP_CHECKSUM = 8 };

static bool is_tag(const uint8_t *at)
{
	return is_tpid(be16(at));
}

uint32_t retag(const struct plan *plan, uint8_t *head, uint32_t length)
{
	uint8_t *at = head + ETH_ADDRESSES;

	if (plan->strip_tag && length >= ETH_ADDRESSES + TAG && is_tag(at)) {
		length -= TAG;
		memmove(at, at + TAG, length - ETH_ADDRESSES);
	}
	if (plan->tpid && length >= ETH_HEADER && is_tag(at))
		put_be16(at, plan->tpid);
	if (plan->push_tag) {
		memmove(at + TAG, at, length - ETH_ADDRESSES);
		put_be16(at, ETH_P_8021Q);
		put_be16(at + 2, plan->push_tag);
		length += TAG;
	}
	if (plan->strip_ethernet) {
		uint32_t off = length < ETH_HEADER ? length : ETH_HEADER;

		length -= off;
		memmove(head, head + off, length);
	}
	return length;
}

/* Of the TCP or UDP segment that begins at `start`, from 1 to 0xFFFF; 0 where the headers do not lead there. */
static uint32_t pseudo_of(const uint8_t *head, uint32_t start, uint32_t offset)
{
	struct layer layers[MAX_LAYERS];
	enum kind kind = offset == TCP_CHECKSUM ? TCP : UDP;
	uint32_t count = offset == TCP_CHECKSUM || offset == UDP_CHECKSUM ? find_layers(layers, head, start, kind) : 0;

	if (count == 0)
		return 0;
	const struct layer *network = &layers[count - 2];
	const uint8_t *ip = head + network->at;
	uint32_t end = network->at + (network->kind == IPV4 ? be16(ip + 2) : 40u + be16(ip + 4));
	return pseudo_header_sum(head, network, kind, end > start ? end - start : 0);
}

/* The checksum of all that begins at `start` into its field, which the head holds. The device may have been quicker: then
 * the field has zeros for a while, and after that what belongs there. */
static void complete_checksum(struct piece *piece, uint32_t start, uint32_t field)
{
	const uint8_t *covered = piece->head + start;
	uint32_t length = piece->head_length - start;

	if (field - start == SCTP_CHECKSUM) {
		memset(piece->head + field, 0, 4);
		uint32_t crc = ~crc32c(crc32c(~UINT32_C(0), covered, length), piece->tail, piece->tail_length);
		for (uint32_t n = 0; n < 4; n++)
			piece->head[field + n] = (uint8_t)(crc >> 8 * n);
		return;
	}
	uint32_t tail_sum = ones_sum(piece->tail, piece->tail_length);
	if (length & 1) /* the tail begins in the middle of a word */
		tail_sum = (tail_sum >> 8) | (tail_sum & 0xFF) << 8;
	uint32_t pseudo = pseudo_of(piece->head, start, field - start);
	bool blank = be16(piece->head + field) == 0;
	uint16_t complement = (uint16_t)~fold((uint64_t)tail_sum + ones_sum(covered, length) + (blank ? pseudo : 0));
	uint16_t value = complement ? complement : 0xFFFF;
	if (value != pseudo || blank)
		put_be16(piece->head + field, value);
}

bool rewrite(const struct plan *plan, struct piece *piece, const struct frame *frame)
{
	bool unfinished = frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;

	if (!frame->tagged && !unfinished && !plan->strip_tag && !plan->push_tag && !plan->tpid &&
	    plan->strip_ethernet) {
		piece->tail += ETH_HEADER;
		piece->tail_length -= ETH_HEADER;
		return true;
	}
	uint32_t shift = frame->tagged ? TAG : 0, length = frame->captured + shift;
	uint32_t start = frame->vnet.csum_start + shift, field = start + frame->vnet.csum_offset;
	uint32_t width = frame->vnet.csum_offset == SCTP_CHECKSUM ? 4 : 2;

	piece->head_length = unfinished ? field + width : shift ? ETH_ADDRESSES + TAG : frame->lent ? ETH_HEADER : 0;
	if (piece->head_length > length || piece->head_length > MAX_HEADERS)
		return false;
	/* What is rewritten holds the ethertype, also when a tag has been taken off in front of it. */
	if ((unfinished || plan->retags) && piece->head_length < ETH_HEADER + TAG)
		piece->head_length = length < ETH_HEADER + TAG ? length : ETH_HEADER + TAG;
	if (shift) {
		memcpy(piece->head, frame->data, ETH_ADDRESSES);
		put_be16(piece->head + ETH_ADDRESSES, frame->tpid);
		put_be16(piece->head + ETH_ADDRESSES + 2, frame->tci);
		memcpy(piece->head + ETH_ADDRESSES + TAG, frame->data + ETH_ADDRESSES,
		       piece->head_length - ETH_ADDRESSES - TAG);
	} else {
		memcpy(piece->head, frame->data, piece->head_length);
	}
	piece->tail = frame->data + (piece->head_length - shift);
	piece->tail_length = length - piece->head_length;
	if (unfinished)
		complete_checksum(piece, start, field);
	if (plan->retags)
		piece->head_length = retag(plan, piece->head, piece->head_length);
	return true;
}

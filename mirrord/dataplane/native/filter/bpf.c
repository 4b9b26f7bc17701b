/* Classic BPF in userspace: Documentation/networking/filter.rst, less what mirrord's filters do not use. */
#include "filter/bpf.h"

#include <linux/if_packet.h>

#define AD(field) ((uint32_t)(SKF_AD_OFF + (field)))

static bool is_beside(uint32_t k)
{
	switch (k) {
	case AD(SKF_AD_PKTTYPE):
	case AD(SKF_AD_MARK):
	case AD(SKF_AD_VLAN_TAG):
	case AD(SKF_AD_VLAN_TAG_PRESENT):
	case AD(SKF_AD_VLAN_TPID):
		return true;
	default:
		return false;
	}
}

static uint32_t beside(const struct bpf_frame *frame, uint32_t k)
{
	switch (k) {
	case AD(SKF_AD_PKTTYPE):
		return frame->egress ? PACKET_OUTGOING : PACKET_HOST;
	case AD(SKF_AD_MARK):
		return frame->mark;
	case AD(SKF_AD_VLAN_TAG):
		return frame->tagged ? frame->tci : 0;
	case AD(SKF_AD_VLAN_TAG_PRESENT):
		return frame->tagged;
	default:
		return frame->tagged ? frame->tpid : 0;
	}
}

/* Load size bytes at an offset, big-endian; false when they are not all there. */
static bool load(const struct bpf_frame *frame, uint64_t offset, uint32_t size, uint32_t *value)
{
	uint32_t result = 0;

	if (offset + size > frame->length)
		return false;
	for (uint32_t n = 0; n < size; n++)
		result = result << 8 | frame->data[offset + n];
	*value = result;
	return true;
}

bool may_run(const struct sock_filter *program, size_t length)
{
	if (length == 0 || BPF_CLASS(program[length - 1].code) != BPF_RET)
		return false;
	for (size_t at = 0; at < length; at++) {
		const struct sock_filter *now = &program[at];
		size_t left = length - at - 1; /* instructions behind this one */

		switch (now->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (now->k > INT32_MAX && !is_beside(now->k))
				return false;
			break;
		case BPF_LD | BPF_H | BPF_ABS:
		case BPF_LD | BPF_B | BPF_ABS:
		case BPF_LD | BPF_W | BPF_IND:
		case BPF_LD | BPF_H | BPF_IND:
		case BPF_LD | BPF_B | BPF_IND:
			if (now->k > INT32_MAX)
				return false;
			break;
		case BPF_LD | BPF_MEM:
		case BPF_LDX | BPF_MEM:
		case BPF_ST:
		case BPF_STX:
			if (now->k >= BPF_MEMWORDS)
				return false;
			break;
		case BPF_ALU | BPF_LSH | BPF_K:
			if (now->k > 31)
				return false;
			break;
		case BPF_JMP | BPF_JA:
			if (now->k >= left)
				return false;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
		case BPF_JMP | BPF_JGT | BPF_K:
		case BPF_JMP | BPF_JGE | BPF_K:
		case BPF_JMP | BPF_JGE | BPF_X:
		case BPF_JMP | BPF_JSET | BPF_K:
			if (now->jt >= left || now->jf >= left)
				return false;
			break;
		case BPF_LD | BPF_W | BPF_LEN:
		case BPF_LD | BPF_IMM:
		case BPF_LDX | BPF_IMM:
		case BPF_ALU | BPF_ADD | BPF_K:
		case BPF_ALU | BPF_ADD | BPF_X:
		case BPF_ALU | BPF_SUB | BPF_K:
		case BPF_ALU | BPF_SUB | BPF_X:
		case BPF_ALU | BPF_AND | BPF_K:
		case BPF_RET | BPF_K:
		case BPF_RET | BPF_A:
		case BPF_MISC | BPF_TAX:
			break;
		default:
			return false;
		}
	}
	return true;
}

uint32_t run_program(const struct sock_filter *program, size_t length, const struct bpf_frame *frame)
{
	uint32_t a = 0, x = 0, cells[BPF_MEMWORDS] = { 0 };

	for (size_t at = 0; at < length; at++) {
		const struct sock_filter *now = &program[at];
		const uint32_t k = now->k;

		switch (now->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			if (k > INT32_MAX)
				a = beside(frame, k);
			else if (!load(frame, k, 4, &a))
				return 0;
			break;
		case BPF_LD | BPF_H | BPF_ABS:
			if (!load(frame, k, 2, &a))
				return 0;
			break;
		case BPF_LD | BPF_B | BPF_ABS:
			if (!load(frame, k, 1, &a))
				return 0;
			break;
		case BPF_LD | BPF_W | BPF_IND:
			if (!load(frame, (uint64_t)x + k, 4, &a))
				return 0;
			break;
		case BPF_LD | BPF_H | BPF_IND:
			if (!load(frame, (uint64_t)x + k, 2, &a))
				return 0;
			break;
		case BPF_LD | BPF_B | BPF_IND:
			if (!load(frame, (uint64_t)x + k, 1, &a))
				return 0;
			break;
		case BPF_LD | BPF_W | BPF_LEN:
			a = frame->length;
			break;
		case BPF_LD | BPF_IMM:
			a = k;
			break;
		case BPF_LD | BPF_MEM:
			a = cells[k];
			break;
		case BPF_LDX | BPF_IMM:
			x = k;
			break;
		case BPF_LDX | BPF_MEM:
			x = cells[k];
			break;
		case BPF_ST:
			cells[k] = a;
			break;
		case BPF_STX:
			cells[k] = x;
			break;
		case BPF_MISC | BPF_TAX:
			x = a;
			break;
		case BPF_ALU | BPF_ADD | BPF_K:
			a += k;
			break;
		case BPF_ALU | BPF_ADD | BPF_X:
			a += x;
			break;
		case BPF_ALU | BPF_SUB | BPF_K:
			a -= k;
			break;
		case BPF_ALU | BPF_SUB | BPF_X:
			a -= x;
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= k;
			break;
		case BPF_ALU | BPF_LSH | BPF_K:
			a <<= k;
			break;
		case BPF_JMP | BPF_JA:
			at += k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			at += a == k ? now->jt : now->jf;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			at += a > k ? now->jt : now->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			at += a >= k ? now->jt : now->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_X:
			at += a >= x ? now->jt : now->jf;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			at += a & k ? now->jt : now->jf;
			break;
		case BPF_RET | BPF_K:
			return k;
		case BPF_RET | BPF_A:
			return a;
		}
	}
	return 0;
}

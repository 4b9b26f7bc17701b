/* Classic BPF run in userspace, as tests/support/interpreter.py runs it. */
#ifndef MIRRORD_BPF_H
#define MIRRORD_BPF_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a program can ask of a frame: its captured bytes, and what the kernel keeps beside them. */
struct bpf_frame {
	const uint8_t *data;
	uint32_t length; /* of data */
	uint32_t mark;
	bool egress; /* as the host sees it */
	bool tagged; /* the kernel took a VLAN tag off; tci and tpid are its, in host byte order */
	uint16_t tci;
	uint16_t tpid;
};

/* Check a program once, before it is run: every instruction is one that runs here, every cell exists, every jump lands
 * inside, and the end is not run past. False for a program that must not be run. */
bool may_run(const struct sock_filter *program, size_t length);

/* Run a checked program on a frame. Gives what it returns; 0 for one that loads past the frame's end. */
uint32_t run_program(const struct sock_filter *program, size_t length, const struct bpf_frame *frame);

#endif

/* Runs programs on frames, for test_bpf.py. One request on standard input, one answer of two words on standard output:
 * what may_run, turned round, and run_program gave. Every buffer is exactly as long as it should be, for ASan to see. */
#include "filter/bpf.h"

#include <stdio.h>
#include <stdlib.h>

struct request {
	uint32_t instructions, length, mark, egress, tagged, tci, tpid;
};

static void *receive(size_t size)
{
	void *bytes = malloc(size);

	if (bytes == NULL || fread(bytes, 1, size, stdin) != size)
		exit(1);
	return bytes;
}

int main(void)
{
	struct request request;

	while (fread(&request, sizeof request, 1, stdin) == 1) {
		struct sock_filter *program = receive(request.instructions * sizeof *program);
		uint8_t *data = receive(request.length);
		struct bpf_frame frame = {
			.data = data,
			.length = request.length,
			.mark = request.mark,
			.egress = request.egress,
			.tagged = request.tagged,
			.tci = (uint16_t)request.tci,
			.tpid = (uint16_t)request.tpid,
		};
		uint32_t answer[2] = { !may_run(program, request.instructions), 0 };

		if (answer[0] == 0)
			answer[1] = run_program(program, request.instructions, &frame);
		if (fwrite(answer, sizeof answer, 1, stdout) != 1 || fflush(stdout) != 0)
			return 1;
		free(data);
		free(program);
	}
	return 0;
}

/* A batch of messages taken from a socket, and what the kernel says beside them. */
#define _GNU_SOURCE
#include "capture/receive.h"

#include <errno.h>
#include <string.h>
#include <time.h>

void read_control(struct frame *frame, struct msghdr *message)
{
	for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		if (control->cmsg_level == SOL_PACKET && control->cmsg_type == PACKET_AUXDATA) {
			struct tpacket_auxdata data;

			memcpy(&data, CMSG_DATA(control), sizeof(data));
			frame->length = data.tp_len;
			set_tag(frame, data.tp_status, data.tp_vlan_tpid, data.tp_vlan_tci);
		} else if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_TIMESTAMPNS) {
			struct timespec stamp;

			memcpy(&stamp, CMSG_DATA(control), sizeof(stamp));
			frame->time = (uint64_t)stamp.tv_sec * 1000000000u + (uint64_t)stamp.tv_nsec;
		}
	}
}

int receive(struct tap *tap, struct work *work, struct received *received, int most)
{
	if (work->buffered + (uint32_t)most > SOCKET_BATCH)
		send_all(work);
	uint8_t *buffers = work->buffers + (size_t)work->buffered * LARGEST_FRAME;

	for (int n = 0; n < most; n++) {
		received->vectors[n] =
			(struct iovec){ buffers + (size_t)n * LARGEST_FRAME + HEADROOM, LARGEST_FRAME - HEADROOM };
		received->messages[n].msg_hdr = (struct msghdr){
			.msg_name = &received->addresses[n],
			.msg_namelen = sizeof(received->addresses[n]),
			.msg_iov = &received->vectors[n],
			.msg_iovlen = 1,
			.msg_control = received->controls[n],
			.msg_controllen = sizeof(received->controls[n]),
		};
	}
	int count = recvmmsg(tap->descriptor, received->messages, (unsigned int)most, MSG_DONTWAIT, NULL);

	if (count < 0 && errno != EAGAIN)
		tap->error = errno;
	work->buffered += count < 0 ? 0 : (uint32_t)count;
	return count < 0 ? 0 : count;
}

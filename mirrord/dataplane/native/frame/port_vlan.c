/* Frames of a bridge that filters VLANs: what has no tag is of its port's VLAN. See port_vlan.py. */
#include "frame/frame.h"

#include <linux/if_ether.h>

#include "bytes.h"

enum { VLAN_ID = 0xFFF };

void classify(struct frame *frame, uint16_t pvid)
{
	if (frame->tagged) {
		if (!(frame->tci & VLAN_ID))
			frame->tci |= pvid;
		return;
	}
	if (frame->captured >= ETH_HEADER + TAG && is_tpid(be16(frame->data + ETH_ADDRESSES)))
		return;
	frame->tagged = true;
	frame->tpid = ETH_P_8021Q;
	frame->tci = pvid;
}

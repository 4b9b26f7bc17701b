"""Classic BPF in Python: what the native core and the kernel are compared with.

The meaning is the kernel's (Documentation/networking/filter.rst): 32-bit arithmetic, big-endian loads, and a load past
the end ends the program with 0. native/filter/bpf.c is the same at full speed.
"""

from __future__ import annotations

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.assembler import CELLS, WORD, Program
from mirrord.dataplane.frame.headers import Tag
from mirrord.kernel import PACKET_OUTGOING

_SIZES = {op.LD_W_ABS: 4, op.LD_H_ABS: 2, op.LD_B_ABS: 1, op.LD_W_IND: 4, op.LD_H_IND: 2, op.LD_B_IND: 1}
_INDIRECT = (op.LD_W_IND, op.LD_H_IND, op.LD_B_IND)


def interpret(
    program: Program, data: bytes, tag: Tag | None = None, *, egress: bool = False, mark: int = 0, device: int = 0
) -> int:
    """Run a program on a frame and the metadata beside it; gives what it returns, 0 to 2^32-1.

    ValueError for an instruction that no filter has, IndexError for a program that runs out.
    """
    beside = {
        op.PKTTYPE: PACKET_OUTGOING if egress else 0,
        op.IFINDEX: device,
        op.MARK: mark,
        op.VLAN_TAG: 0 if tag is None else tag.tci,
        op.VLAN_TAG_PRESENT: int(tag is not None),
        op.VLAN_TPID: 0 if tag is None else tag.tpid,
    }
    a = x = at = 0
    cells = [0] * CELLS
    while True:
        code, jt, jf, k = program[at]
        at += 1
        match code:
            case op.LD_W_ABS if k in beside:
                a = beside[k]
            case op.LD_W_ABS | op.LD_H_ABS | op.LD_B_ABS | op.LD_W_IND | op.LD_H_IND | op.LD_B_IND:
                start, size = k + (x if code in _INDIRECT else 0), _SIZES[code]
                if start + size > len(data):
                    return 0
                a = int.from_bytes(data[start : start + size], "big")
            case op.LD_LEN:
                a = len(data)
            case op.LD_IMM:
                a = k
            case op.LD_MEM:
                a = cells[k]
            case op.LDX_IMM:
                x = k
            case op.LDX_MEM:
                x = cells[k]
            case op.ST:
                cells[k] = a
            case op.STX:
                cells[k] = x
            case op.TAX:
                x = a
            case op.ADD:
                a = a + k & WORD
            case op.ADD_X:
                a = a + x & WORD
            case op.SUB:
                a = a - k & WORD
            case op.SUB_X:
                a = a - x & WORD
            case op.AND:
                a &= k
            case op.LSH:
                a = a << k & WORD
            case op.JA:
                at += k
            case op.JEQ:
                at += jt if a == k else jf
            case op.JGT:
                at += jt if a > k else jf
            case op.JGE:
                at += jt if a >= k else jf
            case op.JGE_X:
                at += jt if a >= x else jf
            case op.JSET:
                at += jt if a & k else jf
            case op.RET:
                return k
            case op.RET_A:
                return a
            case _:
                raise ValueError(f"not an instruction of a filter: {code:#x}")

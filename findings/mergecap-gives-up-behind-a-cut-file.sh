#!/bin/sh
# mergecap 4.0.17 (Debian 12): where one of the files ends in the middle of a packet, as after a crash, what comes later in
# the other, sound file is left out, too. editcap reads the same file up to its last whole packet, tells of it and exits 0:
# what it writes can be merged with all that the other file has.
# Needs python3, mergecap, editcap, capinfos (wireshark-common). Exits 1 where that is not so (any more).
set -eu
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
python3 -c '
import struct
def records(first, last):
    return b"".join(struct.pack("<IIII", second, 0, 60, 60) + bytes(60) for second in range(first, last))
header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
open("sound.pcap", "wb").write(header + records(1000, 1020))
open("cut.pcap", "wb").write((header + records(1000, 1010))[:-30])'

packets() { capinfos -McT "$1" 2>/dev/null | awk 'END { print $2 }'; }

mergecap --version | head -1
status=0
mergecap -w merged.pcap sound.pcap cut.pcap 2>said || status=$?
cat said
editcap cut.pcap mended.pcap && mended=0 || mended=$?
mergecap -w all.pcap sound.pcap mended.pcap
echo "mergecap of 20 packets and of 9 whole ones: exit $status, $(packets merged.pcap) packets"
echo "editcap first: exit $mended, then $(packets all.pcap) packets"
[ "$status" != 0 ] && [ "$(packets merged.pcap)" -lt 29 ] && [ "$mended" = 0 ] && [ "$(packets all.pcap)" = 29 ]

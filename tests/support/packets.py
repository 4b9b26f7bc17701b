"""What most made-up packets begin with, as scapy's layers."""

from __future__ import annotations

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="10.0.0.1", dst="10.0.0.2")

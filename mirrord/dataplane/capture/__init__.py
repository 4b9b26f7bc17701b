"""Frames in: from devices by packet sockets, plain or with a ring, and from tunnels that end here."""

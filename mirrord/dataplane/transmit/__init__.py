"""Copies out: through devices, UDP and raw IP sockets, a TX ring, into files and streams."""

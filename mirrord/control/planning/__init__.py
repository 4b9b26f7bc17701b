"""A configuration and what the host looks like -> what should run. Pure: no I/O, no clock."""

"""What the host's network is, as the kernel tells it, and what is changed in it."""

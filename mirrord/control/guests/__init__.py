"""VMs and containers by the names that people use: what their managers (libvirt, container engines) tell of them."""

"""What is told of it: metrics, status, and doctor with the probes that it looks through."""

"""What runs: pipelines and their workers, the circuit breaker, live captures, flow networks' addresses."""

"""What decides: configuration, changes, pipelines, metrics and the daemon that holds them together."""

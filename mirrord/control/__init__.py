"""What decides: configuration, plan, links, metrics and the daemon that holds them together."""

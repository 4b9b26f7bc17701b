"""The web console: a page for a browser on this host, and a small server that passes its questions on to the daemon."""

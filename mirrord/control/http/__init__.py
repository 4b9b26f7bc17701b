"""How the daemon is asked, over HTTP: the control API on its sockets, and the page of metrics."""

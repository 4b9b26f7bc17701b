"""mirrord: copies the traffic of network interfaces to where it can be looked at."""

__version__ = "0.1.0"

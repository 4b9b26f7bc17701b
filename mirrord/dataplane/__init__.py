"""A frame's way, in order: capture, filter, frame, encap, forward, transmit; counters beside it, worker around it.

Nothing here knows asyncio, pydantic or the control plane: an immutable plan goes in, counters come out.
"""

"""Frames in, copies out. The folders are a frame's way: capture, filter, frame, forward, transmit.

A pipeline joins them for one source of one session, a worker is the thread that runs pipelines, and counters say what
became of each frame. `native/` has the same folders in C. Nothing here knows asyncio, pydantic or the control plane:
an immutable plan goes in, counters come out.
"""

"""Frames to copies: the forward step, the headers it puts before them, and what a received tunnel packet carries."""

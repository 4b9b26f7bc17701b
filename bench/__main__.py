"""`make bench`: every measurement of this folder, one after the other."""

from __future__ import annotations

from bench import startup
from bench.comparison import run as comparison
from bench.primitives import run as primitives

if __name__ == "__main__":
    startup.main()
    primitives.main()
    comparison.main()

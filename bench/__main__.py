"""`make bench`: every measurement of this folder, one after the other."""

from __future__ import annotations

from bench.primitives.run import main

if __name__ == "__main__":
    main()

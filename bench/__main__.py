"""`make bench`: every measurement of this folder, one after the other."""

from __future__ import annotations

from bench import cluster, console, harm, rules, scale, startup
from bench.comparison import run as comparison
from bench.primitives import run as primitives

if __name__ == "__main__":
    startup.main()
    rules.main()
    primitives.main()
    comparison.main()
    scale.main()
    harm.main()
    cluster.main()
    console.main()

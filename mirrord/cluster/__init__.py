"""A cluster of mirroring hosts: `mirrord-agent` reads from etcd what all of them are to mirror, and has its own host's
daemon do its part.

The daemon has the capabilities and no store's client; the agent has the store's client and no capabilities. There is no
controller: each host derives its part by itself (`derive.py`), and what must be unique is a transaction.
"""

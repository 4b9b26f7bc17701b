"""The keys that the command line takes, each with the words that it takes, if only some.

Written by docs/generate.py from the models, which take too long to import: change those.
"""

Keys = dict[str, tuple[str, ...]]

REQUIRED = ("name", "source", "destination")

COMMANDS = {
    "status": "Show the daemon and every session, or one mirror's: state, rates, drops.",
    "list": "List the mirrors, with the number of their sessions and what these have mirrored and lost.",
    "show": "Show one mirror and its sessions, with counters.",
    "create": "Create a mirror, with sessions at once if wanted.",
    "set": "Rename, describe or change a mirror.",
    "enable": "Let a mirror's sessions run.",
    "disable": "Stop a mirror's sessions; it stays configured.",
    "delete": "Delete a mirror and its sessions.",
    "session": "Add sessions to a mirror, change and delete them.",
    "filter": "Look at filters, create, change and delete them.",
    "network": "Look at flow networks, create, change and delete them.",
    "apply": "Make the run-time objects that a file names as the file has them: all of them, or if one is refused, none.",
    "export": "Print what was made at run time, as TOML that `apply` takes; keys that are as by default are left out.",
    "audit": "Show who changed what, when, with what result; refusals too.",
    "top": "Watch the sessions live, the busiest first; q or Ctrl-C ends it.",
    "doctor": "Find what is wrong, with one mirror or with all, and tell what to do.",
    "explain": "Tell which rule takes each packet of a capture file, and why the rules before it did not.",
    "capture": "Write what a session mirrors, live, as pcapng; the session does not notice.",
    "reload": "Have the daemon read its configuration again, as SIGHUP does.",
}

HELP = {
    "name": "Unique in its mirror.",
    "description": "For people.",
    "enabled": "Whether it runs, where its mirror is enabled.",
    "priority": "For overlap = \"first\": the lowest number is asked first.",
    "source": "Where frames come from.",
    "direction": "ingress is what the source receives, egress what it sends.",
    "filter": "The name of a filter; left out: every frame.",
    "destination": "Where copies go.",
    "snaplen": "Bytes of the mirrored frame that are kept; 0: all.",
    "sampling_rate": "One in n flows, by a symmetric flow hash: whole conversations, both directions.",
    "rate_limit": "Bound on the sent bits a second, outer headers included, in tc's units; 0: none.",
    "on_mtu_exceeded": "What becomes of a copy larger than the path MTU.",
    "count_rules": "Count what each accept rule matched.",
    "mirror_tunnels": "Also mirror tunnel packets to or from configured destinations and listeners.",
    "capture": "How frames are read: a ring, a plain socket, or what fits the load.",
    "ring_size": "Memory of this session's ring; left out: daemon.ring_size.",
    "workers": "Threads for one busy source.",
    "transmit": "How copies leave: packet (AF_PACKET, headers made by mirrord), socket (the kernel routes), or what fits the device.",
    "gso": "Send runs of equal copies as one message.",
    "pause_above": "Pause while the destination's link is busier than this share of its speed; empty: never.",
}

SESSION: Keys = {
    "name": (),
    "description": (),
    "enabled": ("true", "false"),
    "priority": (),
    "source": (),
    "direction": ("ingress", "egress", "both"),
    "filter": (),
    "destination": (),
    "snaplen": (),
    "sampling_rate": (),
    "rate_limit": (),
    "on_mtu_exceeded": ("truncate", "fragment", "drop"),
    "count_rules": ("true", "false"),
    "mirror_tunnels": ("true", "false"),
    "capture": ("auto", "ring", "socket"),
    "ring_size": (),
    "workers": (),
    "transmit": ("auto", "packet", "socket"),
    "gso": ("auto", "on", "off"),
    "pause_above": (),
}

RULE: Keys = {
    "priority": (),
    "action": ("accept", "reject"),
    "direction": ("ingress", "egress", "both"),
    "family": ("ipv4", "ipv6"),
    "protocol": (),
    "source": (),
    "destination": (),
    "source_ports": (),
    "destination_ports": (),
    "vlan": (),
    "ethertype": (),
}

SOURCES: dict[str, Keys] = {
    "device": {
        "type": ("device",),
        "device": (),
        "vlan": (),
        "netns": (),
        "perspective": ("host", "guest"),
        "promiscuous": ("true", "false"),
    },
    "bridge": {
        "type": ("bridge",),
        "bridge": (),
        "vlan": (),
    },
    "vxlan": {
        "local": (),
        "allow": (),
        "type": ("vxlan",),
        "port": (),
        "vni": (),
    },
    "gre": {
        "local": (),
        "allow": (),
        "type": ("gre",),
        "key": (),
    },
    "erspan": {
        "local": (),
        "allow": (),
        "type": ("erspan",),
        "session_id": (),
    },
}

DESTINATIONS: dict[str, Keys] = {
    "device": {
        "type": ("device",),
        "device": (),
        "vlan": (),
        "original_vlan": ("strip", "keep"),
        "netns": (),
        "normal_io": ("true", "false"),
        "allow_default_route": ("true", "false"),
    },
    "vxlan": {
        "remote": (),
        "local": (),
        "dscp": (),
        "ttl": (),
        "netns": (),
        "type": ("vxlan",),
        "vni": (),
        "port": (),
        "shared_vni": ("true", "false"),
    },
    "geneve": {
        "remote": (),
        "local": (),
        "dscp": (),
        "ttl": (),
        "netns": (),
        "type": ("geneve",),
        "vni": (),
        "port": (),
    },
    "gre": {
        "remote": (),
        "local": (),
        "dscp": (),
        "ttl": (),
        "netns": (),
        "type": ("gre",),
        "key": (),
    },
    "erspan": {
        "remote": (),
        "local": (),
        "dscp": (),
        "ttl": (),
        "netns": (),
        "type": ("erspan",),
        "erspan_type": ("I", "II", "III"),
        "session_id": (),
        "cos": (),
        "index": (),
        "hardware_id": (),
        "sgt": (),
    },
    "file": {
        "type": ("file",),
        "path": (),
        "rotate_size": (),
        "rotate_seconds": (),
        "keep": (),
    },
}

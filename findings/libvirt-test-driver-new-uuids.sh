#!/bin/sh
# libvirt's test driver: a domain of a node's file that has no <uuid> has another UUID at each connection.
#
# With: libvirt 9.0.0 (Debian 12: libvirt-clients).
# Input: a file of one node with one domain, without <uuid>, which is allowed (domain format, "General metadata": one is
# generated).
#
# Expected: the domain keeps the UUID that was generated, as one that is defined at a real hypervisor does.
# Seen: the file is read anew at each connection, and one is generated each time; the name stays. Domains of
# test:///default, which has UUIDs of its own, keep them.
#
#   test:///node.xml vm: changes
#   test:///default test: stays
#
# So a program that lists UUIDs and then asks for each by another connection finds nobody: write <uuid> into such files.
set -eu
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
virsh --version
cat >"$folder/node.xml" <<'XML'
<node>
  <domain type='test'>
    <name>vm</name>
    <memory>65536</memory>
    <os><type>hvm</type></os>
  </domain>
</node>
XML
told() {
    first=$(virsh -c "$1" domuuid "$2")
    second=$(virsh -c "$1" domuuid "$2")
    [ -n "$first" ] && [ -n "$second" ] || exit 1
    if [ "$first" = "$second" ]; then echo stays; else echo changes; fi
}
file=$(told "test://$folder/node.xml" vm)
default=$(told test:///default test)
echo "test:///node.xml vm: $file"
echo "test:///default test: $default"
[ "$file" = changes ] && [ "$default" = stays ]

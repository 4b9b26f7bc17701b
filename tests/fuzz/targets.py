"""What is fuzzed: each function takes any bytes, and raises where mirrord does not do what it should.

In C and compared with the definition in Python, or with the kernel: `forward`, `decapsulation`, `filters`. In Python:
`capture_files`, `configuration`, `objects`. `SEEDS` are made by our own tools, scapy and tshark's, each time.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirrord.cli.pcap import CaptureFileError, packets
from mirrord.control.configuration import config
from mirrord.control.configuration.toml import parsed
from mirrord.control.host.view import View
from mirrord.control.planning.guests import resolve
from mirrord.control.planning.plan import make
from mirrord.control.targets import tidy
from mirrord.dataplane.filter.bpf import coarsen, compile_selection
from mirrord.dataplane.filter.rules import accepts, decide
from mirrord.dataplane.filter.several import attach
from mirrord.dataplane.forward.decap import decapsulate, unfinished
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.headers import parse
from mirrord.dataplane.frame.wire import VNET, Frame, Vnet
from mirrord.dataplane.native import core, matcher
from mirrord.dataplane.transmit import pcapng
from mirrord.errors import MirrordError
from mirrord.merge_patch import merge
from mirrord.plans import ForwardPlan, Tunnel
from tests.fuzz import words
from tests.support.interpreter import interpret
from tests.support.programs import Pair

ROOT = Path(__file__).parents[2]


class WrongError(Exception):
    """mirrord does not do what it should."""


# --- the native core ---


def forward(data: bytes) -> None:
    """Frames by a plan: the copies, reasons and counts of the C step are those of the Python step."""
    plan = words.plan(data[: words.PLAN_SIZE])
    compare(plan, words.frames(data[words.PLAN_SIZE :]))


def compare(plan: ForwardPlan, frames: list[Frame]) -> None:
    """Both steps on these frames."""
    python, native = Forward(plan), core.Forward(plan, matcher(plan))
    for frame in frames:
        copies, reason, *altered = python(frame)
        found, _, why, *other = native(frame)
        expected = [copy.data for copy in copies], reason, altered
        if (found, why, other) != expected:
            raise WrongError(f"{plan}\n{frame}\npython {expected}\nnative {(found, why, other)}")


def decapsulation(data: bytes) -> None:
    """A tunnel's packet: the same frame, or none, from both planes."""
    tunnel, limit, packet = Tunnel(1 + data[0] % len(Tunnel) if data else 1), (0, 60, 1514)[len(data) % 3], data[1:]
    found = decapsulate(tunnel, packet)
    python = None if found is None else (*found, unfinished(found.data, limit))
    native = core.decapsulate(tunnel=tunnel, packet=packet, limit=limit)
    if python != (native and (native.data, native.told, Vnet._make(VNET.unpack(native.vnet)))):
        raise WrongError(f"{tunnel} {packet.hex()}: python {python}, native {native}")
    if found is not None:
        data, told = found
        compare(ForwardPlan(words.TEMPLATES[0]), [Frame(data, len(data), vnet=unfinished(data, limit), told=told)])


_pair: list[Pair] = []


def filters(data: bytes) -> None:
    """A selection and frames: what the matcher means is what the kernel, the C core and the interpreter make of it."""
    if not _pair:
        _pair.append(Pair())
    selection = words.selection(words.Words(data[: words.PLAN_SIZE]))
    programs = compile_selection(selection), compile_selection(coarsen(selection))
    exact = attach(_pair[0].far, selection)
    native = core.Forward(plan := ForwardPlan(words.TEMPLATES[0], exact=selection), matcher(plan))
    for frame in words.frames(data[words.PLAN_SIZE :]):
        _filtered(selection, frame, programs, native)
        if exact and frame.data and frame.tag is None:
            meant = accepts(selection, parse(frame.data), egress=False)
            if _pair[0].passes(frame.data) != meant:
                raise WrongError(f"the kernel: {selection} {frame}, not {meant}")


def _filtered(selection: Any, frame: Frame, programs: Any, native: Any) -> None:
    decision = decide(selection, parse(frame.data, frame.tag), egress=frame.egress)
    plain, coarse = (bool(interpret(one, frame.data, frame.tag, egress=frame.egress)) for one in programs)
    in_c = native(frame).reason != 11
    if plain != decision.accept or (decision.accept and not coarse) or in_c != decision.accept:
        raise WrongError(f"{selection} {frame}: {decision}, interpreter {plain}, coarse {coarse}, core {in_c}")


# --- Python ---


def capture_files(data: bytes) -> None:
    """A capture file of anybody's: packets, then at most one clear error."""
    with suppress(CaptureFileError):
        for number, packet in enumerate(packets(io.BytesIO(data))):
            if len(packet.data) > len(data) + 64:  # a header may have been put before it
                raise WrongError(f"packet {number} is longer than the file")


def configuration(data: bytes) -> None:
    """A file of anybody's: a configuration, or every problem of it in words; and what runs can be planned."""
    files = config.Files("f.toml")
    try:
        table = parsed(data)
    except ValueError:
        return
    for section, content in table.items():
        if isinstance(content, dict):
            target = files.daemon if section == "daemon" else files.objects.get(section)
            if target is not None:
                target |= content
                files.origins |= {f"{section}.{key}": "f.toml" for key in content}
    _planned(lambda: config.combine(files))


def objects(data: bytes) -> None:
    """A request's body, and a patch of it: refused in words, or planned."""
    head, _, tail = data.partition(b"\n")
    try:
        body, patch = json.loads(head), json.loads(tail or b"{}")
    except (ValueError, RecursionError):
        return
    section = ("mirrors", "filters", "flow_networks")[len(data) % 3]
    for one in (body, merge(body, patch)):
        made = {**config.NOTHING, section: {"x": tidy(one)}}
        _planned(lambda made=made: config.combine(_base(), made, [f"{section}.x"]))  # type: ignore[misc]


def _planned(combine: Callable[[], config.Loaded]) -> None:
    with suppress(MirrordError):
        make(resolve(combine().config, {}), View())


def _base() -> config.Files:
    files = config.Files("f.toml")
    files.origins["filters.all"] = "f.toml"
    files.objects["filters"]["all"] = {"rules": [{"priority": 1, "action": "accept"}]}
    return files


# --- seeds ---


def _frames() -> Iterator[bytes]:
    from tests.support.mixture import mixture  # noqa: PLC0415 (scapy takes a second)

    for n, sent in enumerate(mixture()):
        octets, flags, *vnet = sent.given
        if n % 5 == 0 and len(octets) < 4000:
            yield words.packed(Frame(octets, len(octets), vnet=Vnet(flags, *vnet)))


def _forward() -> Iterator[bytes]:
    frames = list(_frames())
    for n, frame in enumerate(frames):
        chosen = bytes(words.PLAN_SIZE) if n % 2 else bytes((n * k * 7) % 256 for k in range(words.PLAN_SIZE))
        yield chosen + frame + frames[(n * 3) % len(frames)]


def _tunnelled() -> Iterator[bytes]:
    from tests.unit.test_decap import BAD, GOOD  # noqa: PLC0415

    for tunnel, packet in [*GOOD, *BAD.values()]:
        yield bytes([tunnel - 1]) + packet


def _captures() -> Iterator[bytes]:
    from scapy.layers.l2 import Ether  # noqa: PLC0415
    from scapy.utils import PcapNgWriter, wrpcap  # noqa: PLC0415

    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / bytes(60)
    with tempfile.TemporaryDirectory() as directory:
        for order in "<>":
            wrpcap(f"{directory}/pcap", [frame, frame], endianness=order)
            yield Path(directory, "pcap").read_bytes()
        writer = PcapNgWriter(f"{directory}/pcapng")
        writer.write([frame, frame])
        writer.close()
        yield Path(directory, "pcapng").read_bytes()
    body = bytes(frame)
    ours = pcapng.section("mirrord", "x") + pcapng.interface("eth0", 0, "a session")
    yield ours + pcapng.packet_header(len(body), len(body), 1) + body + pcapng.packet_trailer(len(body), egress=True)


def _files() -> Iterator[bytes]:
    for path in (*ROOT.glob("config/*.toml"), *ROOT.glob("config/examples/*.toml")):
        yield path.read_bytes()
    for block in (ROOT / "docs" / "recipes.md").read_text().split("```toml")[1:]:
        yield block.partition("```")[0].encode()


def _objects() -> Iterator[bytes]:
    import tomli  # noqa: PLC0415

    for file in _files():
        with suppress(ValueError):
            for content in tomli.loads(file.decode()).values():
                for one in content.values() if isinstance(content, dict) else ():
                    yield json.dumps(one, default=str).encode() + b'\n{"description": "x"}'


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "forward": (forward, _forward),
    "decapsulation": (decapsulation, _tunnelled),
    "filters": (filters, _forward),
    "capture_files": (capture_files, _captures),
    "configuration": (configuration, _files),
    "objects": (objects, _objects),
}
"""By name, the function and what makes its seeds."""

NATIVE = ("forward", "decapsulation", "filters")

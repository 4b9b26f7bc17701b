"""Fetches what the console and its tests take from others: npm's archives, each pinned by version and sha512.

    packaging/vendored.py console    into mirrord/console/page/vendor, part of the wheel and of the package
    packaging/vendored.py tests      into build/npm, for the tests alone
    packaging/vendored.py lint       into build/typescript: TypeScript, and the types of what the page takes from others

npm fetches the archives, so that its settings (registry, proxy, certificates) count. The modules are taken as they are,
but for the name by which one imports another: a browser knows no packages.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STAMP = "pinned.json"
TRIES = 3


class Archive(NamedTuple):
    """A package; `files` maps names in it to names here, a pattern of names to a folder, in which they keep theirs."""

    package: str
    version: str
    sha512: str
    files: Mapping[str, str]


CONSOLE = (
    Archive(
        "preact",
        "11.2.0",
        "/HfHI/7N84e6GrWBJ3J280z3mLaRJiDcSvj/A+y/4AbLnND/1UlGHe1sR6oYuTGwId0nP7dqDU9OnLxMPZ7xBg==",
        {"dist/preact.mjs": "preact.js", "hooks/dist/hooks.mjs": "hooks.js", "LICENSE": "preact.LICENSE"},
    ),
    Archive(
        "htm",
        "3.1.1",
        "983Vyg8NwUE7JkZ6NmOqpCZ+sh1bKv2iYTlUkzlWmA5JD2acKoxd4KVxbMmxX/85mtfdnDmTFoNKcg5DGAvxNQ==",
        {"dist/htm.mjs": "htm.js", "LICENSE": "htm.LICENSE"},
    ),
    Archive(
        "uplot",
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {"dist/uPlot.iife.min.js": "uplot.js", "dist/uPlot.min.css": "uplot.css", "LICENSE": "uplot.LICENSE"},
    ),
)
TESTS = (
    Archive(
        "axe-core",
        "4.14.1",
        "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        {"axe.min.js": "axe.js"},
    ),
)
TYPES = {
    "preact": {
        "src/index.d.ts": "vendor/preact.d.ts",
        "src/dom.d.ts": "vendor/dom.d.ts",
        "src/jsx.d.ts": "vendor/jsx.d.ts",
        "hooks/src/index.d.ts": "vendor/hooks.d.ts",
    },
    "htm": {"dist/htm.d.ts": "vendor/htm.d.ts"},
}
LINT = (
    Archive(
        "typescript",
        "5.9.3",
        "jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw==",
        {"lib/tsc.js": "tsc.js", "lib/_tsc.js": "_tsc.js", "lib/lib*.d.ts": "", "LICENSE.txt": "LICENSE.txt"},
    ),
    *(one._replace(files=TYPES[one.package]) for one in CONSOLE if one.package in TYPES),
)
TARGETS = {
    "console": (ROOT / "mirrord/console/page/vendor", CONSOLE),
    "tests": (ROOT / "build/npm", TESTS),
    "lint": (ROOT / "build/typescript", LINT),
}
NAMES = {
    b'from"preact"': b'from"./preact.js"',
    b"from './index'": b"from './preact.js'",
    b"from '../../src/index'": b"from './preact.js'",
}
"""What a module imports, and where it is here."""
IMPORTING = (".mjs", ".d.ts")


def fetch(directory: Path, archives: tuple[Archive, ...]) -> None:
    """Have these files in the directory; nothing is done where they are there by these pins."""
    pinned = json.dumps([[*one[:3], dict(one.files)] for one in archives])
    stamp = directory / STAMP
    if stamp.exists() and stamp.read_text() == pinned:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for one in archives:
        print(f"setup: fetching {one.package} {one.version} from npm's registry")  # noqa: T201 (as tests/setup says it)
        _unpack(one, directory)
    stamp.write_text(pinned)


def _unpack(one: Archive, directory: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = _archive(one, Path(temporary))
        found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        if found != one.sha512:
            sys.exit(f"setup: {one.package} {one.version} has the sha512 {found}, not {one.sha512}")
        with tarfile.open(path) as archive:
            for inside, name in _chosen(one.files, archive.getnames()):
                file = archive.extractfile(inside)
                assert file is not None, inside  # a file of what is pinned
                data = file.read()
                for bare, here in NAMES.items() if inside.endswith(IMPORTING) else ():
                    data = data.replace(bare, here)
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_bytes(data)


def _chosen(files: Mapping[str, str], there: list[str]) -> Iterator[tuple[str, str]]:
    """Names in an archive, and here."""
    for inside, name in files.items():
        found = [one for one in there if fnmatchcase(one, f"package/{inside}")]
        assert found, inside  # of what is pinned
        yield from ((one, f"{name}{Path(one).name}" if "*" in inside else name) for one in found)


def _archive(one: Archive, directory: Path) -> Path:
    command = ["npm", "pack", "--silent", "--pack-destination", str(directory), f"{one.package}@{one.version}"]
    for left in reversed(range(TRIES)):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)  # noqa: S603 (fixed)
        if done.returncode == 0:
            break
        if not left:
            sys.exit(f"setup: npm could not fetch {one.package} {one.version}:\n{done.stdout}{done.stderr}")
    (path,) = directory.glob("*.tgz")
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(TARGETS)}")
    fetch(*TARGETS[sys.argv[1]])

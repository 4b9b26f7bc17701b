"""The native core's build; everything else is in pyproject.toml.

Environment: MIRRORD_REQUIRE_NATIVE=1 makes a failed build an error (an install without a compiler is fine
otherwise: the Python data plane does the same, slower); MIRRORD_SANITIZE=1 builds with the address and
undefined-behaviour sanitizers, MIRRORD_SANITIZE=fuzz for libFuzzer, too (clang).
"""

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, setup

OPTIMIZE = ["-O3"]
SANITIZE = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

version = re.search(r'__version__ = "(.+)"', Path("mirrord/__init__.py").read_text())
assert version, "mirrord/__init__.py has no version"
macros = [
    ("Py_LIMITED_API", "0x030B0000"),  # the first with Py_buffer
    ("MIRRORD_VERSION", f'"{version[1]}"'),  # by which a core is known that other modules were built with
]
if sys.version_info >= (3, 13):  # these headers know no PY_SSIZE_T_CLEAN, without which older Pythons refuse "y#"
    macros += [(name, f"_{name}_SizeT") for name in ("PyArg_ParseTuple", "Py_BuildValue")]

sanitize = os.environ.get("MIRRORD_SANITIZE", "")
if sanitize == "fuzz":
    SANITIZE = [flag.replace("=address", "=fuzzer-no-link,address") for flag in SANITIZE]
directory = Path("mirrord/dataplane/native")
sources = sorted(map(str, directory.rglob("*.c")))
native = Extension(
    "mirrord.dataplane._native",
    sources,
    depends=[*sorted(map(str, directory.rglob("*.h"))), "mirrord/__init__.py"],
    include_dirs=[str(directory)],
    define_macros=macros,
    py_limited_api=True,
    extra_compile_args=["-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", *(SANITIZE if sanitize else OPTIMIZE)],
    extra_link_args=["-fsanitize=address,undefined"] if sanitize else [],
    optional=os.environ.get("MIRRORD_REQUIRE_NATIVE") != "1",
)

setup(
    ext_modules=[native] if sources else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if sources else {},
)

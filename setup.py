"""What is compiled, and how; the metadata is in pyproject.toml.

``GEVENTGATE_NATIVE=1`` compiles, and fails where it cannot; without it everything stays Python. The policy is ordinary
Python, compiled by Cython from its own ``.py`` with the types of the ``.pxd`` beside it; the twins lie in ``ext/`` (see
its README). ``GEVENTGATE_CFLAGS`` adds flags: "-Werror", "-fsanitize=address".
"""

import os
import shlex
from typing import Any

from setuptools import Extension, setup

POLICY = (
    "message", "exchange", "protocol.http1", "protocol.http2", "protocol.conduct", "protocol.http2_ngh2",
    "server.clock", "server.workers", "server.service", "server.descriptor", "server.stream", "server.carrier",
    "server.http1", "server.http2", "gateway.environ", "gateway.wsgi",
)  # fmt: skip
TWINS = (
    "protocol._heads", "protocol._responses", "server._descriptor", "server._context", "gateway._environ",
)  # fmt: skip
# Of the code that Cython writes; and a twin need not use all of a header.
QUIET = ("-Wno-unused-function", "-Wno-array-bounds", "-Wno-missing-field-initializers", "-Wno-unused-parameter")


def extensions() -> list[Any]:
    if not os.environ.get("GEVENTGATE_NATIVE"):
        return []
    from Cython.Build import cythonize

    sources = {name: f"geventgate/{name.replace('.', '/')}.py" for name in POLICY}
    sources |= {name: f"ext/{name.rpartition('.')[2]}.pyx" for name in TWINS}
    flags = ["-O2", "-Wall", "-Wextra", *QUIET, *shlex.split(os.environ.get("GEVENTGATE_CFLAGS", ""))]
    modules = [
        Extension(
            f"geventgate.{name}",
            [source],
            include_dirs=["ext"],
            depends=["ext/heads.h", "ext/responses.h", "ext/spans.h", "ext/texts.h"],
            extra_compile_args=flags,
            extra_link_args=[flag for flag in flags if flag.startswith("-fsanitize")],
        )
        for name, source in sources.items()
    ]
    directives = {"language_level": 3, "annotation_typing": False, "binding": True}
    found: list[Any] = cythonize(modules, compiler_directives=directives, build_dir="build/cython")
    return found


setup(ext_modules=extensions())

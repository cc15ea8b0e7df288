"""What is compiled, and how; the metadata is in pyproject.toml, the list of modules in geventgate/native.py.

The policy is ordinary Python, compiled by Cython from its own ``.py`` with the types of the ``.pxd`` beside it; the
twins lie in ``ext/`` (see its README). Where that cannot be, for want of a compiler, everything stays Python, and the
command line says so. ``GEVENTGATE_PURE=1`` does not try; ``GEVENTGATE_PURE=0`` fails where it cannot.
``GEVENTGATE_CFLAGS`` adds flags: "-Werror", "-fsanitize=address". An editable install stays Python: its ``.py`` are
there to be edited.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = run_path("geventgate/native.py")
WISH = os.environ.get(NATIVE["VARIABLE"], "")
CAN = os.name == "posix" and sys.implementation.name == "cpython"
# Of the code that Cython writes; and a twin need not use all of a header.
QUIET = ("-Wno-unused-function", "-Wno-array-bounds", "-Wno-missing-field-initializers", "-Wno-unused-parameter")
FAST = ("-O3", "-fno-plt", "-fno-semantic-interposition")  # a fiftieth faster than -O2
FREE = 64  # objects of a class that are kept for the next
DIRECTIVES = {"language_level": 3, "annotation_typing": False, "binding": True}


def extensions() -> list[Extension]:
    sources = {name: f"geventgate/{name.replace('.', '/')}.py" for name in NATIVE["POLICY"]}
    sources |= {name: f"ext/{name.rpartition('.')[2]}.pyx" for name in NATIVE["TWINS"]}
    flags = [*FAST, "-g0", "-Wall", "-Wextra", *QUIET, *shlex.split(os.environ.get("GEVENTGATE_CFLAGS", ""))]
    return [
        Extension(
            f"geventgate.{name}",
            [source],
            include_dirs=["ext"],
            depends=sorted(map(str, Path("ext").glob("*.h"))),
            extra_compile_args=flags,
            extra_link_args=[flag for flag in flags if flag.startswith("-fsanitize")],
        )
        for name, source in sources.items()
    ]


class Build(build_ext):
    """All modules or none: one that is compiled does not work with the ``.py`` of another."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if self.editable_mode:
            self.extensions: list[Any] = []

    def run(self) -> None:
        note = Path(self.build_lib, "geventgate", NATIVE["NOTE"])
        note.unlink(missing_ok=True)  # of another build in the same folder
        try:
            super().run()
        except Exception as error:
            if WISH == "0":
                raise
            self.warn(f"everything stays Python, since it could not be compiled: {error}")
            for path in self.get_outputs():
                Path(path).unlink(missing_ok=True)
            self.extensions = []
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(" ".join(str(error).split()), encoding="utf-8")

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            raise CompileError(f"there is no {compiler}")
        from Cython.Build import cythonize
        from Cython.Compiler.Options import get_directive_defaults

        # What is made for each request is not allocated each time. For all classes: of what a .pxd says of one, Cython
        # forgets this when it comes to the .py; and it takes it from the defaults only.
        get_directive_defaults()["freelist"] = FREE
        written = cythonize(
            self.extensions, compiler_directives=DIRECTIVES, build_dir="build/cython", quiet=not self.verbose
        )
        for extension, made in zip(self.extensions, written, strict=True):
            extension.sources = made.sources
        super().build_extensions()


setup(ext_modules=extensions() if CAN and WISH in ("", "0") else [], cmdclass={"build_ext": Build})

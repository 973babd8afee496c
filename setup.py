"""What a declarative file cannot say: generate the protobuf code, then compile native/.

Both happen inside `build_ext`, which every way of installing passes (wheel, editable, sdist), so that
generated code is never committed and never stale.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def generate_protobuf() -> None:
    """Write *_pb2.py, *_pb2_grpc.py and their typed stubs beside each .proto file."""
    import grpc_tools

    includes = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "parkfleet/proto").glob("*.proto"))
    outputs = [f"--{kind}_out=." for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # pip's build environment has the mypy-protobuf plugins beside its own interpreter, or on its PATH.
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"-I{includes}", *outputs, *protos]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": scripts}, check=True)


class BuildPy(build_py):
    def run(self) -> None:
        generate_protobuf()
        super().run()


class BuildExt(build_ext):
    def run(self) -> None:
        generate_protobuf()
        super().run()


def extensions() -> list[Extension]:
    """One extension per native/*.pyx; a failed compile fails the build."""
    sources = sorted((ROOT / "parkfleet/native").glob("*.pyx"))
    modules = [
        Extension(
            f"parkfleet.native.{path.stem}",
            [str(path.relative_to(ROOT))],
            extra_compile_args=["-O2", "-g0", "-Wno-sign-compare"],
        )
        for path in sources
    ]
    directives = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}
    return cythonize(modules, build_dir="build/cython", compiler_directives=directives)


setup(ext_modules=extensions(), cmdclass={"build_py": BuildPy, "build_ext": BuildExt})

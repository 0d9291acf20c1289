"""Builds the engine as a library for ctypes, so that one wheel of a platform serves every Python.

Copies the texts that ship into the package.

The rest of the build is in pyproject.toml.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

TEXTS = ["corpora/lighthouse.txt", "corpora/villages.txt"]


class BuildEngine(build_ext):
    """Builds a library for ctypes: without Python's ABI in its name, and not a Python module.

    Without a C compiler nothing is built, and the distribution has no library.
    """

    def run(self) -> None:
        super().run()
        built = [
            each for each in self.extensions if os.path.exists(self.get_ext_fullpath(each.name))
        ]
        self.distribution.ext_modules = built

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = ["/std:c11"]  # it optimises by default, without fused products
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + (".dll" if os.name == "nt" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols  # without PyInit, which only a Python module has

    def get_libraries(self, ext: Extension) -> list[str]:
        return [] if self.compiler.compiler_type == "msvc" else ["m"]


class BuildPackage(build_py):
    """Copies the texts beside `charnn/text/corpora.py`, which finds them there in a wheel."""

    def run(self) -> None:
        super().run()
        for text in [] if self.editable_mode else TEXTS:
            self.copy_file(text, os.path.join(self.build_lib, "charnn", "text"))


class Wheel(bdist_wheel):
    """A wheel for every Python 3: of one platform with the library, of any platform without it."""

    def run(self) -> None:
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildPackage, "build_ext": BuildEngine, "bdist_wheel": Wheel})

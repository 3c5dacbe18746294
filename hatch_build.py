"""Compiles the inner loop of the lens while argan is built or installed.

Without a C++ compiler argan is built all the same and renders by NumPy and OpenCV, more slowly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("runtime/argan/native.cpp")
LIBRARY = Path("runtime/argan/_native.so")
# The last two let loops with square roots and choices become vector code; no result changes.
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-Wno-psabi", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math"]


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        library = Path(self.root, LIBRARY)
        library.unlink(missing_ok=True)
        if compile_library(Path(self.root, SOURCE), library):
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"].append(str(LIBRARY))


def compile_library(source: Path, library: Path) -> bool:
    """Whether there is a library now; why not is said on stderr."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((name for name in names if name and shutil.which(name.split()[0])), None)
    problem = "no C++ compiler"
    if compiler is not None:
        command = [*compiler.split(), *FLAGS, str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return True
        problem = f"{compiler} failed: {done.stderr.strip()[:300]}"
    print(f"argan is built without its compiled lens ({problem}); it is slower", file=sys.stderr)
    return False

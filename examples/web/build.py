"""Build the page: everything a browser needs, in one folder that any static host can serve.

    python build.py OUT [--bundle NAME.argan]

Needs Pillow, ziglang (its clang compiles the lens, runtime/argan/native.cpp, for WebAssembly), and
onnxruntime-web in node_modules (npm ci). The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNTIME = ROOT / "runtime" / "argan"
PAGE = ("index.html", "style.css", "manifest.webmanifest", "icon.svg", "sw.js", "page", "engine")
FUNCTIONS = (
    "native_version", "spans", "add_slices", "shrink", "enlarge", "farthest_of_four",
    "keep_farthest", "squared", "decode", "recover", "encode", "allocate", "release",
)  # fmt: skip
COMPILE = (
    "c++", "-target", "wasm32-wasi", "-c", "-O3", "-std=c++17", "-msimd128", "-mbulk-memory",
    "-fno-math-errno", "-fno-exceptions", "-fno-rtti", "-w",
)  # fmt: skip
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = (
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)  # fmt: skip
LATER = {f"ort/{name}" for name in WEBGPU}  # kept offline only where they are used
ICONS = (180, 192, 512)
LIGHTS = (  # those of icon.svg: middle, radius, colour, opacity
    ((196, 206), 84, (0xE6, 0xAD, 0x6F), 0.45),
    ((336, 196), 58, (0xE6, 0xAD, 0x6F), 0.3),
    ((276, 316), 88, (0xF2, 0xD3, 0xAC), 1.0),
)
GROUND = (0x20, 0x14, 0x0A)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the page.")
    parser.add_argument("out", type=Path, help="replaced where it is there already")
    parser.add_argument("--bundle", type=Path, default=RUNTIME / "models" / "default.argan")
    options = parser.parse_args()
    modules = HERE / "node_modules" / "onnxruntime-web"
    if not modules.exists():
        sys.exit(f"onnxruntime-web is missing: npm ci --prefix {HERE}")
    if options.out.exists() and not (options.out / "files.js").exists():
        sys.exit(f"{options.out} is not a page built before: name another folder")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.out.parent) as temporary:
        folder = Path(temporary) / "page"
        build(folder, options.bundle, modules)
        shutil.rmtree(options.out, ignore_errors=True)
        folder.rename(options.out)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB; look at it with: argan web {options.out}")


def build(folder: Path, bundle: Path, onnxruntime: Path) -> None:
    folder.mkdir()
    for name in PAGE:
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copyfile
        copy(HERE / name, folder / name)
    (folder / "engine" / "wasm_memory.cpp").unlink()
    compile_lens(folder / "lens.wasm")
    (folder / "ort").mkdir()
    for name in (*WASM, *WEBGPU):
        shutil.copyfile(onnxruntime / "dist" / name, folder / "ort" / name)
    shutil.copyfile(bundle, folder / "default.argan")
    shutil.copyfile(ROOT / "examples" / "dahlia.jpg", folder / "example.jpg")
    for side in ICONS:
        icon(side).save(folder / f"icon-{side}.png", optimize=True)
    (folder / "LICENSES.txt").write_text(licences(), encoding="utf-8")
    (folder / "files.js").write_text(listed(folder), encoding="utf-8")


def compile_lens(target: Path) -> None:
    zig = (sys.executable, "-m", "ziglang")
    with TemporaryDirectory() as folder:
        objects = []
        for source in (RUNTIME / "native.cpp", HERE / "engine" / "wasm_memory.cpp"):
            objects.append(str(Path(folder) / f"{source.stem}.o"))
            subprocess.run([*zig, *COMPILE, str(source), "-o", objects[-1]], check=True)
        exports = [f"--export=argan_{name}" for name in FUNCTIONS]
        link = [*zig, "wasm-ld", "--no-entry", "--strip-all", *exports, *objects]
        subprocess.run([*link, "-o", str(target)], check=True)


def icon(side: int) -> Image.Image:
    """icon.svg without its round corners: phones cut their own."""
    scale = 4 * side / 512
    image = Image.new("RGB", (4 * side, 4 * side), GROUND)
    for (x, y), radius, colour, opacity in LIGHTS:
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).circle((scale * x, scale * y), scale * radius, round(255 * opacity))
        image.paste(colour, (0, 0), mask)
    return image.resize((side, side), Image.Resampling.BOX)


def licences() -> str:
    """Of what the folder holds."""
    return "\n\n".join(
        [
            "argan: Apache License 2.0, below. default.argan: see LICENSE-WEIGHTS in it.\n"
            "lens.wasm: argan's, with parts of LLVM's libc++ (Apache License 2.0 with LLVM"
            " exceptions).\n"
            "ort/: ONNX Runtime Web, Copyright (c) Microsoft Corporation, MIT License, below.\n"
            'example.jpg: "dahlia" by vultilion, CC BY 2.0'
            " (https://creativecommons.org/licenses/by/2.0/).",
            MIT,
            (ROOT / "LICENSE").read_text(encoding="utf-8"),
        ]
    )


MIT = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def listed(folder: Path) -> str:
    """files.js: what sw.js keeps, a version that changes with any of it, and the lens' source."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for name in names:
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    kept = ["./", *(name for name in names if name not in {*LATER, "sw.js", "LICENSES.txt"})]
    native = hashlib.sha256((RUNTIME / "native.cpp").read_bytes()).hexdigest()
    fields = {"version": digest.hexdigest()[:16], "lens": native, "files": kept}
    content = json.dumps(fields, indent=1)
    return f"self.ARGAN_FILES = {content};\n"


if __name__ == "__main__":
    main()

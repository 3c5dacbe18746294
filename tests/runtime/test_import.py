"""What `import argan` costs, asked of fresh interpreters."""

import os
import subprocess
import sys
from collections.abc import Collection

import pytest

HEAVY = ("torch", "onnxruntime", "typer", "rich", "argan_train", "argan_export")


def python(program: str, without: Collection[str] = ()) -> str:
    """What it prints; `without` some variables of the environment."""
    environment = {name: value for name, value in os.environ.items() if name not in without}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(first: str) -> set[str]:
    return set(python(f"{first}; import sys; print(*sys.modules)").split()) & set(HEAVY)


def test_import_loads_nothing_heavy():
    assert loaded("import argan, argan.lens, argan.render, argan.bundle") == set()


@pytest.mark.parametrize("package", ["onnxruntime", "torch"])
def test_the_question_can_be_answered_yes(package):
    pytest.importorskip(package)
    assert package in loaded(f"import argan, {package}")


def test_the_command_line_loads_no_torch():
    assert loaded("import argan.cli") <= {"typer"}


def test_import_time():
    """Under 0.3 s more than numpy and cv2, in CPU time, for the machine may have other work."""
    program = """
import time, numpy, cv2
start = time.process_time()
import argan
print(time.process_time() - start)
"""
    seconds = min(float(python(program)) for _ in range(3))
    assert seconds < 0.3  # seen: 0.09 to 0.14


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("name", ["argan", "other"])
def test_a_command_starts_no_threads_of_openblas(name):
    """A program that imports argan keeps NumPy's, one for each core."""
    program = f"import sys; sys.argv = ['/bin/{name}']; import argan, os"
    program += "; print(os.environ.get('OPENBLAS_NUM_THREADS'), len(os.listdir('/proc/self/task')))"
    setting, threads = python(program, {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}).split()
    assert setting == "None"
    assert (int(threads) == 1) == (name == "argan" or len(os.sched_getaffinity(0)) == 1)


def test_the_module_behind_the_function_is_still_found():
    assert python("import argan; from argan.refocus import load; print(argan.refocus)").startswith(
        "<function refocus"
    )

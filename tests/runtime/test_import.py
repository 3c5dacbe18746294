"""What `import argan` costs, asked of fresh interpreters."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "typer", "rich", "argan_train", "argan_export")


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
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
    assert loaded("import argan.cli") <= {"typer", "rich"}


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


def test_the_module_behind_the_function_is_still_found():
    assert python("import argan; from argan.refocus import load; print(argan.refocus)").startswith(
        "<function refocus"
    )

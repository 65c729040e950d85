"""The house rules, enforced on the source: who may import whom, what is documented, how long a file
may be.
"""

import ast
import pathlib
import re
import sys

import pytest

import generalist

ROOT = pathlib.Path(generalist.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

# Arrows go down only. A room may use itself, EVERYWHERE, and these rooms.
ARROWS = {
    "__init__": {"inference", "tasks"},
    "cli": {"training", "evaluation", "inference", "input_pipeline", "pretrained"},
    "training": {
        "recipe",
        "evaluation",
        "inference",
        "input_pipeline",
        "models",
        "diffusion",
        "pretrained",
        "tasks",
        "devices",
    },
    "evaluation": {
        "recipe",
        "inference",
        "input_pipeline",
        "pretrained",
        "tasks",
        "metrics",
        "devices",
    },
    "inference": {"recipe", "models", "diffusion", "pretrained", "tasks", "devices"},
    "recipe": {"config_checks", "models", "diffusion", "pretrained", "tasks"},
    "config_checks": {"models"},
    "input_pipeline": {"tasks"},
    "pretrained": {"models"},
    "models": set(),
    "diffusion": set(),
    "tasks": set(),
    "metrics": set(),
    "devices": set(),
    "configs": set(),
    "files": set(),
    "names": set(),
    "console": set(),
    "pictures": set(),
}
# What every room may use.
EVERYWHERE = {None, "__version__", "files", "names", "console", "pictures"}
# Inside a function only, so that importing the room does not load the other: a task knows its
# official metric.
LAZY_ARROWS = {"tasks": {"metrics"}}

# What a room may import of others, besides the standard library; rooms that are not listed may
# import any but FORBIDDEN.
LIBRARIES = {
    "__init__": set(),
    "configs": {"ml_collections"},
    "models": {"jax", "flax", "numpy", "jaxtyping"},
    "diffusion": {"jax", "numpy", "jaxtyping", "optax"},
    "tasks": {"numpy", "cv2", "jaxtyping"},
    "metrics": {"numpy", "cv2", "jaxtyping"},
    "pretrained": {
        "jax",
        "flax",
        "numpy",
        "ml_dtypes",
        "safetensors",
        "huggingface_hub",
        "tokenizers",
    },
    "inference": {"jax", "flax", "numpy", "cv2", "PIL", "ml_collections"},
    # Workers never touch a JAX device.
    "input_pipeline": {
        "numpy",
        "cv2",
        "grain",
        "absl",
        "etils",
        "h5py",
        "tensorflow_datasets",
        "array_record",
        "apache_beam",
    },
}
FORBIDDEN = {
    "torch",
    "tensorflow",
    "tensorflow_datasets",
    "transformers",
    "diffusers",
    "skimage",
    "torchmetrics",
}


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: pathlib.Path):
    """(dotted module, line, whether it is inside a function) of every import; TYPE_CHECKING blocks
    count as ordinary.
    """
    inside = {
        id(node)
        for function in ast.walk(TREES[path])
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            yield module, node.lineno, id(node) in inside


def test_the_table_has_every_room():
    assert {room_of(path) for path in FILES} == set(ARROWS)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_arrows_go_down(path):
    room = room_of(path)
    wrong = []
    for module, line, lazy in imports(path):
        top, *rest = module.split(".")
        other = rest[0] if top == "generalist" and rest else None
        allowed = (
            ARROWS[room] | {room} | EVERYWHERE | (LAZY_ARROWS.get(room, set()) if lazy else set())
        )
        if other not in allowed:
            wrong.append(f"{path}:{line}: {room} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_libraries(path):
    wrong = []
    for module, line, _ in imports(path):
        top = module.split(".")[0]
        if top == "generalist" or top in sys.stdlib_module_names:
            continue
        if top not in LIBRARIES.get(room_of(path), {top} - FORBIDDEN):
            wrong.append(f"{path}:{line}: {room_of(path)} imports {module}")
    assert wrong == []


def test_arrows_form_no_circle():
    """Rooms can be put in an order in which each uses only those before it."""
    left = {room: targets | LAZY_ARROWS.get(room, set()) for room, targets in ARROWS.items()}
    while left:
        ready = {room for room, targets in left.items() if not targets & left.keys()}
        assert ready, f"a circle among {sorted(left)}"
        left = {room: targets for room, targets in left.items() if room not in ready}


def public(tree: ast.Module):
    """Name and node of the public functions and classes of a module."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_everything_public_has_a_docstring(path):
    assert ast.get_docstring(TREES[path]), f"{path} has no docstring"
    assert [name for name, node in public(TREES[path]) if not ast.get_docstring(node)] == []


# Statements count, not lines: a blank line, a comment or an argument a line costs nothing.
MOST_STATEMENTS = 30  # of a function
MOST_STATEMENTS_OF_THE_LOOP = 90  # which is one page, in the order in which things happen
MOST_LINES = 500  # of a file, without docstrings, comments and blank lines
LOOP = "training/loop.py:train_and_evaluate"


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of the lines that docstrings take."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            lines.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def code_lines(path: pathlib.Path) -> int:
    """How many lines of a file are neither docstring, nor comment, nor blank."""
    documentation = docstring_lines(TREES[path])
    count = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if text and not text.startswith("#") and number not in documentation:
            count += 1
    return count


def count_statements(function: ast.FunctionDef) -> int:
    """Statements of a function, those of the functions inside it included."""
    inside = sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1
    return inside - (ast.get_docstring(function) is not None)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_are_short_and_finished(path):
    text = path.read_text(encoding="utf-8")
    assert code_lines(path) <= MOST_LINES
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_functions_are_short(path):
    """Configs are data: one long table of fields is what they are for."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("configs/"):
        return
    counts = {
        f"{name}:{node.name}": count_statements(node)
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef)
    }
    assert counts.pop(LOOP, 0) <= MOST_STATEMENTS_OF_THE_LOOP
    assert {function: count for function, count in counts.items() if count > MOST_STATEMENTS} == {}


WIDTH = 100


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_lines_have_at_most_100_characters(path):
    """Code, docstrings and comments alike; ruff format takes care of the code alone."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, start=1) if len(line) > WIDTH] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_one_assignment_a_line(path):
    """`a, b = x, y` hides one of the two; a lambda with a name is a function without a text."""
    wrong = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Assign):
            is_pair = isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
            if is_pair or isinstance(node.value, ast.Lambda):
                wrong.append(node.lineno)
    assert wrong == []


LONG = 15  # lines of code from which on a function has steps


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_steps_of_a_long_function_are_apart(path):
    """A blank line between steps of thought; configs, and one long value, are a single step."""
    if path.relative_to(ROOT).parts[0] == "configs":
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    dense = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef) and len(node.body) > 1 + bool(ast.get_docstring(node)):
            first = node.body[1] if ast.get_docstring(node) else node.body[0]
            inside = [line.strip() for line in lines[first.lineno - 1 : node.end_lineno]]
            code = [line for line in inside if line and not line.startswith("#")]
            if len(code) >= LONG and "" not in inside:
                dense.append(node.name)
    assert dense == []


PROGRAMS = sorted([*(ROOT.parent / "benchmarks").glob("*.py"), *ROOT.parent.glob("*.py")])
ONLY_ON_POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios"}


@pytest.mark.parametrize("path", [*FILES, *PROGRAMS], ids=lambda path: path.stem)
def test_text_files_are_utf_8_whatever_the_system_prefers(path):
    """On Windows the default is another: a reader would fail, or take other letters."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
        is_text = name in ("read_text", "write_text") or (
            isinstance(node.func, ast.Name) and name == "open" and "b" not in "".join(modes)
        )
        # The package's own reader is UTF-8.
        is_own = isinstance(node.func, ast.Name) and name == "read_text"
        says_so = "utf-8" in ast.unparse(node)
        if is_text and not is_own and not says_so:
            wrong.append(node.lineno)
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_modules_that_windows_lacks_are_guarded(path):
    guarded = {
        id(node)
        for block in ast.walk(TREES[path])
        if isinstance(block, ast.Try)
        for node in ast.walk(block)
    }
    wrong = [
        node.lineno
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Import)
        and ONLY_ON_POSIX & {alias.name for alias in node.names}
        and id(node) not in guarded
    ]
    assert wrong == []

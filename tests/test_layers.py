"""The arrows of the architecture, read off the source: which room may import which, and which engine.

    cli -> reporting, evaluation -> conversion | training | scoring
        -> cohorts | store | model | losses | cluster -> the ground floor

An arrow may skip a level; rooms of one level never import one another. There are no exceptions: a file
that needs one belongs into another room.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpc_brainage

PACKAGE = Path(hpc_brainage.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
LONGEST_FILE = 500

GROUND = ("errors", "config", "provenance", "files", "scans", "modality", "numerals")
LEVELS = (
    GROUND,
    ("cohorts", "store", "model", "losses", "cluster"),
    ("conversion", "training", "scoring"),
    ("reporting", "evaluation"),
    ("cli",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# Where each outside engine may be imported: rooms and files.
ENGINES = {
    "zarr": ("store/",),
    "numcodecs": ("store/",),
    "xxhash": ("store/",),
    "google_crc32c": ("store/",),
    "fsspec": ("store/object_place.py",),
    "deflate": ("cohorts/",),
    "pyarrow": ("cohorts/",),
    "nibabel": ("cohorts/", "reporting/"),
    "nilearn": ("cohorts/", "reporting/"),
    "matplotlib": ("reporting/",),
    "jinja2": ("reporting/page.py",),
    "markdown_it": ("reporting/markdown.py",),
    "torch": ("model/", "losses/", "training/", "scoring/", "evaluation/", "cli/doctor.py"),
    "safetensors": ("model/", "training/checkpoint.py", "training/snapshot.py"),
    "sklearn": ("cohorts/", "evaluation/"),
    "deepspeed": ("training/engine.py", "training/distributed.py"),
    "submitit": ("cluster/",),
    "dask": ("scoring/crew.py", "scoring/local_crew.py"),
    "distributed": tuple(
        f"scoring/{name}.py" for name in ("crew", "local_crew", "slurm_crew", "dispatch", "part_work")
    ),
    "dask_jobqueue": ("scoring/slurm_crew.py",),
    "dask_cuda": ("scoring/local_crew.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
# Engines that take long to import, or that many users of a room never need: inside functions only.
INSIDE_FUNCTIONS = (
    "nibabel",
    "nilearn",
    "sklearn",
    "deepspeed",
    "dask",
    "distributed",
    "dask_jobqueue",
    "dask_cuda",
    "submitit",
    "matplotlib",
    "jinja2",
    "markdown_it",
    "fsspec",
)
NOT_FOR_HELP = (
    "torch",
    "deepspeed",
    "dask",
    "distributed",
    "zarr",
    "nibabel",
    "nilearn",
    "sklearn",
    "pandas",
    "numpy",
)
UNPICKLERS = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, those inside functions too, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: an import says its room, it is not relative"
            if node.module == "hpc_brainage":
                yield from ((f"hpc_brainage.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield str(node.module), node.lineno


def imports_at_the_top(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """What is imported as soon as the file is; what stands under TYPE_CHECKING never is."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield from imports(node)


def room_of(file: str) -> str:
    return file.removesuffix(".py").split("/")[0]


def wrong_arrows(file: str, source: str) -> list[str]:
    """Imports of `file` that go up or sideways."""
    room, wrong = room_of(file), []
    for module, line in imports(ast.parse(source)):
        first, *rest = module.split(".")
        if first != "hpc_brainage" or not rest or rest[0] == room:
            continue
        if LEVEL_OF[rest[0]] >= LEVEL_OF[room] and not {room, rest[0]} <= set(GROUND):
            wrong.append(f"{file}:{line}: {room} imports {rest[0]}")
    return wrong


def misplaced_engines(file: str, source: str) -> list[str]:
    """Engines that `file` imports and that live elsewhere."""
    return [
        f"{file}:{line}: {module} lives in {' and '.join(ENGINES[engine])}"
        for module, line in imports(ast.parse(source))
        if (engine := module.split(".")[0]) in ENGINES and not file.startswith(ENGINES[engine])
    ]


def early_engines(file: str, source: str) -> list[str]:
    """Engines that are imported as soon as `file` is."""
    return [
        f"{file}:{line}: imports {module} at the top"
        for module, line in imports_at_the_top(ast.parse(source))
        if module.split(".")[0] in INSIDE_FUNCTIONS
    ]


def dangers(file: str, source: str) -> list[str]:
    """Ways in which a stranger's file, or a text, could run as a program."""
    tree = ast.parse(source)
    found = [
        f"{file}:{line}: imports {module}"
        for module, line in imports(tree)
        if module.split(".")[0] in UNPICKLERS
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.split(".")[-1]
        said = {word.arg: ast.unparse(word.value) for word in node.keywords}
        a_frame_s_eval = file == "scans.py" and called == "scans.eval"
        if (
            called in ("eval", "exec", "compile", "__import__", "torch.load", "os.system", "pd.eval")
            or last in ("import_module", "read_pickle", "to_pickle")
            or (last in ("eval", "query") and node.args and not a_frame_s_eval)
            or said.get("allow_pickle", "False") != "False"
            or (called == "np.load" and "allow_pickle" not in said)
            or said.get("shell", "False") != "False"
        ):
            found.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
    return found


def source_of(file: str) -> str:
    return (PACKAGE / file).read_text(encoding="utf-8")


def test_every_file_belongs_to_a_room_of_the_architecture() -> None:
    assert {room_of(file) for file in FILES} - {"__init__"} <= set(LEVEL_OF)
    assert len(FILES) > 50


def test_imports_point_down() -> None:
    rooms = [file for file in FILES if file != "__init__.py"]
    assert [wrong for file in rooms for wrong in wrong_arrows(file, source_of(file))] == []


def test_an_engine_lives_in_its_room() -> None:
    assert [wrong for file in FILES for wrong in misplaced_engines(file, source_of(file))] == []


def test_heavy_engines_are_imported_where_they_are_used() -> None:
    assert [wrong for file in FILES for wrong in early_engines(file, source_of(file))] == []


def test_nothing_unpickles_or_runs_a_text() -> None:
    assert [danger for file in FILES for danger in dangers(file, source_of(file))] == []


def test_no_file_is_long_enough_for_two() -> None:
    lengths = {file: len(source_of(file).splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def test_asking_for_help_imports_no_engine() -> None:
    program = "import json, sys, hpc_brainage.cli.main; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert loaded & set(NOT_FOR_HELP) == set()


def test_a_store_on_a_disk_needs_no_client_of_object_storage() -> None:
    program = (
        "import json, sys, hpc_brainage.store.reader, hpc_brainage.conversion.append\n"
        "from hpc_brainage.store.place import place_at; place_at('a.zarr')\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "hpc_brainage.store.object_place" not in loaded
    assert {name.split(".")[0] for name in loaded} & {"s3fs", "aiobotocore", "botocore"} == set()


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cohorts/x.py", "from hpc_brainage.store.reader import Store"),
        ("store/x.py", "import hpc_brainage.cohorts.cohort"),
        ("training/x.py", "def f():\n    from hpc_brainage.scoring.bias import fit"),
        ("conversion/x.py", "from hpc_brainage import training"),
        ("model/x.py", "from hpc_brainage.losses.kl import kl_loss"),
        ("scoring/x.py", "from hpc_brainage.evaluation.metrics import mae"),
        ("evaluation/x.py", "from hpc_brainage.cli.screen import say"),
        ("files.py", "if TYPE_CHECKING:\n    from hpc_brainage.model.bundle import Bundle"),
    ],
)
def test_an_arrow_that_points_up_or_sideways_is_seen(file: str, source: str) -> None:
    assert len(wrong_arrows(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cli/x.py", "from hpc_brainage.store.reader import Store"),
        ("evaluation/x.py", "from hpc_brainage.training.run import FinishedRun"),
        ("scoring/x.py", "from hpc_brainage.scoring import bias"),
        ("files.py", "from hpc_brainage.errors import BrainAgeError"),
    ],
)
def test_an_arrow_that_points_down_is_let_be(file: str, source: str) -> None:
    assert wrong_arrows(file, source) == []


def test_an_engine_in_a_foreign_room_is_seen() -> None:
    assert misplaced_engines("training/x.py", "def f():\n    import zarr.storage")
    assert misplaced_engines("training/loop.py", "import deepspeed")
    assert misplaced_engines("store/place.py", "def f():\n    from fsspec.core import url_to_fs")
    assert not misplaced_engines("training/engine.py", "import deepspeed")


def test_an_early_import_is_seen() -> None:
    assert early_engines("cohorts/x.py", "try:\n    import nilearn\nexcept ImportError:\n    pass")
    assert not early_engines("cohorts/x.py", "def f():\n    import nilearn")
    assert not early_engines("cohorts/x.py", "if TYPE_CHECKING:\n    import nilearn")


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trust)",
        "np.load(path)",
        "torch.load(path)",
        "eval(text)",
        "exec(text)",
        "pd.read_pickle(path)",
        "frame.query(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_a_way_to_run_a_stranger_s_file_is_seen(source: str) -> None:
    assert dangers("store/x.py", source)


def test_ordinary_calls_are_let_be() -> None:
    assert not dangers(
        "store/x.py", "np.load(path, allow_pickle=False)\nmember.eval()\nast.literal_eval(t)"
    )

"""Imports go downwards only: a lower floor never knows a higher one (see CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

FLOORS = [
    {"version", "errors", "page"},
    {"files", "index", "table", "sigma"},
    {"acquisition"},
    {"metric"},
    {"scan", "maps"},
    {"masking", "preprocess"},
    {"io"},
    {"physics"},
    {"models"},
    {"fitting"},
    {"brain", "signals"},
    {"weights"},
    {"codebooks", "rish"},
    {"tracts", "training"},
    {"pretrain", "prior"},
    {"report"},
    {"cohort"},
    {"terminal"},
    {"arguments", "cli_cohort_labels", "cli_cohort_said"},
    {"cli_anatomy", "cli_codebook", "cli_cohort", "cli_simulate", "cli_tracts", "cli_train"},
    {"cli_enhance", "cli_pigment", "cli_pretrain", "cli_train_rish"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
LIBRARY = ROOT / "DMRIMicroLib"
FILES = sorted(LIBRARY.rglob("*.py"))
NOT_OURS = {"slicer", "vtk", "qt", "ctk"}


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports, its own package's made absolute."""
    package = ["DMRIMicroLib", *file.relative_to(LIBRARY).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names |= {".".join([*stem, alias.name]) for alias in node.names}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(LIBRARY)))
def test_imports_go_down(file):
    home = file.relative_to(LIBRARY).parts[0].removesuffix(".py")
    assert home in LEVEL, f"{home} has no floor: give it one in test_floors.py"
    for name in imported(file):
        parts = name.split(".")
        assert parts[0] not in NOT_OURS, f"{file.name} imports {name}: the library knows no Slicer"
        if parts[0] == "DMRIMicroLib" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != home:
            assert LEVEL[parts[1]] < LEVEL[home], f"{home} imports {name}, which is not below it"


def test_relative_imports_are_seen():
    assert "DMRIMicroLib.cli.run" in imported(LIBRARY / "__main__.py")
    assert "DMRIMicroLib.acquisition.Acquisition" in imported(LIBRARY / "models" / "dti.py")


def test_modules_stay_small():
    long = {
        f.name: n for f in FILES if (n := len(f.read_text(encoding="utf-8").splitlines())) > 350
    }
    assert not long

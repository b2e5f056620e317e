"""The extension configures, and what it installs is what the source holds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = "lib/Slicer-5.12/qt-scripted-modules"

# Stands for Slicer's build tree: its two macros reduced to where files go.
SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/Use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Empty.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Empty.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
"""
USE_FILE = """
function(ctkMacroCompilePythonScript)
  set(one "TARGET_NAME;DESTINATION_DIR;INSTALL_DIR")
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR" "${one}" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file} OR file MATCHES "^\\\\.\\\\.|^/")
      message(FATAL_ERROR "not a file below the current folder: ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${MY_INSTALL_DIR}/${folder})
  endforeach()
endfunction()
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  ctkMacroCompilePythonScript(TARGET_NAME ${MY_NAME} SCRIPTS ${MY_SCRIPTS} RESOURCES ${MY_RESOURCES}
    DESTINATION_DIR ${CMAKE_BINARY_DIR} INSTALL_DIR ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR})
endfunction()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    cmake = shutil.which("cmake") or pytest.skip("cmake is not installed")
    base = tmp_path_factory.mktemp("cmake")
    for name, text in {
        "SlicerConfig.cmake": SLICER_CONFIG,
        "Use.cmake": USE_FILE,
        "Empty.cmake": "",
    }.items():
        (base / name).write_text(text)
    for command in (
        [
            cmake,
            "-S",
            ROOT,
            "-B",
            base / "build",
            f"-DSlicer_DIR={base}",
            f"-DCMAKE_INSTALL_PREFIX={base / 'to'}",
        ],
        [cmake, "--install", base / "build"],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    return base / "to" / MODULES


def files_below(folder: Path) -> set[str]:
    return {
        str(f.relative_to(folder))
        for f in folder.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }


def test_installed_set_is_the_source_set(installed):
    module = files_below(ROOT / "DMRIMicro") - {"CMakeLists.txt"}
    library = {f"DMRIMicroLib/{name}" for name in files_below(ROOT / "DMRIMicroLib")}
    assert files_below(installed) == module | library


def test_installed_files_work_on_their_own(installed):
    code = (
        "import DMRIMicroLib, DMRIMicroSlicer.library as lib, DMRIMicroLib.acquisition;"
        "print(DMRIMicroLib.__file__, lib.library_parent())"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"],
        capture_output=True, text=True, cwd=installed.parent, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "DMRIMicroLib" / "__init__.py"), str(installed)]


def test_metadata_agree():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    meta = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"\n]*)"\)', cmake))
    entry = json.loads((ROOT / "DMRIMicro.json").read_text())
    lines = [line.partition(" ") for line in (ROOT / "DMRIMicro.s4ext").read_text().splitlines()]
    s4ext = {key: value for key, _, value in lines if key != "#"}
    assert meta["CATEGORY"] == entry["category"] == s4ext["category"] == "Diffusion"
    assert meta["DESCRIPTION"] == s4ext["description"]
    assert meta["CONTRIBUTORS"] == s4ext["contributors"]
    assert meta["HOMEPAGE"] == s4ext["homepage"]
    assert entry["scm_url"] == s4ext["scmurl"]
    assert entry["$schema"].endswith("v1.0.2.json#")
    # the schema allows no others
    allowed = "$schema build_dependencies build_subdirectory category enabled scm_revision scm_type"
    assert set(entry) <= {*allowed.split(), "scm_url", "tier"}

"""Malformed inputs, security probes and the single cases of a review, each held by tests, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from tests.unit import test_damaged_models
from tests.unit.data import test_fuzz

UNIT = Path(__file__).resolve().parents[1] / "unit"


@dataclass(frozen=True, slots=True)
class Section:
    """Tests of one kind of fault: files below ``tests/unit`` with patterns of tests in them; what each test tries."""

    kind: str
    places: tuple[str, ...]
    each: int = 1


SECTIONS: Mapping[str, Section] = {
    "files of data": Section("malformed input", ("data/test_fuzz.py::*",), each=test_fuzz.MUTATIONS),
    "files of models and runs": Section(
        "malformed input", ("test_damaged_models.py::*",), each=test_damaged_models.MUTATIONS
    ),
    "images, 60 of each format": Section("malformed input", ("test_images.py::*damaged_files*",), each=420),
    "A1 a folder in use": Section(
        "review's case",
        (
            "test_files.py::*claim*",
            "test_files.py::*owner*",
            "training/test_fit.py::*",
            "commands/test_sweep.py::*second_sweep*",
        ),
    ),
    "A2 what is typed": Section(
        "review's case", tuple(f"test_config.py::*{name}*" for name in ("typed", "core_schema", "taken_for_what"))
    ),
    "A3 an index while it is saved": Section("review's case", ("search/test_index_files.py::*",)),
    "A6 kept files": Section(
        "review's case",
        (
            "test_files.py::*kept*",
            "test_files.py::*drafts_of_the_dead*",
            "data/sentences/test_tokens.py::*damaged*",
            "data/shards/test_tars.py::*damaged_index*",
            "evaluation/test_result_cache.py::*",
            "test_run_folder.py::*not_lost*",
        ),
    ),
    "A9 preparing data": Section("review's case", ("commands/test_prepare.py::*kill*",)),
    "code in files of models": Section(
        "security probe",
        (
            "models/test_image_tower.py::*pickle*",
            "models/test_checkpoint.py::*pickle*",
            "models/test_checkpoint.py::*code*",
            "models/test_checkpoint.py::*files_of_this_machine*",
            "models/test_checkpoint.py::*tags_are_no_paths*",
            "encoders/test_open_clip_encoder.py::*code*",
            "encoders/test_sentence_transformers_folder.py::*closed_list*",
            "encoders/test_library_models.py::*code_of_a_model*",
            "test_manifest.py::*not_imported*",
        ),
    ),
    "programs that images start": Section("security probe", ("test_images.py::*program*",)),
    "files outside a folder": Section(
        "security probe",
        (
            "commands/test_prepare.py::*unpack*",
            "search/test_engine.py::*elsewhere*",
            "search/test_server.py::*links_out*",
            "search/test_server.py::*nothing_but_the_index*",
        ),
    ),
    "sizes that lie": Section(
        "security probe",
        (
            "test_images.py::*pixels_are_counted*",
            "test_reading.py::*before_it_is_unpacked*",
            "evaluation/test_result_cache.py::*unpacks_to_too_much*",
            "text/test_word_vectors.py::*header_is_held*",
            "data/images/test_features.py::*header_is_held*",
            "data/shards/test_tars.py::*before_it_is*",
            "data/shards/test_tars.py::*many_megabytes*",
        ),
    ),
    "names shown to people": Section(
        "security probe",
        (
            "report/test_markdown.py::*name*",
            "report/test_markdown.py::*code*",
            "report/test_latex.py::*hostile*",
            "report/test_model_card.py::*names*",
            "report/test_evaluation_html.py::*hostile*",
            "search/test_server.py::*escaped*",
            "commands/test_evaluate.py::*steers_no_terminal*",
        ),
    ),
    "requests to the search page": Section(
        "security probe",
        tuple(
            f"search/test_server.py::*{name}*" for name in ("names", "sites", "upload", "headers", "host", "decoded")
        ),
    ),
}


class _Counted:
    """Of the tests that pytest runs, how many passed, by section; a test counts in the first that names it."""

    def __init__(self) -> None:
        self.tried, self.held = dict.fromkeys(SECTIONS, 0), dict.fromkeys(SECTIONS, 0)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for name, section in SECTIONS.items():  # a place without tests, which were renamed perhaps, is one that fails
            self.tried[name] += sum(not any(_is_at(item.nodeid, place) for item in items) for place in section.places)
        items[:] = [item for item in items if _section(item.nodeid)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        section = _section(report.nodeid)
        if section and (report.when == "call" or report.failed):
            self.tried[section] += SECTIONS[section].each
            self.held[section] += SECTIONS[section].each * report.passed


def run_cases() -> list[tuple[str, str, int, int]]:
    """Runs the tests: kind, section, how many were tried and held; a place without tests is one that did not hold."""
    counted = _Counted()
    files = {str(UNIT / place.partition("::")[0]) for section in SECTIONS.values() for place in section.places}
    pytest.main(["-q", "-p", "no:cacheprovider", *sorted(files)], plugins=[counted])
    return [(one.kind, name, counted.tried[name], counted.held[name]) for name, one in SECTIONS.items()]


def _section(node: str) -> str | None:
    return next((name for name, one in SECTIONS.items() if any(_is_at(node, place) for place in one.places)), None)


def _is_at(node: str, place: str) -> bool:
    path, _, test = node.partition("::")
    file, _, pattern = place.partition("::")
    return path.endswith(f"unit/{file}") and fnmatch(test, pattern)

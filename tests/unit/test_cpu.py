"""bfloat16 on processors that announce more than they can do."""

from __future__ import annotations

import os

import pytest

from mcse import cpu as processor


@pytest.fixture
def survives(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Answers that the attempts give, in turn."""
    answers: list[bool] = []
    monkeypatch.setattr(processor, "_survives_bfloat16", lambda: answers.pop(0))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "given")
    processor.ensure_bfloat16.cache_clear()
    return answers


def test_nothing_is_changed_where_products_work(survives: list[bool]) -> None:
    survives[:] = [True]
    processor.ensure_bfloat16()
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "given"


def test_amx_is_left_out_where_it_kills(survives: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    survives[:] = [False, True]
    processor.ensure_bfloat16()
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_BF16"
    assert "cannot run it" in caplog.text


def test_it_is_said_when_it_is_too_late(survives: list[bool]) -> None:
    survives[:] = [False, False]
    with pytest.raises(ValueError, match="ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"):
        processor.ensure_bfloat16()

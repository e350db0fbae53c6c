"""``metrics.jsonl`` as a resumed run finds it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mcse.training.journal import Journal


@pytest.mark.parametrize("damage", ['{"step": 3, "lo', "5", "[]", "{}", '{"step": "3"}', "\0" * 40, "[" * 100_000])
def test_entries_after_the_state_and_damaged_ones_are_dropped(tmp_path, damage):
    entries = [json.dumps({"step": step, "loss": 1.0 / step}) for step in (1, 2, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*entries[:2], damage, entries[2]]) + "\n")
    runtime = SimpleNamespace(rank=0, accelerator=SimpleNamespace(log_with=[]))
    Journal(tmp_path, runtime, name="run", config={}).forget_after(2)
    assert (tmp_path / "metrics.jsonl").read_text() == "\n".join(entries[:2]) + "\n"

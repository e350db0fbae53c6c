"""Which errors are about another process, and what is said then; real processes are in tests/processes."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from mcse.distributed import LostProcessError, naming_lost_processes

CLOSED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:33713\nframe #0"
)
LATE = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 9000ms for recv operation"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError(CLOSED),
            "process 1 of 2 stops, since another one has ended, and its own last lines may say why: ",
        ),
        (RuntimeError(LATE), "process 1 of 2 stops, since another one did not answer in time: "),
        (dist.DistStoreError("Timed out after 31 seconds"), "process 1 of 2 stops, since another one did not answer"),
        (dist.DistBackendError("NCCL error in: x"), "process 1 of 2 stops, since an exchange with the others failed: "),
    ],
)
def test_an_exchange_that_fails_is_named_in_one_line(error, said, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LostProcessError) as caught, naming_lost_processes():
        raise error
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(str(error).splitlines()[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ["1", "2"])
def test_other_errors_pass_as_they_are(size, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(CLOSED), OSError(CLOSED)):
        with pytest.raises(type(error)) as caught, naming_lost_processes():
            raise error
        assert caught.value is error
    if size == "1":
        with pytest.raises(RuntimeError) as caught, naming_lost_processes():
            raise RuntimeError(CLOSED)
        assert not isinstance(caught.value, LostProcessError)

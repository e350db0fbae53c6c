"""A folder of ``mcse export`` as an encoder: its graph run by onnxruntime or OpenVINO, its tokenizer beside that.

B sentences of one batch, T tokens, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from mcse.encoders.base import BaseEncoder
from mcse.encoders.inputs import Precision
from mcse.errors import said
from mcse.manifest import Located, Reading, Runtime, check_files
from mcse.models.text_loading import load_tokenizer
from mcse.reading import read_json
from mcse.text.vocab import Vocab
from mcse.text.word_tokenizer import Marks, WordTokenizer
from mcse.types import FloatArray, TokenBatch, Tokenizer

FACTS, VOCAB = "export.json", "vocab.json"
GRAPHS: Mapping[Runtime, str] = {"onnx": "model.onnx", "openvino": "model.xml"}
"""The file of text that each runtime's export has; OpenVINO reads ONNX as well."""

ROWS, CAPTIONS = "embeddings", "captions"
"""Outputs of the graph: rows of ``encode``, and of a model of images sentences in the space shared with them."""

Arrays = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[Arrays, str], np.ndarray[Any, Any]]
"""One output, by its name, of arrays by the names of the inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """``export.json``, as far as an encoder reads it.

    Attributes:
        to: What it was written for.
        precision: Of the weights: ``fp32``, ``fp16`` or ``int8``.
        pooling: Which vector stands for a sentence.
        dim: D.
        prompt: Put before every sentence.
        max_length: Longest input in tokens.
        pad_id: Fills shorter sentences up.
        marks: Of a vocabulary's words; ``None`` where the tokenizer makes pieces.
        caption_dim: Width of the space shared with images; ``None`` of a model of text alone.
        caption_output: The output that stands there.
    """

    to: Runtime
    precision: Literal["fp32", "fp16", "int8"]
    pooling: str
    dim: int
    prompt: str = ""
    max_length: int | None = None
    pad_id: int = 0
    marks: Marks | None = None
    caption_dim: int | None = None
    caption_output: str = CAPTIONS


class ExportedEncoder(BaseEncoder[list[int]]):
    """Sentences to embeddings by a graph that ``mcse export`` wrote, on the CPU.

    The graph itself brings embeddings to unit norm, so that ``normalize=False`` gives the same. As many threads work as
    PyTorch has.

    Args:
        run: The graph.
        tokenizer: The one that it was exported with.
        facts: What the export says of itself.
        name: As for every encoder.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer, facts: ExportFacts, *, name: str = "") -> None:
        super().__init__(name=name, longest=facts.max_length)
        self._run, self._tokenizer, self.facts = run, tokenizer, facts
        self.pooling, self.prompt = facts.pooling, facts.prompt

    @classmethod
    def _load(cls, located: Located, *, pooling: str | None, precision: Precision) -> Self:
        folder = located.expect("exported").folder
        facts = read_facts(folder)
        if pooling not in (None, facts.pooling):
            raise ValueError(
                f"{located.name}: pooling {pooling!r} is not available; it was exported with {facts.pooling}"
            )
        if precision != "float32":
            raise ValueError(f"{located.name}: an exported graph has its own precision, {facts.precision}")
        runtime = located.reading.backend or facts.to
        if runtime == "torch":
            raise ValueError(
                f"{located.name} holds a graph for {facts.to}; name the run it was exported from for torch"
            )
        if facts.to == "openvino" and runtime == "onnx":
            raise ValueError(f"{located.name} was exported for OpenVINO, which onnxruntime cannot read")
        check_files(folder)
        tokenizer: Tokenizer
        if facts.marks is None:
            tokenizer = load_tokenizer(str(folder))
        else:
            tokenizer = WordTokenizer(Vocab.load(folder / VOCAB), facts.marks)
        return cls(open_graph(folder / GRAPHS[facts.to], runtime), tokenizer, facts, name=located.name)

    def _take(self, reading: Reading) -> None:
        if reading.prompt not in (None, self.prompt) or reading.prompt_name is not None:
            raise ValueError(
                f"{self._title()} was exported with the prompt {self.prompt!r}; export it with another one"
            )
        if reading.trust_remote_code:
            raise ValueError(f"{self._title()}: --trust-remote-code is for models with code; a graph has none")

    @property
    def dimension(self) -> int:
        """D, the width of the embeddings of ``encode``."""
        return self.facts.dim

    def encode_captions(self, sentences: str | Sequence[str], *, batch_size: int = 64) -> FloatArray:
        """(N, H) float32 unit embeddings of sentences in the space shared with images.

        Raises:
            ValueError: The model was none of images, or an item is not a string.
        """
        if self.facts.caption_dim is None:
            raise ValueError(f"{self._title()} was exported without a space that sentences share with images")
        row_NH: FloatArray = self._embed(
            sentences,
            lambda tokens: self._rows(tokens, self.facts.caption_output),
            width=self.facts.caption_dim,
            batch_size=batch_size,
            max_length=self.max_length,
            precision=self.precision,
            normalize=False,  # the graph does it
        ).numpy()
        return row_NH

    def _modules(self) -> list[nn.Module]:
        return []

    def _tokenize(self, texts: Sequence[str], *, max_length: int | None) -> list[list[int]]:
        """Nothing of a text without a known word, whose embedding is zeros."""
        ids = self._tokenizer.ids(texts, max_length=max_length)
        return [row if self._tokenizer.knows_some(text) else [] for text, row in zip(texts, ids, strict=True)]

    def _forward(self, tokens: Sequence[list[int]]) -> Tensor:
        return self._rows(tokens, ROWS)

    def _rows(self, tokens: Sequence[list[int]], output: str) -> Tensor:
        batch = TokenBatch.padded(tokens, pad_id=self.facts.pad_id)
        arrays = {"input_ids": batch.input_ids_BT.numpy(), "attention_mask": batch.attention_mask_BT.numpy()}
        return torch.from_numpy(self._run(arrays, output))


def read_facts(folder: Path) -> ExportFacts:
    """What an export says of itself.

    Raises:
        ValueError: The folder holds no export, or a damaged ``export.json``.
    """
    if not (folder / FACTS).is_file():
        raise ValueError(f"{folder} holds no exported graph: there is no {FACTS} in it")
    return read_json(folder / FACTS, ExportFacts)


def open_graph(path: Path, runtime: Runtime) -> Run:
    """A graph, ready to run on the CPU with as many threads as PyTorch has.

    Raises:
        ValueError: The library is not installed, or it cannot read the file.
    """
    try:
        return _by_openvino(path) if runtime == "openvino" else _by_onnxruntime(path)
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} needs {error.name}: pip install 'mcse[{runtime}]'") from None
    except Exception as error:  # both libraries raise errors of their own
        raise ValueError(f"{path}: {runtime} cannot read it: {said(error)}") from None


def _by_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(arrays: Arrays, output: str) -> np.ndarray[Any, Any]:
        [found] = session.run([output], dict(arrays))
        return np.asarray(found)

    return run


def _by_openvino(path: Path) -> Run:
    import openvino

    core = openvino.Core()
    # Without the hint it may compute in bfloat16 where the processor has it.
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()

    def run(arrays: Arrays, output: str) -> np.ndarray[Any, Any]:
        return np.array(request.infer(dict(arrays))[output])  # a copy: the next call writes into the same memory

    return run

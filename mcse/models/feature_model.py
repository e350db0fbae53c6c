"""A tagger and a sentence classifier on frozen word features: what a task trains beside ELMo or CoVe.

B sentences, T words, E static width, L layers of D, H width of one direction, K tags or classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mcse.manifest import check_files, read_detail, read_manifest
from mcse.models.weights import load_weights
from mcse.nn.crf import LinearChainCRF
from mcse.nn.ragged import pack_rows, unpack_rows
from mcse.nn.scalar_mix import ScalarMix
from mcse.text.tags import TagSet
from mcse.types import FeatureBatch

Join: TypeAlias = Literal["input", "output", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSizes:
    """What the features are, and where the contextual ones enter.

    ``static_dim`` or ``layers`` is 0 where there are none. ``join``: contextual vectors beside the static ones before
    the task's own LSTM, beside its outputs, or both, each with a mixture of its own.
    """

    static_dim: int
    layers: int
    layer_dim: int
    hidden_dim: int
    classes: int
    join: Join = "input"
    layer_norm: bool = False
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.static_dim == 0 and (self.layers == 0 or self.join == "output"):
            raise ValueError("features: nothing would enter the task's LSTM; give static vectors, or join the input")

    @property
    def joins_input(self) -> bool:
        """Whether contextual vectors enter the task's LSTM."""
        return self.layers > 0 and self.join in ("input", "both")

    @property
    def joins_output(self) -> bool:
        """Whether contextual vectors stand beside its outputs."""
        return self.layers > 0 and self.join in ("output", "both")


class FeatureReader(nn.Module):
    """A bidirectional LSTM over [static; mixture], its outputs beside another mixture.

    Source: Peters et al. 2018, section 3.3: [x_k; ELMo_k] at the input, [h_k; ELMo_k] at the output.
    """

    def __init__(self, sizes: FeatureSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.input_mix = ScalarMix(sizes.layers, layer_norm=sizes.layer_norm) if sizes.joins_input else None
        self.output_mix = ScalarMix(sizes.layers, layer_norm=sizes.layer_norm) if sizes.joins_output else None
        width = sizes.static_dim + (sizes.layer_dim if sizes.joins_input else 0)
        self.lstm = nn.LSTM(width, sizes.hidden_dim, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(sizes.dropout)

    @property
    def width(self) -> int:
        """Of the rows that come out."""
        return 2 * self.sizes.hidden_dim + (self.sizes.layer_dim if self.sizes.joins_output else 0)

    @property
    def mixes(self) -> dict[str, ScalarMix]:
        """The mixtures by where they join."""
        named = {"input": self.input_mix, "output": self.output_mix}
        return {name: mix for name, mix in named.items() if mix is not None}

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(B, T, width); of a word alone what its own sentence says."""
        parts = [batch.static_BTE] if batch.static_BTE is not None else []
        if self.input_mix is not None and batch.layer_LBTD is not None:
            parts.append(self.input_mix(batch.layer_LBTD.unbind(0), batch.mask_BT))
        input_BTD = self.dropout(torch.cat(parts, dim=-1))
        packed = pack_rows(input_BTD, batch.lengths())
        output_BTD = unpack_rows(self.lstm(packed)[0], width=input_BTD.shape[1])
        if self.output_mix is not None and batch.layer_LBTD is not None:
            mixed_BTD = self.output_mix(batch.layer_LBTD.unbind(0), batch.mask_BT)
            output_BTD = torch.cat([output_BTD, mixed_BTD], dim=-1)
        dropped: Tensor = self.dropout(output_BTD)
        return dropped


class FeatureTagger(nn.Module):
    """Tags by a conditional random field over the reader's rows.

    Args:
        sizes: ``classes`` is the number of tags.
        may_follow_KK: Which tag may follow which.
        may_start_K: Which tag may be first.
    """

    def __init__(self, sizes: FeatureSizes, *, may_follow_KK: Tensor, may_start_K: Tensor) -> None:
        super().__init__()
        self.reader = FeatureReader(sizes)
        self.emission = nn.Linear(self.reader.width, sizes.classes)
        self.crf = LinearChainCRF(may_follow_KK, may_start_K)

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(B,) negative log-likelihood of the tags, in nats."""
        return self.crf.nll(self.emission(self.reader(batch)), batch.label, batch.mask_BT)

    def predict(self, batch: FeatureBatch) -> Tensor:
        """(B, T) tags of the most probable sequences."""
        return self.crf.decode(self.emission(self.reader(batch)), batch.mask_BT)


class FeatureClassifier(nn.Module):
    """One class a sentence, from the mean and the maximum of the reader's rows over words.

    Args:
        sizes: ``classes`` is the number of classes.
    """

    def __init__(self, sizes: FeatureSizes) -> None:
        super().__init__()
        self.reader = FeatureReader(sizes)
        self.output = nn.Linear(2 * self.reader.width, sizes.classes)

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(B,) negative log-likelihood of the classes, in nats."""
        return nn.functional.cross_entropy(self.logits(batch).float(), batch.label, reduction="none")

    def predict(self, batch: FeatureBatch) -> Tensor:
        """(B,) most probable classes."""
        return self.logits(batch).argmax(dim=-1)

    def logits(self, batch: FeatureBatch) -> Tensor:
        """(B, K)."""
        row_BTD, mask_BT1 = self.reader(batch), batch.mask_BT.unsqueeze(-1)
        mean_BD = (row_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
        top_BD = row_BTD.masked_fill(~mask_BT1, -torch.inf).amax(dim=1)
        logit: Tensor = self.output(torch.cat([mean_BD, top_BD], dim=-1))
        return logit


def load_feature_model(folder: str | Path) -> FeatureTagger | FeatureClassifier:
    """The model of a checkpoint folder of the recipe ``word_features``, in evaluation mode.

    Raises:
        ValueError: A file is missing or damaged.
    """
    path = Path(folder)
    manifest = read_manifest(path, "word_features")
    check_files(path)
    sizes = read_detail(path, manifest, "sizes", FeatureSizes)
    is_tagger = manifest.details.get("types") is not None
    types = read_detail(path, manifest, "types", list[str]) if is_tagger else None
    try:
        model: FeatureTagger | FeatureClassifier = FeatureClassifier(sizes)
        if types is not None:
            tags = TagSet(tuple(types))
            follow, start = torch.from_numpy(tags.may_follow()), torch.from_numpy(tags.may_start())
            model = FeatureTagger(sizes, may_follow_KK=follow, may_start_K=start)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: does not say how a model on word features is built: {error}") from None
    load_weights(model, path / "model.safetensors", title="a model on word features of these sizes")
    return model.eval()

"""An LSTM whose recurrence runs through a projection, with clipped cells and a state that is carried on.

B sequences, T tokens, D input width, H cell width, P projected width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LSTMState:
    """Where sequences stand: projected outputs and cells."""

    hidden_BP: Tensor
    cell_BH: Tensor

    def detach(self) -> LSTMState:
        """The same numbers without their history."""
        return LSTMState(self.hidden_BP.detach(), self.cell_BH.detach())


class ProjectedLSTM(nn.Module):
    """One layer, one direction.

    c_t = clip(σ(f + 1) · c_{t-1} + σ(i) · tanh(g)) and h_t = clip(W_p (σ(o) · tanh(c_t))), where i, g, f, o are linear
    in x_t and h_{t-1}. The gates are in the order i, g, f, o of the released weights; PyTorch's is i, f, g, o.

    Args:
        in_dim: D.
        cell_dim: H.
        out_dim: P.
        cell_clip: Bound of the cell's absolute value; ``None`` for none.
        projection_clip: Bound of the projection's absolute value; ``None`` for none.

    Source: Sak et al. 2014; clipping as in the implementation that trained ELMo.
    """

    def __init__(
        self,
        in_dim: int,
        cell_dim: int,
        out_dim: int,
        *,
        cell_clip: float | None = None,
        projection_clip: float | None = None,
    ) -> None:
        super().__init__()
        self.cell_dim, self.out_dim = cell_dim, out_dim
        self.cell_clip, self.projection_clip = cell_clip, projection_clip
        self.input = nn.Linear(in_dim, 4 * cell_dim)
        self.recurrent = nn.Linear(out_dim, 4 * cell_dim, bias=False)
        self.projection = nn.Linear(cell_dim, out_dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot's uniform values; biases zero, to which the forget gate adds 1."""
        for linear in (self.input, self.recurrent, self.projection):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.input.bias)

    def start(self, like_BTD: Tensor) -> LSTMState:
        """Zeros, for sequences that begin."""
        batch = len(like_BTD)
        return LSTMState(like_BTD.new_zeros(batch, self.out_dim), like_BTD.new_zeros(batch, self.cell_dim))

    def forward(
        self,
        input_BTD: Tensor,
        mask_BT: Tensor | None = None,
        state: LSTMState | None = None,
        *,
        fresh_BT: Tensor | None = None,
    ) -> tuple[Tensor, LSTMState]:
        """(B, T, P) outputs and the state after each sequence's last token.

        Args:
            input_BTD: What comes in, in reading order.
            mask_BT: 1 on real tokens. Where it is 0 the state stays and the output is 0.
            state: Where the sequences stand; zeros by default.
            fresh_BT: True on tokens before which the state is set to zero; none by default.
        """
        state = self.start(input_BTD) if state is None else state
        hidden_BP, cell_BH = state.hidden_BP, state.cell_BH
        # One product for all tokens; only the recurrent half must wait for its turn.
        fed_BT4H = self.input(input_BTD)
        keep_TB1 = None if mask_BT is None or bool(mask_BT.all()) else mask_BT.bool().T.unsqueeze(-1)
        carry_TB1 = None if fresh_BT is None else (~fresh_BT).to(fed_BT4H).T.unsqueeze(-1)
        outputs = []
        for step, fed_B4H in enumerate(fed_BT4H.unbind(dim=1)):
            if carry_TB1 is not None:
                hidden_BP, cell_BH = hidden_BP * carry_TB1[step], cell_BH * carry_TB1[step]
            new_BP, new_BH = self._step(fed_B4H, hidden_BP, cell_BH)
            if keep_TB1 is None:
                hidden_BP, cell_BH = new_BP, new_BH
                outputs.append(new_BP)
            else:
                keep_B1 = keep_TB1[step]
                hidden_BP, cell_BH = torch.where(keep_B1, new_BP, hidden_BP), torch.where(keep_B1, new_BH, cell_BH)
                outputs.append(new_BP * keep_B1)
        return torch.stack(outputs, dim=1), LSTMState(hidden_BP, cell_BH)

    def _step(self, fed_B4H: Tensor, hidden_BP: Tensor, cell_BH: Tensor) -> tuple[Tensor, Tensor]:
        i_BH, g_BH, f_BH, o_BH = (fed_B4H + self.recurrent(hidden_BP)).chunk(4, dim=1)
        cell_BH = torch.sigmoid(f_BH + 1.0) * cell_BH + torch.sigmoid(i_BH) * torch.tanh(g_BH)
        if self.cell_clip is not None:
            cell_BH = cell_BH.clamp(-self.cell_clip, self.cell_clip)
        hidden_BP = self.projection(torch.sigmoid(o_BH) * torch.tanh(cell_BH))
        if self.projection_clip is not None:
            hidden_BP = hidden_BP.clamp(-self.projection_clip, self.projection_clip)
        return hidden_BP, cell_BH

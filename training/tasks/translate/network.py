"""An encoder and a decoder with attention between them, as one graph of one stream of characters.

    what is read … mark  what is written … end
    └── encoder ──┘└────────── decoder ──────┘

    read     h_t = GRU_e(e_t, h_{t−1}), and h_t is put into the memory m
    write    c_t = Σ_j p_j m_j,  p = softmax over j of m_j·(W h_{t−1}) / √H   (Luong et al., 2015)
             h_t = GRU_d([e_t, c_t], h_{t−1})                              (Bahdanau et al., 2015)
    say      logits = V tanh(U [h_t, c_t] + b)

The decoder starts from the encoder's last state, at the mark, and what it writes is fed back to it
like anything that is read: so writing needs no other graph, and may be streamed.

Rule 1: the memory holds the last M states of the encoder; older ones are overwritten.
Rule 2: behind an end everything is as at the start: one session may read text after text.
Rule 3: `teach` is the same arithmetic for whole pairs, many times faster; a test holds them equal.

Axis legend: B rows, T steps, H hidden, E embedding, M memory, V characters, S state size. State
`[B,S]`, in this order: h (H), memory (M·H), how many states were put into it, whether it writes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.cells.base import LOWEST, Translations
from training.cells.stepped import SteppedLayer
from training.tasks.base import StreamNetwork


class Marks(NamedTuple):
    """Tokens that say where a text stands: between what is read and what is written, and behind."""

    mark: int
    end: int


class TranslateNetwork(StreamNetwork):
    """`(tokens[B,T], length[B], state[B,S]) → (logits[B,T,V], state[B,S])`."""

    def __init__(
        self,
        num_characters: int,
        marks: Marks,
        embedding_size: int,
        hidden_size: int,
        memory_steps: int,
        dropout: float,
        *,
        attends: bool = True,
    ) -> None:
        """Without `attends` the context is 0: a plain encoder and decoder, to compare with."""
        super().__init__()
        self.marks = marks
        self.embedding = nn.Embedding(num_characters, embedding_size)
        self.layer = EncoderDecoder(embedding_size, hidden_size, memory_steps, attends=attends)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden_size, hidden_size),
            nn.Tanh(),
            nn.Linear(hidden_size, num_characters),
        )

    @property
    def state_size(self) -> int:
        return self.layer.state_size

    @property
    def translations(self) -> Translations:
        return {}

    def prepare_export(self) -> None:
        """Nothing: the graph holds the weights as they are."""

    def forward(self, tokens: Tensor, length: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        said = torch.stack([tokens == self.marks.mark, tokens == self.marks.end], dim=2)
        x = torch.cat([self.embedding(tokens), said.to(torch.float32)], dim=2)
        hidden, new_state = self.layer(x, length, state)
        return self.head(hidden), new_state

    def teach(self, source: Tensor, length: Tensor, read: Tensor) -> Tensor:
        """Logits `[B,T,V]` of a decoder that is given what it should have written.

        `source[B,S]` are at most M steps of `length[B]`, `read[B,T]` begins with the mark.
        """
        hidden = self.layer.teach(
            self.dropout(self.embedding(source)), length, self.dropout(self.embedding(read))
        )
        logits: Tensor = self.head(self.dropout(hidden))
        return logits


class EncoderDecoder(SteppedLayer):
    """`x[B,T,E+2]` (a character, is it the mark, is it the end) → `[h, c]`, `[B,T,2H]`."""

    slots: Tensor

    def __init__(
        self, embedding_size: int, hidden_size: int, memory_steps: int, *, attends: bool
    ) -> None:
        super().__init__(embedding_size + 2, hidden_size)
        self.embedding_size = embedding_size
        self.memory_steps = memory_steps
        self.attends = attends
        self.encoder = nn.GRU(embedding_size, hidden_size, batch_first=True)
        self.decoder_input = nn.Linear(embedding_size, 3 * hidden_size)
        self.decoder_context = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.decoder_hidden = nn.Linear(hidden_size, 3 * hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        _, encoder_hidden, _, _ = self.encoder.parameters()
        for weight in (encoder_hidden, self.decoder_hidden.weight):
            for gate in weight.chunk(3):
                nn.init.orthogonal_(gate.data)
        self.register_buffer("slots", torch.arange(memory_steps).float(), persistent=False)

    @property
    def state_size(self) -> int:
        return self.hidden_size * (1 + self.memory_steps) + 2

    def inputs(self, x: Tensor) -> Tensor:
        """What both of them make of the characters, `[B,T,6H+2]`."""
        embedded, said = torch.split(x, [self.embedding_size, 2], dim=2)
        weight, _, bias, _ = self.encoder.parameters()
        encoder = nn.functional.linear(embedded, weight, bias)
        return torch.cat([encoder, self.decoder_input(embedded), said], dim=2)

    def advance(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        size = self.hidden_size
        encoder, decoder, is_mark, is_end = torch.split(x, [3 * size, 3 * size, 1, 1], dim=1)
        h, kept, count, writes = torch.split(state, [size, self.memory_steps * size, 1, 1], dim=1)
        memory = kept.reshape(-1, self.memory_steps, size)
        writes = torch.maximum(writes, is_mark)

        _, weight, _, bias = self.encoder.parameters()
        h_read = gated(encoder, nn.functional.linear(h, weight, bias), h)
        context = self.context(h, memory, self.slots < count) * writes
        h_written = self.decode(decoder, context, h)
        h = torch.where(writes > 0, h_written, h_read)

        # Its slot is the count modulo M: the count goes back by M once it is beyond 2M.
        place = torch.where(count >= self.memory_steps, count - self.memory_steps, count)
        is_slot = ((self.slots == place) & (writes == 0)).unsqueeze(2)
        memory = torch.where(is_slot, h.unsqueeze(1), memory)
        count = count + 1 - writes
        count = torch.where(count >= 2 * self.memory_steps, count - self.memory_steps, count)

        y = torch.cat([h, context], dim=1)
        after = torch.cat([h, memory.flatten(1), count, writes], dim=1)
        return y, torch.where(is_end > 0, torch.zeros_like(after), after)

    def teach(self, source: Tensor, length: Tensor, read: Tensor) -> Tensor:
        """Embedded `source[B,S,E]`, `read[B,T,E]` → what `forward` gives at the steps of `read`."""
        memory, _ = self.encoder(source)  # of padding, too: less work than to leave it out
        known = torch.arange(source.shape[1], device=source.device) < length.unsqueeze(1)
        h, said = memory[torch.arange(len(source)), length - 1], []
        for decoder in self.decoder_input(read).unbind(1):
            context = self.context(h, memory, known)
            h = self.decode(decoder, context, h)
            said.append(torch.cat([h, context], dim=1))
        return torch.stack(said, dim=1)

    def context(self, h: Tensor, memory: Tensor, known: Tensor) -> Tensor:
        """`c[B,H]`; zeros where nothing is known, or nothing is attended to."""
        if not self.attends:
            return torch.zeros_like(h)
        scores_BM = (memory * self.query(h).unsqueeze(1)).sum(2) * self.hidden_size**-0.5
        scores_BM = torch.where(known, scores_BM, torch.full_like(scores_BM, LOWEST))
        shares_BM1 = torch.softmax(scores_BM, dim=1).unsqueeze(2)
        return (shares_BM1 * memory).sum(1)

    def decode(self, decoder: Tensor, context: Tensor, h: Tensor) -> Tensor:
        """One step of the decoder from what `decoder_input` made of its character."""
        return gated(decoder + self.decoder_context(context), self.decoder_hidden(h), h)


def gated(inputs_B3H: Tensor, hidden_B3H: Tensor, h: Tensor) -> Tensor:
    """The GRU's equation, as torch has it: gates r, z, n."""
    r_in, z_in, n_in = inputs_B3H.chunk(3, dim=1)
    r_h, z_h, n_h = hidden_B3H.chunk(3, dim=1)
    z = torch.sigmoid(z_in + z_h)
    n = torch.tanh(n_in + torch.sigmoid(r_in + r_h) * n_h)
    return (1 - z) * n + z * h

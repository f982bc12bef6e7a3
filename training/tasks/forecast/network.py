"""The forecaster: a recurrent summary of the past, and one look at each day ahead.

Axis legend: B rows, T steps, F columns, W window, K horizon, J past seasons, Q quantiles, S state.

Everything that a forecast needs is in here, and so in the graph: scaling, missing values, calendar.
State of a row: the last W targets, whether each was known, and the recurrent stack's own state.

Rule 1: step t reads rows up to t only, and only the calendar of what comes after.
Rule 2: location and scale are those of the last W known values. They are computed anew at every
        step from the window, so they neither drift nor depend on how the past was cut into calls.
Rule 3: a missing value enters as 0 beside a mask of 0; no NaN reaches the state.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.cells.base import RecurrentStack, Translations
from training.config import CellConfig
from training.tasks.base import StreamNetwork
from training.tasks.forecast.calendar import Calendar
from training.tasks.forecast.options import ForecastOptions
from training.tasks.forecast.quantiles import QuantileHead

_HORIZON_SIZE = 4
_SCALE_FLOOR = 0.02
"""Of the mean absolute value of the window: a flat series is not divided by zero."""
LEAST_SCALE = 1e-6
"""Of any window: one of zeros is not divided by zero."""


class ForecastNetwork(StreamNetwork):
    """`(x[B,T,F], time[B,T], length[B], state[B,S]) → (mean[B,T,K], quantiles[B,T,K,Q], state)`."""

    center: Tensor
    spread: Tensor
    lead_s: Tensor
    window_index: Tensor
    widening: Tensor

    def __init__(
        self, options: ForecastOptions, cell: CellConfig, center: Tensor, spread: Tensor
    ) -> None:
        """`center[F-1]` and `spread[F-1]` standardise the covariates (from training rows)."""
        super().__init__()
        self.options = options
        self.window = options.window
        self.calendar = Calendar(options.holidays, options.frequency_s)
        self.profile = SeasonalProfile(options, self.calendar.num_kinds)
        num_covariates = len(options.covariates)
        self.register_buffer("center", center)
        self.register_buffer("spread", spread)
        lead_s = torch.arange(1, options.horizon + 1) * options.frequency_s
        self.register_buffer("lead_s", lead_s, persistent=False)
        self.register_buffer("window_index", torch.arange(options.window), persistent=False)
        self.stack = RecurrentStack(cell, 6 + 2 * num_covariates + self.calendar.size)
        self.horizon = nn.Parameter(0.1 * torch.randn(options.horizon, _HORIZON_SIZE))
        self.from_past = nn.Linear(self.stack.output_size, options.decoder_size)
        self.from_target = nn.Linear(
            self.profile.size + self.calendar.size + _HORIZON_SIZE, options.decoder_size
        )
        self.hidden = nn.Linear(options.decoder_size, options.decoder_size)
        self.head = QuantileHead(options.decoder_size, options.quantiles)
        self.dropout = nn.Dropout(options.dropout)
        # Intervals come out too narrow on rows that were not trained on; see `fit_widening`.
        self.register_buffer("widening", torch.ones(()))

    @property
    def state_size(self) -> int:
        return 2 * self.window + self.stack.state_size

    def initial_state(self) -> Tensor:
        return torch.cat([torch.zeros(2 * self.window), self.stack.initial_state()])

    @property
    def translations(self) -> Translations:
        return self.stack.translations

    def prepare_export(self) -> None:
        self.stack.prepare_export()

    def forward(
        self, x: Tensor, time: Tensor, length: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, quantiles, location, scale, state = self.scaled(x, time, length, state)
        return (
            location + scale * mean,
            location.unsqueeze(-1) + scale.unsqueeze(-1) * quantiles,
            state,
        )

    def scaled(
        self, x: Tensor, time: Tensor, length: Tensor | None, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Forecasts in units of the causal scale, with location and scale `[B,T,1]`.

        Training minimises the error in these units; `length` None says that every row is full.
        """
        past, past_known, hidden = torch.split(
            state, [self.window, self.window, self.stack.state_size], dim=1
        )
        known = torch.isfinite(x)
        filled = torch.where(known, x, torch.zeros_like(x))
        past = torch.cat([past, filled[..., 0]], dim=1)
        past_known = torch.cat([past_known, known[..., 0].to(x.dtype)], dim=1)
        # Step t sees entries t+1 … t+W of the past with T new values behind it.
        seen = torch.arange(x.shape[1], device=x.device).unsqueeze(1) + self.window_index + 1
        values_BTW, known_BTW = past[:, seen], past_known[:, seen]

        count = known_BTW.sum(dim=-1, keepdim=True).clamp(min=1.0)
        location = (values_BTW * known_BTW).sum(dim=-1, keepdim=True) / count
        size = (values_BTW.abs() * known_BTW).sum(dim=-1, keepdim=True) / count
        deviation = ((values_BTW - location).abs() * known_BTW).sum(dim=-1, keepdim=True) / count
        scale = torch.maximum(deviation, _SCALE_FLOOR * size + LEAST_SCALE)
        z_BTW = (values_BTW - location) / scale * known_BTW

        ages = self.window - 1 - self.window_index
        kinds_BTW = self.calendar.kinds(time.unsqueeze(-1) - ages * self.options.frequency_s)
        own, profile = self.profile(z_BTW, known_BTW, kinds_BTW)

        covariates = functional.hardtanh((filled[..., 1:] - self.center) / self.spread, -6.0, 6.0)
        covariates_known = known[..., 1:].to(x.dtype)
        z = z_BTW[..., -1:]
        is_known = known_BTW[..., -1:]
        inputs = [
            torch.asinh(z),
            is_known,
            torch.asinh((z - own) * is_known),
            torch.log(scale / (size + scale)),
            count / self.window,
            own,
            covariates * covariates_known,
            covariates_known,
            self.calendar(time),
        ]
        past_BTH, hidden = self.stack(torch.cat(inputs, dim=-1), length, hidden)

        ahead = self.calendar(time.unsqueeze(-1) + self.lead_s)
        horizon = self.horizon.expand(*ahead.shape[:3], _HORIZON_SIZE)
        target = torch.cat([profile, ahead, horizon], dim=-1)
        decoded = self.from_past(self.dropout(past_BTH)).unsqueeze(2) + self.from_target(target)
        decoded = functional.gelu(decoded)
        decoded = decoded + functional.gelu(self.hidden(self.dropout(decoded)))
        mean, quantiles = self.head(decoded)
        middle = quantiles[..., self.head.middle : self.head.middle + 1]
        quantiles = middle + self.widening * (quantiles - middle)
        base = profile[..., 0]

        new_state = torch.cat(
            [self._last(past, length, x), self._last(past_known, length, x), hidden], dim=1
        )
        return mean + base, quantiles + base.unsqueeze(-1), location, scale, new_state

    def _last(self, past: Tensor, length: Tensor | None, x: Tensor) -> Tensor:
        """The W values up to each row's last valid step: a row of length 0 keeps what it had."""
        if length is None:
            return past[:, x.shape[1] :]
        index = length.unsqueeze(1) + self.window_index
        return torch.gather(past, 1, index)


class SeasonalProfile(nn.Module):
    """The level of each day ahead, from the same place in the J seasons before it.

    Recent seasons weigh more and holidays weigh little, by learned amounts. This replaces the plain
    seasonal-naive value, which repeats last week's holiday as if it were the rule.
    """

    own_index: Tensor
    ahead_index: Tensor

    def __init__(self, options: ForecastOptions, num_kinds: int) -> None:
        super().__init__()
        window, season = options.window, options.season
        num_seasons = window // season
        nearest = [season * math.ceil(h / season) - h for h in range(1, options.horizon + 1)]
        ages = torch.tensor(nearest).unsqueeze(1) + season * torch.arange(num_seasons)
        self.register_buffer("ahead_index", window - 1 - ages, persistent=False)
        own_ages = season * torch.arange(1, num_seasons)
        self.register_buffer("own_index", (window - 1 - own_ages).unsqueeze(0), persistent=False)
        self.recency = nn.Parameter(-0.3 * torch.arange(num_seasons, dtype=torch.float32))
        self.trust = nn.Embedding(num_kinds, 1)
        nn.init.constant_(self.trust.weight, -2.0)
        nn.init.zeros_(self.trust.weight[0])
        self.size = 5

    def forward(self, z: Tensor, known: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """The profile's value of the step itself `[B,T,1]` and features of the K ahead `[B,T,K,5]`.

        Feature 0 is the level; it is 0, the location, while no season has been seen.
        """
        weight_BTW = torch.exp(self.trust(kinds).squeeze(-1)) * known
        own, _, _ = self._level(z, weight_BTW, self.own_index, self.recency[:-1])
        level, total, spread = self._level(z, weight_BTW, self.ahead_index, self.recency)
        latest, latest_weight = (
            z[..., self.ahead_index[:, 0]],
            weight_BTW[..., self.ahead_index[:, 0]],
        )
        # What the latest season adds to the level counts only as far as that day is trusted.
        surprise = (latest - level) * latest_weight
        features = [level, total, spread, torch.asinh(surprise), latest_weight]
        return own, torch.stack(features, dim=-1)

    def _level(
        self, z: Tensor, weight: Tensor, index: Tensor, recency: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        z_BTKJ = z[..., index]
        weight_BTKJ = weight[..., index] * torch.exp(recency)
        total = weight_BTKJ.sum(dim=-1)
        share_BTKJ = weight_BTKJ / (total.unsqueeze(-1) + 1e-6)
        level = (share_BTKJ * z_BTKJ).sum(dim=-1)
        spread = (share_BTKJ * (z_BTKJ - level.unsqueeze(-1)).abs()).sum(dim=-1)
        return level, torch.tanh(total), spread

"""Every cell in plain NumPy, written from its equation, one row and one number of a step at a time.

Axis legend: T steps, F features, H hidden.

Each function is `(weights by name, x[T,F]) → y[T,H]`, from a session's start. Nothing here is taken
from the cells but the names and the order in which their weights are kept.
"""

import numpy as np

LAGS = 3
NUM_MODULES = 2
NUM_HEADS = 2


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def relu(value):
    return np.maximum(value, 0)


def autoregressive(weights, x, lags=LAGS):
    """y_t = b + Σ_k W_k x_{t−k}; the columns of the oldest input come first."""
    num_steps, num_features = x.shape
    w, b = weights["linear.weight"], weights["linear.bias"]
    answers = []
    for t in range(num_steps):
        y = b.copy()
        for k in range(lags):
            if t - k >= 0:
                first = (lags - 1 - k) * num_features
                y += w[:, first : first + num_features] @ x[t - k]
        answers.append(y)
    return np.array(answers)


def markov(weights, x):
    return np.array([weights["linear.weight"] @ row + weights["linear.bias"] for row in x])


def latent_ar(weights, x):
    h, answers = np.zeros(len(weights["from_x.weight"])), []
    for row in x:
        seen = weights["from_x.weight"] @ row + weights["from_x.bias"]
        between = np.tanh(seen + weights["from_h.weight"] @ h)
        h = np.tanh(weights["to_h.weight"] @ between + weights["to_h.bias"])
        read = np.tanh(weights["answer.0.weight"] @ h + weights["answer.0.bias"])
        answers.append(weights["answer.2.weight"] @ read + weights["answer.2.bias"])
    return np.array(answers)


def vanilla(activation):
    def run(weights, x):
        w, r, b_ih, b_hh = fused(weights, "rnn")
        h, answers = np.zeros(len(r)), []
        for row in x:
            h = activation(w @ row + b_ih + r @ h + b_hh)
            answers.append(h)
        return np.array(answers)

    return run


def lstm(weights, x):
    w, r, b_ih, b_hh = fused(weights, "lstm")
    size = r.shape[1]
    h, c, answers = np.zeros(size), np.zeros(size), []
    for row in x:
        write, forget, candidate, show = np.split(w @ row + b_ih + r @ h + b_hh, 4)
        c = sigmoid(forget) * c + sigmoid(write) * np.tanh(candidate)
        h = sigmoid(show) * np.tanh(c)
        answers.append(h)
    return np.array(answers)


def gru(weights, x):
    w, r, b_ih, b_hh = fused(weights, "gru")
    h, answers = np.zeros(r.shape[1]), []
    for row in x:
        reset_x, update_x, new_x = np.split(w @ row + b_ih, 3)
        reset_h, update_h, new_h = np.split(r @ h + b_hh, 3)
        reset, update = sigmoid(reset_x + reset_h), sigmoid(update_x + update_h)
        h = (1 - update) * np.tanh(new_x + reset * new_h) + update * h
        answers.append(h)
    return np.array(answers)


def clockwork(weights, x):
    w_x, b, w_h = weights["from_x.weight"], weights["from_x.bias"], weights["weight_hh"]
    size = len(b) // NUM_MODULES
    modules = [slice(i * size, (i + 1) * size) for i in range(NUM_MODULES)]
    periods = [2**i for i in range(NUM_MODULES)]
    h, answers = np.zeros(len(b)), []
    for t, row in enumerate(x):
        before = h.copy()
        for module, period in zip(modules, periods, strict=True):
            if t % period == 0:
                total = w_x[module] @ row + b[module]
                for other, other_period in zip(modules, periods, strict=True):
                    if other_period >= period:
                        total = total + w_h[module, other] @ before[other]
                h[module] = np.tanh(total)
        answers.append(h.copy())
    return np.array(answers)


def attention(weights, x):
    """The softmax over all steps so far, at every step anew."""
    scores = x @ weights["score.weight"].T
    values = x @ weights["value.weight"].T + weights["value.bias"]
    share = values.shape[1] // NUM_HEADS
    answers = []
    for t in range(len(x)):
        y = []
        for head in range(NUM_HEADS):
            p = np.exp(scores[: t + 1, head])
            p /= p.sum()
            y.append(p @ values[: t + 1, head * share : (head + 1) * share])
        answers.append(np.concatenate(y))
    return np.array(answers)


def ring_attention(weights, x):
    w_key, w_value = np.split(weights["key_value.weight"], 2)
    answers = []
    for t, row in enumerate(x):
        seen = x[max(0, t - LAGS + 1) : t + 1]
        scores = seen @ w_key.T @ (weights["query.weight"] @ row)
        p = np.exp(scores / np.sqrt(len(w_key)))
        answers.append(p / p.sum() @ (seen @ w_value.T))
    return np.array(answers)


def min_gru(weights, x):
    size = len(weights["from_x.bias"]) // 2
    h, answers = np.zeros(size), []
    for row in x:
        update, candidate = np.split(weights["from_x.weight"] @ row + weights["from_x.bias"], 2)
        h = (1 - sigmoid(update)) * h + sigmoid(update) * candidate
        answers.append(h)
    return np.array(answers)


def min_lstm(weights, x):
    size = len(weights["from_x.bias"]) // 3
    h, answers = np.zeros(size), []
    for row in x:
        parts = np.split(weights["from_x.weight"] @ row + weights["from_x.bias"], 3)
        forget, write, candidate = sigmoid(parts[0]), sigmoid(parts[1]), parts[2]
        h = forget / (forget + write) * h + write / (forget + write) * candidate
        answers.append(h)
    return np.array(answers)


def rg_lru(weights, x):
    size = len(weights["decay_logit"])
    h, answers = np.zeros(size), []
    for row in x:
        recurrence, write, value = np.split(
            weights["from_x.weight"] @ row + weights["from_x.bias"], 3
        )
        a = sigmoid(weights["decay_logit"]) ** (8 * sigmoid(recurrence))
        h = a * h + np.sqrt(1 - a**2) * (sigmoid(write) * value)
        answers.append(h)
    return np.array(answers)


def slstm(weights, x):
    """Without the stabiliser: in float64 the exponentials of a few steps do not overflow."""
    size = weights["from_h.weight"].shape[1]
    h, c, n, answers = np.zeros(size), np.zeros(size), np.zeros(size), []
    for row in x:
        seen = weights["from_x.weight"] @ row + weights["from_x.bias"]
        candidate, show, forget, write = np.split(seen + weights["from_h.weight"] @ h, 4)
        c = sigmoid(forget) * c + np.exp(write) * np.tanh(candidate)
        n = sigmoid(forget) * n + np.exp(write)
        h = sigmoid(show) * c / n
        answers.append(h)
    return np.array(answers)


def fused(weights, name):
    return [
        weights[f"{name}.{part}_l0"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


CASES = {
    "ar": ("ar", {"lags": LAGS}, autoregressive),
    "attention": ("attention", {"num_heads": NUM_HEADS}, attention),
    "clockwork": ("clockwork", {"num_modules": NUM_MODULES}, clockwork),
    "gru": ("gru", {}, gru),
    "irnn": ("irnn", {}, vanilla(relu)),
    "latent_ar": ("latent_ar", {}, latent_ar),
    "lstm": ("lstm", {}, lstm),
    "markov": ("markov", {}, markov),
    "min_gru": ("min_gru", {}, min_gru),
    "min_lstm": ("min_lstm", {}, min_lstm),
    "rg_lru": ("rg_lru", {}, rg_lru),
    "ring_attention": ("ring_attention", {"window": LAGS}, ring_attention),
    "rnn tanh": ("rnn", {}, vanilla(np.tanh)),
    "rnn sigmoid": ("rnn", {"activation": "sigmoid"}, vanilla(sigmoid)),
    "rnn relu": ("rnn", {"activation": "relu"}, vanilla(relu)),
    "slstm": ("slstm", {}, slstm),
}
"""Name of a test → kind, `[cell.options]`, equation."""

"""The diagnosis for people: one HTML page beside its pictures, readable without a network."""

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.diagnose.cases import Case
from training.diagnose.gradient_flow import GradientFlow
from training.diagnose.numbers import RESULTS_FILE, write_numbers
from training.diagnose.pictures import plot_activations, plot_clipping, plot_flows, plot_radii
from training.diagnose.watch import Watched, WatchPlan, watch
from training.evaluate.report import Plot

_CLIPPED = WatchPlan(hidden_size=32, learning_rate=0.01, is_plain=True, clip=1.0, num_updates=200)
_RAW = replace(_CLIPPED, clip=None)
_EXPLODING = Case("ReLU RNN, radius 2", "rnn", "", {"activation": "relu", "radius": 2.0})

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; } figcaption { color: #666; font-size: .9rem; }
figure { margin: 1rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e3e3e3; }
td:first-child { white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { background: #f4f4f4; padding: .1rem .3rem; }
"""


def diagnose(cases: Sequence[Case], plan: WatchPlan, folder: Path, command: str) -> list[Watched]:
    """Train every case briefly, draw; write `folder/index.html`, its pictures and its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    watched = [watch(case, plan) for case in cases]
    raw, clipped = watch(_EXPLODING, _RAW), watch(_EXPLODING, _CLIPPED)
    starts = [(one.case.name, one.flows[0]) for one in watched]
    ends = [(one.case.name, one.flows[-1]) for one in watched if not one.has_diverged]
    plots = {
        "start": plot_flows(starts, "Before training", "flow-start.png"),
        "end": plot_flows(
            ends, f"After {plan.num_updates} updates on the adding problem", "flow-end.png"
        )
        if ends
        else None,
        "clipping": plot_clipping([raw, clipped]),
        "radius": plot_radii(watched) if any(one.radii for one in watched) else None,
        "activations": plot_activations(watched),
    }
    for plot in plots.values():
        if plot is not None:
            (folder / plot.file).write_bytes(plot.png)
    page = _page(watched, raw, clipped, plots, plan, command)
    (folder / "index.html").write_text(page, encoding="utf-8")
    numbers = write_numbers(watched, raw, clipped, command)
    (folder / RESULTS_FILE).write_text(numbers, encoding="utf-8")
    return watched


def _page(
    watched: Sequence[Watched],
    raw: Watched,
    clipped: Watched,
    plots: dict[str, Plot | None],
    plan: WatchPlan,
    command: str,
) -> str:
    trained = [one for one in watched if not one.has_diverged]
    parts = [
        "<h1>What becomes of a gradient on its way back in time</h1>",
        _text(
            "A recurrent network learns from the past only as far as its gradient reaches. Going"
            " back one step multiplies the gradient by the same few weights again and again. If"
            " that makes it a little smaller each time, nothing is left of it after fifty steps: it"
            " <b>vanishes</b>, and the network cannot learn what happened then. If it makes it a"
            " little larger, it <b>explodes</b>, and one update throws the weights away."
        ),
        "<h2>Before training</h2>",
        _picture(plots["start"]),
        _flow_table([(one.case, one.flows[0]) for one in watched], says_why=True),
        _text(
            "<b>Why IRNN's start helps.</b> Its recurrent matrix starts as the identity and its"
            " biases at 0, so a ReLU network begins by copying its state: one step back multiplies"
            " a gradient by 1. Gates do the same in another way: an LSTM whose forget gate, or a"
            " GRU whose update gate, starts open hands its state on almost untouched. Started half"
            " open, both let a gradient leak away at every step, until training opens them, which"
            " takes some longer than others."
        ),
        _text(
            "<b>Why a ReLU needs such care.</b> tanh and sigmoid cannot leave their range; a ReLU"
            " can grow for ever. Half of its units are off at any step, so a random matrix makes it"
            " explode only from a spectral radius of about √2 on. The identity, which turns nothing"
            " off, explodes from anything above 1."
        ),
        "<h2>After training</h2>",
        _text(
            f"The same cells after {plan.num_updates} updates on the adding problem with"
            f" {plan.num_steps} steps, where what stands early in a sequence must be remembered to"
            " its end."
        ),
        _picture(plots["end"]),
        _flow_table([(one.case, one.flows[1]) for one in trained], says_why=False)
        if trained
        else "",
        _picture(plots["radius"]),
        "<h2>What clipping does</h2>",
        _text(
            "A ReLU network with spectral radius 2, trained by plain gradient descent, once with"
            " gradients as they come and once clipped to a norm of 1. Clipping shortens a gradient"
            " that is too long and keeps its direction. It does nothing for one that has vanished."
        ),
        _picture(plots["clipping"]),
        _text(
            f"The largest norm before clipping was {max(clipped.norms):.3g}, after it"
            f" {max(clipped.clipped_norms):.3g}. Without clipping, training"
            + (
                f" ended in numbers that are not finite after {len(raw.norms)} updates."
                if raw.has_diverged
                else f" went on, with a last loss of {raw.losses[-1]:.3g}"
                f" against {clipped.losses[-1]:.3g}."
            )
        ),
        "<h2>What the units say</h2>",
        _text(
            "Units of tanh and sigmoid that stand at the ends of their range have no slope there,"
            " and pass no gradient on. Units of a ReLU that are always 0 are lost."
        ),
        _picture(plots["activations"]),
        "<h2>Made by</h2>",
        f"<p><code>{html.escape(command)}</code></p>",
        f'<p>All numbers: <a href="{RESULTS_FILE}">{RESULTS_FILE}</a>.</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Gradients through time</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _flow_table(flows: Sequence[tuple[Case, GradientFlow]], *, says_why: bool) -> str:
    rows = []
    for case, flow in flows:
        radius = "" if flow.radius is None else f"{flow.radius:.2f}"
        why = f": {html.escape(case.shows)}" if says_why else ""
        cells = [
            f"<td>{html.escape(case.name)}</td>",
            f'<td class="n">{radius}</td>',
            f'<td class="n">{flow.factor:.3f}</td>',
            f'<td class="n">{_far(flow)}</td>',
            f"<td>{flow.verdict}{why}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    far = len(flows[0][1].norms) - 1
    header = ("cell", "radius of W_hh", "one step back", f"{far} steps back", "the gradient")
    head = "".join(f"<th>{name}</th>" for name in header)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _far(flow: GradientFlow) -> str:
    return f"{flow.norms[-1]:.1e}" if flow.norms[-1] > 0 else "0"


def _picture(plot: Plot | None) -> str:
    if plot is None:
        return ""
    caption = html.escape(plot.caption)
    return (
        f'<figure><img src="{plot.file}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _text(text: str) -> str:
    return f"<p>{text}</p>"

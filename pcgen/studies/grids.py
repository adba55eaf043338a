"""The studies of training: what each varies, what it draws, and what it says of its rows.

The settings of the full grids are those of the literature, the quick ones a part of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pcgen.studies.rules import RULES
from pcgen.studies.training import MOONS, Setting, load, summary, train

Rows = Sequence[Mapping[str, Any]]
Grid = Mapping[str, Sequence[Any]]
METRICS = ("validation", "accuracy", "hidden_share", "cosine", "ratio", "ratio_first")


@dataclass(frozen=True, slots=True)
class Study:
    """A study of training.

    Attributes:
        x: what the x axis shows; it is a key of the rows, like all below.
        line: what tells lines of a chart apart.
        panel: what tells charts apart, besides the metrics.
        metrics: what is drawn.
        quick: settings by default, each a product.
        full: settings of the published grid, with `full_epochs`.
        chosen: settings of which the one with the best held-out accuracy is kept.
        images: training images by default; `full_images` those of the published grid.
        see: the rows -> a paragraph of what they show.
        published: (panel, line) -> published (x, accuracy), drawn beside ours.
    """

    title: str
    base: Setting
    x: str
    line: tuple[str, ...]
    panel: tuple[str, ...]
    metrics: tuple[str, ...]
    quick: Sequence[Grid]
    full: Sequence[Grid]
    full_epochs: int
    see: Callable[[Rows], str]
    chosen: tuple[str, ...] = ()
    data: tuple[str, ...] = ("fashion-mnist",)
    images: int = 6400
    full_images: int = 60000
    published: Mapping[tuple[str, str], Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the settings that a row has."""
        return tuple(dict.fromkeys([*self.panel, *self.line, self.x, *self.chosen]))

    def settings(
        self, full: bool, rates: Sequence[float], optimisers: Sequence[str]
    ) -> list[Setting]:
        """Return all settings, with other rates of the states and optimisers where given."""
        own = {"rate": rates, "optimiser": optimisers}
        base = replace(self.base, epochs=self.full_epochs) if full else self.base
        found = []
        for grid in self.full if full else self.quick:
            wanted = {**grid, **{key: values for key, values in own.items() if values}}
            for values in itertools.product(*wanted.values()):
                found.append(replace(base, **dict(zip(wanted, values, strict=True))))
        return list(dict.fromkeys(found))


def rows(
    study: Study,
    settings: Sequence[Setting],
    data: Sequence[str],
    *,
    images: int,
    seeds: int,
    data_dir: str | Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each setting: means over the seeds, with the ends of their 95 % intervals."""
    for name in data:
        loaded = load(name, images, data_dir)
        for setting in settings:
            row: dict[str, Any] = {"data": name}
            row |= {key: getattr(setting, key) for key in study.keys if key != "data"}
            for metric, values_S in train(setting, loaded, seeds).items():
                row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = summary(values_S)
            yield row | {"images": len(loaded.train[0]), "epochs": setting.epochs, "seeds": seeds}


def kept(study: Study, table: Rows) -> list[Mapping[str, Any]]:
    """Return the rows whose chosen settings have the best held-out accuracy, in their order."""
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in table:
        place = ("data", *(key for key in study.keys if key not in study.chosen))
        key = tuple(row[name] for name in place)
        if key not in best or row["validation"] > best[key]["validation"]:
            best[key] = row
    return list(best.values())


def named(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the values of these keys as text."""
    return ", ".join(f"{v:g}" if isinstance(v := row[key], float) else str(v) for key in keys)


def _apart(best: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the interval of one accuracy lies above that of another."""
    low, high = best["accuracy_low"], other["accuracy_high"]
    return low is not None and high is not None and low > high


def _where(table: Rows, **values: Any) -> list[Mapping[str, Any]]:
    return [row for row in table if all(row[key] == value for key, value in values.items())]


def _see_init(table: Rows) -> str:
    steps = sorted({row["steps"] for row in table})
    best, apart = 0, 0
    for count in steps:
        first, *others = sorted(
            _where(table, steps=count), key=lambda row: row["start"] != "forward"
        )
        best += all(first["accuracy"] > other["accuracy"] for other in others)
        apart += all(_apart(first, other) for other in others)
    zero = [row["accuracy"] for row in _where(table, start="zero")]
    return (
        f"The feedforward start is the best at {best} of {len(steps)} numbers of steps, at {apart} "
        f"of them with an interval above both others. From zero, accuracy goes from "
        f"{zero[0]:.3f} at {steps[0]} steps to {zero[-1]:.3f} at {steps[-1]}. The paper: the "
        "feedforward start is the best at every number of steps."
    )


def _see_energy(table: Rows) -> str:
    text = ""
    for name in dict.fromkeys(row["optimiser"] for row in table):
        own = [row for row in _where(table, optimiser=name) if row["ratio"]]
        if not own:
            continue
        best = max(own, key=lambda row: row["accuracy"])
        even = min(own, key=lambda row: abs(row["ratio"] - 1))
        text += (
            f"{name}: the accuracy is highest ({best['accuracy']:.3f}) at rate {best['rate']:g} "
            f"and width {best['width']}, where the last hidden layer has {best['ratio']:.2g} "
            f"of the output's energy; energies are most even (ratio {even['ratio']:.2g}) at rate "
            f"{even['rate']:g}, with accuracy {even['accuracy']:.3f}. "
        )
    return text + "The paper: even energies come with lower accuracy, most of all with Adam."


def _see_stability(table: Rows) -> str:
    text = ""
    for name in dict.fromkeys(row["data"] for row in table):
        own = _where(table, data=name, rule="pc")
        least, most = min(row["width"] for row in own), max(row["width"] for row in own)
        for optimiser in dict.fromkeys(row["optimiser"] for row in own):
            ends = [
                [row["accuracy"] for row in _where(own, width=width, optimiser=optimiser)]
                for width in (least, most)
            ]
            falls = [small - large for small, large in zip(*ends, strict=True)]
            text += (
                f"{name}, {optimiser}: from width {least} to {most} the accuracy falls by "
                f"{max(falls):.3f} at the worst rate of the states and by {min(falls):.3f} at the "
                "best. "
            )
    return text + "The paper: with Adam the accuracy collapses in wide networks, less with SGD."


def _see_precision(table: Rows) -> str:
    text = ""
    for rule in dict.fromkeys(row["rule"] for row in table):
        own = sorted(_where(table, rule=rule), key=lambda row: row["precision"])
        low, high = own[0], own[-1]
        text += (
            f"{rule}: from precision {low['precision']:g} to {high['precision']:g} the cosine with "
            f"backprop's gradient goes from {low['cosine'] or 0:.3f} to {high['cosine'] or 0:.3f}, "
            f"the hidden layers' share of the energy from {low['hidden_share'] or 0:.2g} to "
            f"{high['hidden_share'] or 0:.2g}, the accuracy from {low['accuracy']:.3f} to "
            f"{high['accuracy']:.3f}. "
        )
    return text + "High hidden precisions make predictive coding backprop."


def _see_remedies(table: Rows) -> str:
    text = ""
    for kind in dict.fromkeys(row["kind"] for row in table):
        own = _where(table, kind=kind)
        depths = sorted({row["depth"] for row in own})
        ends = {
            rule: [_where(own, rule=rule, depth=d)[0]["accuracy"] for d in (depths[0], depths[-1])]
            for rule in dict.fromkeys(row["rule"] for row in own)
        }
        order = sorted(ends, key=lambda rule: -ends[rule][1])
        text += f"{kind}, {depths[0]} and {depths[-1]} layers: " + "; ".join(
            f"{rule} {ends[rule][0]:.3f} and {ends[rule][1]:.3f}" for rule in order
        )
        text += ". "
    return text


_INIT = {
    "forward": (0.896, 0.896, 0.895, 0.896, 0.895, 0.894, 0.888),
    "zero": (0.813, 0.823, 0.843, 0.843, 0.854, 0.855, 0.866),
    "normal": (0.835, 0.824, 0.836, 0.846, 0.834),
}
_STEPS = (3, 5, 7, 9, 11, 15, 20)
_OPTIMISERS = ("adamw", "sgd")
_RULES = tuple(RULES)

STUDIES = {
    "init": Study(
        title="Accuracy by the start of the states",
        base=Setting(activation="gelu", epochs=2, batch=64),
        x="steps",
        line=("start",),
        panel=("data",),
        metrics=("accuracy",),
        chosen=("rate", "momentum"),
        quick=[{"start": ("forward", "zero", "normal"), "steps": _STEPS, "rate": (0.05, 0.3)}],
        full=[
            {
                "start": ("forward", "zero", "normal"),
                "steps": _STEPS,
                "rate": (0.01, 0.018, 0.05, 0.11, 0.15, 0.36),
                "momentum": (0.0, 0.5),
            }
        ],
        full_epochs=32,
        published={
            ("fashion-mnist", start): list(zip(_STEPS, values, strict=False))
            for start, values in _INIT.items()
        },
        images=3200,
        see=_see_init,
    ),
    "energy": Study(
        title="Energies of the layers by the rate of the states",
        base=Setting(likelihood="categorical", epochs=2),
        x="rate",
        line=("optimiser", "width"),
        panel=("data",),
        metrics=("ratio", "ratio_first", "accuracy"),
        chosen=("momentum", "activation"),
        quick=[
            {
                "optimiser": _OPTIMISERS,
                "width": (64, 256),
                "rate": (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
            }
        ],
        full=[
            {
                "optimiser": _OPTIMISERS,
                "width": (512, 1024, 2048, 4096),
                "rate": (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
                "momentum": (0.0, 0.5, 0.9, 0.95),
                "activation": ("relu", "hard_tanh"),
            }
        ],
        full_epochs=8,
        images=3200,
        see=_see_energy,
    ),
    "stability": Study(
        title="Accuracy by width, rate and optimiser",
        base=Setting(likelihood="categorical", weight_rate=0.01, epochs=2),
        x="width",
        line=("rule", "rate"),
        panel=("data", "optimiser"),
        metrics=("accuracy",),
        quick=[
            {"optimiser": _OPTIMISERS, "width": (16, 64, 256), "rate": (1e-3, 1e-2, 0.1)},
            {"rule": ("backprop",), "optimiser": _OPTIMISERS, "width": (16, 64, 256)},
        ],
        full=[
            {
                "optimiser": _OPTIMISERS,
                "width": (32, 64, 128, 256, 512, 1024, 2048, 4096),
                "rate": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3),
            },
            {
                "rule": ("backprop",),
                "optimiser": _OPTIMISERS,
                "width": (32, 64, 128, 256, 512, 1024, 2048, 4096),
            },
        ],
        full_epochs=8,
        data=(MOONS, "fashion-mnist"),
        images=3200,
        see=_see_stability,
    ),
    "precision": Study(
        title="From predictive coding to backprop by the hidden precision",
        base=Setting(depth=4, width=64, activation="tanh"),
        x="precision",
        line=("rule",),
        panel=("data",),
        metrics=("cosine", "hidden_share", "accuracy"),
        quick=[
            {
                "rule": ("pc", "equilibrium"),
                "precision": (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
            }
        ],
        full=[
            {
                "rule": ("pc", "equilibrium"),
                "precision": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
                "width": (128,),
            }
        ],
        full_epochs=5,
        images=3200,
        see=_see_precision,
    ),
    "remedies": Study(
        title="Accuracy after one epoch by depth and rule",
        base=Setting(width=32, steps=0, rate=0.0, batch=64),
        x="depth",
        line=("rule",),
        panel=("data", "kind"),
        metrics=("accuracy", "cosine"),
        quick=[
            {"kind": ("residual",), "rule": _RULES, "depth": (4, 32)},
            {"kind": ("unscaled", "plain"), "rule": _RULES, "depth": (16,)},
        ],
        full=[
            {
                "kind": ("residual", "unscaled", "plain"),
                "rule": _RULES,
                "depth": (4, 8, 16, 32, 64, 128),
            }
        ],
        full_epochs=1,
        published={
            ("fashion-mnist, residual", "backprop"): [(32, 0.7866)],
            ("fashion-mnist, residual", "pc"): [(32, 0.6813), (128, 0.7955)],
            ("fashion-mnist, residual", "dual"): [(32, 0.7775)],
        },
        see=_see_remedies,
    ),
}

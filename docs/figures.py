"""Draw the figures of the documentation into docs/img.

    python docs/figures.py [NAME ...]      # all of them, or those of these functions

The figures of `README.md` need the real data sets (PCGEN_DATA), the others only what comes with
scikit-learn. Every number in them is computed here, but for `table_results` and
`study_results`.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits, load_iris
from torch import Tensor

import pcgen

HERE = Path(__file__).parent / "img"
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
COLOURS = (BLUE, ORANGE, GREEN, RED)
LAYERS = ("data", "hidden 1", "hidden 2", "latent's prior")
matplotlib.use("Agg")
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9,
        "figure.dpi": 110,
        "legend.frameon": False,
        "savefig.facecolor": "white",
    }
)


def save(name: str) -> None:
    """Write the present figure to `NAME.png`."""
    HERE.mkdir(exist_ok=True)
    plt.savefig(HERE / f"{name}.png", bbox_inches="tight", pil_kwargs={"optimize": True})
    plt.close()


def strip(rows: Sequence[tuple[str, Any]], name: str, *, cell: float = 0.72, **show: Any) -> None:
    """Draw rows of pictures, each with its label at the left."""
    height, width = len(rows), max(len(pictures) for _, pictures in rows)
    _, axes = plt.subplots(
        height, width, figsize=(cell * width + 1.0, cell * height), squeeze=False
    )
    for line, (label, pictures) in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
        for axis, picture in zip(line, pictures, strict=False):
            options = {"cmap": "gray", "vmin": 0, "vmax": 1} | show
            if "error" in label:
                options = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
            axis.imshow(np.asarray(picture).clip(options["vmin"], options["vmax"]), **options)
    plt.subplots_adjust(wspace=0.06, hspace=0.06)
    save(name)


def digits() -> Tensor:
    """Return scikit-learn's 1,797 digits, pixels in [0, 1], as rows of 64."""
    return torch.tensor(load_digits().data / 16, dtype=torch.float32)


def untrained() -> pcgen.Network:
    """Return a network for digits whose first prediction is the mean digit."""
    network = pcgen.Network(
        [16, 64, 64, 64],
        activation="gelu",
        output="sigmoid",
        latent_precision=0.01,
    )
    network.layers[0].set_prediction(digits().mean(0).clamp(0.01, 0.99).logit())
    return network


@functools.cache
def trained() -> tuple[pcgen.Network, list[float]]:
    """Return a network after passes over 1,500 digits, and the energy of every batch."""
    network, energies = untrained(), []
    optimiser = torch.optim.Adam(network.weights(), lr=3e-3)
    for epoch in range(15):
        order = torch.randperm(1500, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(50):
            end = pcgen.infer(network, digits()[rows], steps=10, tolerance=0)
            energies.append(float(end.energy_B.mean()))
            gradients = pcgen.weight_gradients(network, end.states)
            for weight, gradient in zip(network.weights(), gradients, strict=True):
                weight.grad = gradient
            optimiser.step()
    return network, energies


def network() -> None:
    """The layers, what is sent between them, and the words for it."""
    plt.figure(figsize=(6.4, 2.5))
    axis = plt.gca()
    axis.axis("off")
    boxes = [
        (0.0, "data\n$x_0$"),
        (2.4, "hidden\n$x_1$"),
        (4.8, "hidden\n$x_2$"),
        (7.2, "latent\n$x_3$"),
    ]
    for x, label in boxes:
        axis.add_patch(plt.Rectangle((x, 0), 1.2, 1.2, fc="#EAF2F8", ec=BLUE, lw=1.4))
        axis.text(x + 0.6, 0.6, label, ha="center", va="center")
    for i in range(3):
        left, right = boxes[i][0] + 1.2, boxes[i + 1][0]
        for y, start, end, colour in ((0.85, right, left, BLUE), (0.35, left, right, RED)):
            axis.annotate(
                "", (end, y), (start, y), arrowprops={"arrowstyle": "->", "color": colour}
            )
        middle = (left + right) / 2
        axis.text(middle, 1.25, f"prediction $\\mu_{i}$", ha="center", color=BLUE, fontsize=8)
        axis.text(middle, -0.2, f"error $\\epsilon_{i}$", ha="center", color=RED, fontsize=8)
    axis.set_xlim(-0.1, 8.5)
    axis.set_ylim(-0.3, 1.5)
    save("network")


def settling() -> None:
    """One digit's prediction and error while its states settle."""
    net, _ = trained()
    shown = {}
    for step in pcgen.steps(net, digits()[1500:1501], 40):
        shown[step.number] = step
    kept = [shown[n] for n in (0, 1, 2, 3, 5, 10, 40)]
    _, axes = plt.subplots(2, 8, figsize=(7.6, 2.2))
    axes[0, 0].imshow(digits()[1500].view(8, 8), cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title("image")
    for (top, bottom), step in zip(axes.T[1:], kept, strict=True):
        top.imshow(step.predictions[0].view(8, 8), cmap="gray", vmin=0, vmax=1)
        bottom.imshow(step.errors[0].view(8, 8), cmap="RdBu_r", vmin=-1, vmax=1)
        top.set_title(f"step {step.number}")
    axes[1, 0].text(1.0, 0.5, "error", transform=axes[1, 0].transAxes, ha="right", va="center")
    for axis in axes.flat:
        axis.axis("off")
    plt.subplots_adjust(wspace=0.06, hspace=0.06)
    save("settling")


def energies() -> None:
    """Where the energy is, step by step."""
    net, _ = trained()
    steps = [*pcgen.steps(net, digits()[1500:1600], 20)]
    parts = torch.stack([torch.stack([e.mean() for e in step.energies]) for step in steps]).T
    plt.figure(figsize=(5.4, 2.7))
    plt.stackplot(range(21), parts.numpy(), labels=LAYERS, colors=COLOURS, alpha=0.85)
    plt.xlabel("step of inference")
    plt.ylabel("energy, nats per image")
    plt.xlim(0, 20)
    plt.legend()
    save("energies")


def states() -> None:
    """The latents of two images while they settle, beside those of 300 others."""
    net, _ = trained()
    ends = pcgen.infer(net, digits()[:300]).states[-1]
    _, _, axes = torch.linalg.svd(ends - ends.mean(0))
    plane = axes[:2].T
    plt.figure(figsize=(4.2, 3.2))
    cloud = ends @ plane
    plt.scatter(*cloud.T, c=load_digits().target[:300], cmap="tab10", s=7, alpha=0.7)
    plt.colorbar(label="digit")
    for row, colour in ((1500, "black"), (1507, RED)):
        path = torch.cat([s.states[-1] for s in pcgen.steps(net, digits()[row : row + 1], 40)])
        plt.plot(*(path @ plane).T, "-o", color=colour, ms=2.5, lw=1)
    plt.xlabel("first principal axis of the latents")
    plt.ylabel("second")
    save("states")


def precision() -> None:
    """The energy of an error, and the density that it stands for, at three precisions."""
    error = np.linspace(-3, 3, 301)
    _, (left, right) = plt.subplots(1, 2, figsize=(6.2, 2.4))
    for pi, colour in zip((0.3, 1, 4), COLOURS, strict=False):
        energy = 0.5 * pi * error**2
        density = np.sqrt(pi / (2 * math.pi)) * np.exp(-energy)
        left.plot(error, energy, color=colour)
        right.plot(error, density, color=colour, label=f"precision {pi:g}")
    left.set(ylim=(0, 4), xlabel="error", ylabel="energy, nats")
    right.set(xlabel="error", ylabel="probability density")
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.98, 1))
    plt.tight_layout()
    save("precision")


def equilibrium() -> None:
    """Solvers on their way to the same energy."""
    net, _ = trained()
    data = digits()[1500:1600]
    least = pcgen.infer(net, data, steps=400, tolerance=0, solver="newton").energy_B.double()
    plt.figure(figsize=(5.0, 2.7))
    for solver, colour in zip(("descent", "majorise", "newton"), COLOURS, strict=False):
        walk = [s.energy_B.double() for s in pcgen.steps(net, data, 60, solver=solver, rate=0.2)]
        excess = [float((e / least - 1).mean()) for e in walk]
        plt.semilogy(excess, color=colour, label=solver)
    plt.xlabel("step of inference")
    plt.ylabel("energy above the least, relative")
    plt.legend()
    save("equilibrium")


def learning() -> None:
    """The energy at the end of inference falls while the weights learn."""
    _, energy = trained()
    plt.figure(figsize=(5.0, 2.4))
    plt.plot(energy, color=BLUE, lw=0.8)
    plt.xlabel("update of the weights")
    plt.ylabel("energy, nats per image")
    plt.ylim(0, None)
    save("learning")


def before_after() -> None:
    """Held-out digits decoded from their latents, before and after learning."""
    data = digits()[1500:1510]
    rows = [("image", data)]
    for label, net in (("before", untrained()), ("after", trained()[0])):
        rows.append((label, net.decode(pcgen.infer(net, data).states[-1])))
    strip([(label, row.view(-1, 8, 8)) for label, row in rows], "before_after")


def hidden_pixels() -> None:
    """Digits whose lower half is hidden: the states of least energy predict it."""
    net, _ = trained()
    data, mask = digits()[1500:1510], torch.ones(64)
    mask[32:] = 0
    states = pcgen.infer(net, data, mask=mask).states
    predicted = net.terms(states)[0].prediction_BD
    cue = torch.where(mask > 0, data, 0.5)
    rows = [("image", data), ("seen", cue), ("predicted", predicted)]
    strip([(label, row.view(-1, 8, 8)) for label, row in rows], "hidden_pixels")


def sampling() -> None:
    """Rows of iris, and as many that the shipped network draws."""
    known = load_iris().data[:, [0, 2]]
    result = pcgen.sample("iris", 150)
    assert result.model.scale is not None
    mean, deviation = map(np.array, result.model.scale)
    drawn = result.samples.data_BD.numpy() * deviation + mean
    _, axes = plt.subplots(1, 2, figsize=(5.6, 2.5), sharex=True, sharey=True)
    for axis, rows, title in zip(axes, (known, drawn), ("data", "samples"), strict=True):
        axis.scatter(*np.asarray(rows).T, s=8, color=BLUE if title == "data" else ORANGE)
        axis.set(title=title, xlabel="sepal length, cm")
    axes[0].set_ylabel("petal length, cm")
    save("sampling")


def detection() -> None:
    """The scores of known and of unusual inputs, and the threshold between them."""
    noisy = digits()[:359] + 0.3 * torch.randn(359, 64, generator=torch.Generator().manual_seed(0))
    inputs = {
        "digits:test": "digits:test",
        "digits with noise": noisy.clamp(0, 1).view(-1, 1, 8, 8),
    }
    plt.figure(figsize=(5.2, 2.5))
    bins = np.linspace(0, 20, 41)
    for (label, data), colour in zip(inputs.items(), (BLUE, RED), strict=True):
        result = pcgen.ood_score("digits-ood", data, fpr=0.05)
        score = np.array([row["score"] for row in result.rows()])
        plt.hist(score.clip(max=20), bins, color=colour, alpha=0.65, label=label)
    plt.axvline(result.document()["threshold"], color="black", lw=1, label="threshold at 5 %")
    plt.xlabel("score (20 and above in the last column)")
    plt.ylabel("inputs")
    plt.legend(fontsize=8)
    save("detection")


def row_energies() -> None:
    """The energies of a table's rows: of a mixture, of a memory, and their sum."""
    known = load_iris().data[:, [0, 2]]
    detector = pcgen.PCNOutlierDetector(random_state=0).fit(known)
    x, y = np.meshgrid(np.linspace(3.8, 8.4, 90), np.linspace(0, 7.6, 90))
    energies = detector.energies(np.column_stack([x.ravel(), y.ravel()]))
    parts = {"free-energy": "mixture", "memory": "memory", "energy": "sum"}
    _, axes = plt.subplots(1, 3, figsize=(7.4, 2.6), sharex=True, sharey=True)
    for axis, (name, title) in zip(axes, parts.items(), strict=True):
        energy = energies[name][0].reshape(x.shape)
        levels = np.quantile(energy, np.linspace(0, 1, 14))
        axis.contourf(x, y, energy, levels, cmap="Blues_r")
        axis.scatter(*known.T, s=4, color=ORANGE)
        axis.set(title=title, xlabel="sepal length, cm")
    flagged = -detector.decision_function(np.column_stack([x.ravel(), y.ravel()]))
    axes[2].contour(x, y, flagged.reshape(x.shape), [0.0], colors="black", linewidths=1)
    axes[0].set_ylabel("petal length, cm")
    save("row_energies")


def table(page: str, header: str) -> list[list[str]]:
    """Return the cells of the table of a page of results that begins with this header."""
    lines = (HERE.parent / "results" / page).read_text().split(header)[1].split("\n\n")[0]
    cells = [line.strip("|").split("|") for line in lines.splitlines()[2:]]
    return [[cell.strip().strip("*`") for cell in line] for line in cells]


def table_results() -> None:
    """The AUROC of methods on 22 tables, from the page of results."""
    rows = table("tables.md", "| method | AUROC |")
    plt.figure(figsize=(5.6, 2.9))
    for i, (name, auroc, *_, splits) in enumerate(reversed(rows)):
        colour = BLUE if name.startswith("pcgen") else GREY
        plt.scatter([float(split) for split in splits.split(",")], [i] * 3, s=8, color=colour)
        plt.scatter(float(auroc), i, s=60, marker="|", color=colour)
    plt.yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    plt.xlabel("AUROC, per cent; 50 is chance")
    save("table_results")


def study_results() -> None:
    """What three studies of training found, from the page of results."""
    _, (left, middle, right) = plt.subplots(
        1, 3, figsize=(9.2, 2.9), width_ratios=(3, 3, 2), layout="constrained"
    )
    steps = [3, 5, 7, 9, 11, 15, 20]
    rows, name = table("studies.md", "| steps |"), ""
    for label, *cells in rows:
        is_published = label == "published"
        name = name if is_published else label
        colour = COLOURS[("forward", "zero", "normal").index(name)]
        values = [float(cell.split()[0]) for cell in cells if cell]
        line = {"ls": "--", "lw": 0.8} if is_published else {"label": name}
        left.plot(steps[: len(values)], values, color=colour, **line)
    left.set(xlabel="steps of inference", ylabel="accuracy", title="start of the states")
    left.legend(fontsize=8, loc="lower right")
    rows = table("studies.md", "| hidden precision |")
    precisions = [float(row[0]) for row in rows]
    parts = {"cosine with backprop": 4, "hidden share of the energy": 5, "accuracy": 6}
    for (label, column), colour in zip(parts.items(), COLOURS, strict=False):
        values = [float(row[column].split()[0].strip("*")) for row in rows]
        middle.semilogx(precisions, values, color=colour, label=label)
    middle.set(xlabel="hidden precision", title="equilibrium", ylim=(0, 1.45))
    middle.legend(fontsize=7, loc="upper left")
    rows, names = table("studies.md", "| L = 32 |"), []
    for i, (name, accuracy, *_) in enumerate(reversed(rows)):
        mean, low, high = map(float, accuracy.translate(str.maketrans("[],", "   ")).split())
        right.errorbar(mean, i, xerr=[[mean - low], [high - mean]], color=BLUE, fmt="o", ms=3)
        names.append(re.split("[`:]| with", name)[0])
    right.set(xlabel="accuracy", title="32 layers", xlim=(0.57, 0.82))
    right.set_yticks(range(len(names)), names)
    save("study_results")


def mnist(name: str, count: int, *, split: str = "test") -> Tensor:
    """Return the first images of a data set of 28 by 28 pixels."""
    from pcgen.data.sources import open_data

    return open_data(f"{name}:{split}").rows(range(count)).pixels_BD


def reconstructions() -> None:
    """MNIST test digits, and what their 64 latent states decode to."""
    net, data = pcgen.load("mnist"), mnist("mnist", 10)
    latent = pcgen.infer(net, data, steps=100, tolerance=0, solver="newton").states[-1]
    rows = [("test image", data), ("from the latent", net.decode(latent))]
    strip([(label, row.view(-1, 28, 28)) for label, row in rows], "reconstructions")


def samples() -> None:
    """Digits that the shipped sampler draws."""
    drawn = pcgen.sample("mnist-sampler", 20, seed=1).samples.data_BD.view(-1, 28, 28)
    strip([("", drawn[:10]), ("", drawn[10:])], "samples")


def recalled() -> None:
    """Memorised pictures, restored from their upper half."""
    with tempfile.TemporaryDirectory() as folder:
        small = ["data.limit=100", "data.size=[64,64]"]
        pcgen.train("tiny-imagenet-memory", f"{folder}/run", settings=small)
        pcgen.recall(
            f"{folder}/run", "tiny-imagenet", corrupt=["mask:bottom"], limit=100, out=folder
        )
        with np.load(f"{folder}/recalled.npz") as arrays:
            named = {name: arrays[name][:8] for name in arrays.files}
    rows = [
        (label, named[key].reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1))
        for label, key in (("cue", "cues"), ("recalled", "recalled"))
    ]
    strip(rows, "recalled", cell=0.9)


def both_ways() -> None:
    """Test digits, a fifth of their pixels, how they are filled in, and samples of each class."""
    from pcgen.classification.both_ways import BothWays
    from pcgen.commands.masks import visible
    from pcgen.commands.session import open_model

    loaded, data = open_model("mnist-both-ways"), mnist("mnist", 10)
    seen = visible("80%", loaded.shape, data, list(range(10)), 0)
    reader = BothWays(loaded.network, loaded.recipe.inference)
    hidden = data.where(seen, torch.nan)
    filled = reader.completed(hidden).view(-1, 28, 28)
    labels = reader.logits(hidden).argmax(1).tolist()
    print("labels:", labels)
    drawn = [
        pcgen.sample("mnist-both-ways", 1, label=k, seed=2).samples.data_BD.view(28, 28)
        for k in range(10)
    ]
    rows = [
        ("test image", data.view(-1, 28, 28)),
        ("visible", data.where(seen, 0.35).view(-1, 28, 28)),
        ("filled in", filled),
        ("sample of 0 to 9", drawn),
    ]
    strip(rows, "both_ways")


def unusual() -> None:
    """Two known and six unusual inputs, with the pixels that the network did not expect."""
    from pcgen.commands.session import open_detector

    detector = open_detector("mnist-ood")
    known, strange = mnist("mnist", 2), mnist("fashion-mnist", 4)
    turned = mnist("mnist", 6)[4:6].view(-1, 28, 28).rot90(1, (1, 2)).reshape(-1, 784)
    data = torch.cat([known, turned, strange])
    heat = detector.heat(detector.scorers[0].heatmap(data))
    p_values = [
        row["p_value"] for row in pcgen.ood_score("mnist-ood", data.view(-1, 1, 28, 28)).rows()
    ]
    _, axes = plt.subplots(2, 8, figsize=(7.2, 2.2))
    for i, (top, bottom) in enumerate(axes.T):
        top.imshow(data[i].view(28, 28), cmap="gray", vmin=0, vmax=1)
        bottom.imshow(heat[i].view(28, 28), cmap="inferno", vmin=0, vmax=float(heat.quantile(0.98)))
        top.set_title(f"p = {p_values[i]:.2g}", fontsize=7)
        top.axis("off")
        bottom.axis("off")
    plt.subplots_adjust(wspace=0.06, hspace=0.06)
    save("unusual")


FIGURES = {
    figure.__name__: figure
    for figure in (
        *(network, settling, energies, states, precision, equilibrium, learning, before_after),
        *(hidden_pixels, sampling, detection, row_energies, table_results),
        study_results,
        *(reconstructions, samples, recalled, both_ways, unusual),
    )
}


if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        print(name, flush=True)
        FIGURES[name]()

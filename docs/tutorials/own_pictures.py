# %% [markdown]
# # Your own pictures: train, calibrate, score
#
# You have a folder of usual pictures and want to know which new ones are unusual. Four steps: train a network, calibrate
# a detector, score, read the page. Here the pictures are scikit-learn's digits, saved as PNG files; put your own folder
# in their place.

# %%
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

folder = Path(tempfile.mkdtemp())
pixels = (load_digits().images / 16 * 255).astype(np.uint8)
for name, numbers in (("known", range(1000)), ("new", range(1000, 1040))):
    (folder / name).mkdir()
    for number in numbers:
        Image.fromarray(pixels[number]).save(folder / name / f"{number:04}.png")
for number in range(1000, 1010):  # ten of the new pictures are turned upside down
    Image.fromarray(pixels[number][::-1]).save(folder / "new" / f"turned{number}.png")

# %% [markdown]
# **Train.** The recipe `digits-ood` is for pictures of 8 by 8 pixels; for larger ones use `pictures-ood`. A part of the
# pictures is set aside for calibration before training. Five epochs are enough to see it work.

# %%
import pcgen

run = pcgen.train(
    "digits-ood",
    folder / "run",
    data=folder / "known",
    settings=["learning.epochs=5", "data.calibration=0.3"],
)
print(f"held-out error per pixel: {run.metrics['mse']:.4f}")

# %% [markdown]
# **Calibrate.** The detector stores the scores of the pictures set aside. It then tests itself on changed copies.

# %%
detector = pcgen.ood_calibrate(folder / "run", folder / "known", folder / "detector.safetensors")

# %% [markdown]
# **Score.** Every picture becomes a row: its score, its p-value (how often a known picture scores as high) and whether
# it is flagged. At most the share `fpr` of known pictures is flagged.

# %%
result = pcgen.ood_score(detector.detector, folder / "new", folder / "scores.csv", fpr=0.1)
rows = list(result.rows())
for row in sorted(rows, key=lambda row: -row["score"])[:5]:
    print(Path(row["id"]).name, f"p = {row['p_value']:.3f}", "flagged" if row["is_ood"] else "")
print(textwrap.fill(result.document()["statement"], 90))

# %%
turned = np.array(["turned" in row["id"] for row in rows])
scores = np.array([row["score"] for row in rows])
plt.figure(figsize=(5, 2.2))
plt.hist([scores[~turned], scores[turned]], bins=20, stacked=True, label=["usual", "turned"])
plt.axvline(result.document()["threshold"], color="black", label="threshold")
plt.xlabel("score")
plt.legend()
plt.show()
# caption: The scores of the new pictures. Those right of the line are flagged.

# %% [markdown]
# **Read the page.** It has the histogram, the worst inputs first, and what the detector promises.

# %%
page = pcgen.report(folder / "scores.csv")
print(page.name)

# %% [markdown]
# The same on the command line:
#
#     pcgen train pictures-ood --data my-pictures/ --out runs/mine
#     pcgen ood-calibrate runs/mine my-pictures/ --out mine.safetensors
#     pcgen ood-score mine.safetensors new/ --out scores.csv --fpr 0.1
#     pcgen report scores.csv

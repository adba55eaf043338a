"""Kinds of files that pcgen does not read: their names, and the export that helps."""

from __future__ import annotations

from pathlib import Path

from pcgen.errors import DataError

_TO_CSV = 'In Python: pandas.{}("{}").to_csv("table.csv", index=False)'
_TO_NPZ = "In Python: numpy.savez('data.npz', x=images, y=labels)"
_UNPACK = "Unpack it and name the folder or file, or pack it as .zip"

_KINDS = {
    ".parquet": ("a Parquet table", _TO_CSV.replace("{}", "read_parquet", 1)),
    ".feather": ("a Feather table", _TO_CSV.replace("{}", "read_feather", 1)),
    ".arrow": ("an Arrow table", _TO_CSV.replace("{}", "read_feather", 1)),
    ".json": ("JSON", _TO_CSV.replace("{}", "read_json", 1)),
    ".jsonl": ("JSON lines", _TO_CSV.replace("{}", "read_json", 1)),
    ".dta": ("a Stata table", _TO_CSV.replace("{}", "read_stata", 1)),
    ".sav": ("an SPSS table", _TO_CSV.replace("{}", "read_spss", 1)),
    ".sas7bdat": ("a SAS table", _TO_CSV.replace("{}", "read_sas", 1)),
    **dict.fromkeys(
        (".xlsx", ".xls", ".xlsm", ".ods"),
        ("a spreadsheet", "Export it from the spreadsheet program: save as CSV (UTF-8)"),
    ),
    **dict.fromkeys((".h5", ".hdf5", ".nc"), ("HDF5", _TO_NPZ)),
    ".mat": ("a MATLAB file", _TO_NPZ + ", with scipy.io.loadmat"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), ("a pickle, which could run code", _TO_NPZ)),
    **dict.fromkeys((".pt", ".pth", ".ckpt"), ("a file of torch, which could run code", _TO_NPZ)),
    ".safetensors": ("a file of tensors", _TO_NPZ),
    **dict.fromkeys((".tfrecord", ".arff", ".rds"), ("a file of other software", _TO_NPZ)),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), ("a database", "Export the table as CSV")),
    **dict.fromkeys(
        (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".rar", ".7z", ".bz2", ".xz", ".zst"),
        ("an archive that pcgen does not read", _UNPACK),
    ),
    **dict.fromkeys(
        (".mp4", ".avi", ".mov", ".mkv", ".webm"),
        ("a film", "Take its pictures out: ffmpeg -i FILM frames/%06d.png"),
    ),
    ".pdf": ("a document", "Take its pictures out: pdfimages -png DOCUMENT picture"),
    **dict.fromkeys((".nii", ".dcm"), ("a medical image", "Save it as PNG or TIFF of 16 bits")),
}


def refuse_foreign(path: Path) -> None:
    """Raise DataError if the path's name is of a kind that pcgen does not read."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if name.endswith(".gz") and suffix == ".tar":
        suffix = ".tgz"
    if suffix in _KINDS:
        kind, hint = _KINDS[suffix]
        raise DataError(f"{path}: {kind}: not read", hint.replace("{}", path.name))

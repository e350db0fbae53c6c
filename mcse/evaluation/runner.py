"""One model on several suites, except those whose results for this model and data are kept from an earlier call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, Protocol

from mcse.distributed import broadcast_object, fail_together, is_main
from mcse.evaluation.result_cache import KeptResult, cache_key, load_result, save_result
from mcse.evaluation.seen_text import seen_by
from mcse.evaluation.suite import PreparedSuite, Subject
from mcse.evaluation.suites import SUITES
from mcse.types import Encoder, ModelScores, SuiteScores

Precision = Literal["float32", "bfloat16"]


class PooledEncoder(Encoder, Protocol):
    """An encoder that says which vector stands for a sentence."""

    pooling: str


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
    """

    suites: Mapping[str, PreparedSuite]
    _: KW_ONLY
    pooling: str | None
    precision: Precision
    batch_size: int
    use_cache: bool

    def scores(
        self,
        model: str,
        *,
        digest: str | None,
        load: Callable[[str], PooledEncoder],
        notes: Callable[[Subject], tuple[str, ...]],
        on_start: Callable[[str, str], None],
        on_failure: Callable[[str, Exception], None],
    ) -> ModelScores:
        """The scores of the suites that could evaluate a model.

        Args:
            model: Its name.
            digest: Of the model; nothing is kept of one without.
            load: Loads it by its name.
            notes: What is to be said of it beside its scores, once it has encoded the suites' sentences.
            on_start: Is told its name and what it is evaluated on now, before it is loaded.
            on_failure: Is told the name and the error of a suite that cannot evaluate it; the others go on.

        Raises:
            ValueError: The model cannot be loaded, or no suite could evaluate it.
        """
        keys = {name: self._key(name, digest) for name in self.suites}
        may_load = digest is not None and self.use_cache and is_main()
        found = broadcast_object({name: load_result(key) if may_load else None for name, key in keys.items()})
        kept = {name: result for name, result in found.items() if result is not None}
        if missing := [name for name in self.suites if name not in kept]:
            on_start(model, "; ".join(self.suites[name].summary for name in missing))
            encoder = fail_together(lambda: load(model))
            seen, unknown = seen_by(Path(model))
            subject = Subject.of(encoder, batch_size=self.batch_size, seen=seen, why_unknown=unknown)
            for name in missing:
                try:
                    scores = self.suites[name].run(subject)
                    if not scores.scores:
                        reasons = [f"{key}: {reason}" for key, reason in scores.absent.items()]
                        raise ValueError(f"nothing could be evaluated; {'; '.join(reasons)}")
                except Exception as error:  # other people's encoders raise whatever comes
                    on_failure(f"{model}, {name}", error)
                    continue
                kept[name] = KeptResult(pooling=encoder.pooling, scores=scores, notes=notes(subject))
                # Training text that could not be read again today may be there tomorrow.
                if is_main() and digest is not None and not unknown:
                    save_result(keys[name], kept[name])
        if not kept:
            raise ValueError("no suite could evaluate it")
        done = [kept[name] for name in self.suites if name in kept]
        return ModelScores(
            name=model,
            pooling=done[0].pooling,
            suites=tuple(kept[name].scores if name in kept else _NOTHING for name in self.suites),
            notes=tuple(dict.fromkeys(note for result in done for note in result.notes)),
        )

    def _key(self, name: str, digest: str | None) -> str:
        # Padding, and so rounding, depends on who shares a batch; in 32 bits that is below what is printed.
        rounding = (self.precision, self.batch_size) if self.precision == "bfloat16" else (self.precision,)
        return cache_key(digest, self.pooling, *rounding, name, SUITES[name].version, self.suites[name].digest)

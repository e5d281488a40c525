"""`xaikit explain`: the attribution of an image, a sentence, a row, the samples in an array, or a whole data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from xaikit.cli.job import argument, flag
from xaikit.cli.printing import printable
from xaikit.cli.processes import ProcessFields
from xaikit.cli.sources import TARGET_HELP, DataFields, ModelJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xaikit.cli.single import SampleInput
    from xaikit.core import Attribution
    from xaikit.runs import Run

SHOWN = 10  # samples in the summary
OF_DATA = ("batch_size", "dtype", "keep_inputs", "repair")  # options that an INPUT does not take


class Explain(ProcessFields, DataFields, ModelJob):
    """Explain a model's decision: writes the attribution and a picture of it.

    INPUT is one image, a .npy with a few samples, a sentence (for a model of texts), or one row of a file (--row). With
    --data, every sample of a data set is explained and written to a folder (--out), shard by shard. After an
    interruption the same command goes on, and several processes or machines can share the work (torchrun). Images for
    models of torchvision, timm and Hugging Face are cropped and scaled as these models expect; --size, --mean and --std
    change that.

    With --prompt or --prompt-file a language model (hf:FOLDER) generates an answer, or --answer gives one, and each
    generated token is explained: the matrix as .npz and .png, and a page (.html).

    --data is a folder of images (labels.csv or class folders), an array (.npy, .npz), a table (.csv, .tsv, .parquet,
    .jsonl: numbers, texts with --text, time series with --series) or module:dataset.

    \b
    Examples:
      xaikit explain cat.jpg --model torchvision:resnet18 --weights resnet18.pt
      xaikit explain cat.jpg --model torchvision:resnet18 --explainer vargrad:n_iter=50
      xaikit explain digit.png --model mynet:make --grey --size 28 --target 3
      xaikit explain "a fine film" --model hf:bert
      xaikit explain people.csv --row 3 --labels outcome --model people:make
      xaikit explain --model hf:story --prompt "Once upon a time" --generate 40 --explainer attn_lrp
      xaikit explain --data photos/ --model torchvision:resnet18 --weights resnet18.pt --out run/
      xaikit explain --data people.csv --labels outcome --model people:make --out run-people/
    """  # noqa: D301 (click reads the backspace: the lines below it stay lines)

    VERB = "explain"

    source: str | None = argument(None, metavar="INPUT", help="An image, a .npy with samples (N, ...), or a sentence.")
    row: int | None = flag(None, help="Row of INPUT to explain. In a .csv the first row is 2, in a .npy or .npz 0.")
    explainer: str = flag("integrated_gradients", help="An explainer, name:key=value,key=value; see xaikit list.")
    target: str = flag("", help=f"{TARGET_HELP} Of INPUT also one class per sample: 3,1,2.")
    out: Path | None = flag(
        None, help="Result: .npz (default: INPUT.EXPLAINER.npz) or .safetensors; with --data a folder."
    )
    figure: bool = flag(True, help="Draw a figure (.png) beside the result; with --data of the columns of a table.")
    batch_size: int = flag(32, help="With --data: samples in one pass through the model.")
    dtype: str = flag("", help="With --data: type of the stored attributions: float16, bfloat16, float32.")
    keep_inputs: bool = flag(True, help="With --data: store the samples too; a report shows them.")
    repair: bool = flag(False, help="Check every shard in the folder and compute damaged ones again.")
    seed: int = flag(0, help="Seed of the explainer's random numbers.")
    prompt: str = flag("", help="Text that a language model continues; each token of its answer is explained.")
    prompt_file: Path | None = flag(None, help="File with the prompt; .json holds messages with role and content.")
    generate: int | None = flag(None, help="Most tokens that the model generates after the prompt (default: 20).")
    answer: str = flag("", help="The answer to explain, instead of one that the model generates.")
    units: str = flag("tokens", help="With a prompt: tokens, words, sentences or lines.")

    def run(self) -> int:
        """Explain, write, summarise."""
        from xaikit.core.errors import InvalidInputError

        has_prompt = bool(self.prompt or self.prompt_file)
        sources = {f"INPUT {self.source}": self.source is not None, "--data": bool(self.data), "--prompt": has_prompt}
        choices = [name for name, is_set in sources.items() if is_set]
        if len(choices) != 1:
            raise InvalidInputError(
                "name either an INPUT, or --data, a whole data set, or a --prompt; got "
                + (" and ".join(choices) or "none of them")
            )
        if has_prompt:
            from xaikit.cli.generation import explain_prompt

            return explain_prompt(self)
        if self.answer or self.generate is not None or self.units != "tokens":
            raise InvalidInputError("--answer, --generate and --units belong to a --prompt; name one")
        if self.source is None:
            return self.shared() if self.starts_others else self._all()
        if self.starts_others:
            raise InvalidInputError("--processes share a whole data set, --data; INPUT takes one")
        idle = [n for n in OF_DATA if getattr(self, n) != type(self).model_fields[n].default]
        if idle:
            raise InvalidInputError(
                f"--{idle[0].replace('_', '-')} is about a data set, --data, and not about one INPUT"
            )
        return self._one(self.source)

    def how_to_go_on(self) -> str:
        """Of a data set, finished shards stay."""
        return f"the same command goes on with {self.out}" if self.data else super().how_to_go_on()

    def _one(self, source: str) -> int:
        import torch

        from xaikit.cli.hugging_face import classes_of
        from xaikit.cli.options import check_out, class_words, run_model
        from xaikit.cli.single import read_input
        from xaikit.cli.summary import as_json, check_classes, summary
        from xaikit.cli.targets import check_target, read_target, targets_for
        from xaikit.core import EXPLAINERS
        from xaikit.core.targets import looks_at_all_heads

        name = EXPLAINERS.create(self.explainer).NAME
        if self.out is not None:
            check_out(self.out, ".npz", ".safetensors")
        sample_input = read_input(self, source)
        classes = class_words(self.classes) or classes_of(self.model)
        target = read_target(self.target, classes, per_sample=True)
        result = self.out or Path(f"{sample_input.name}.{name}.npz")
        model = self.loaded()
        explainer = self.with_embedding_layer(model, sample_input.inputs).bound(self.explainer, model)
        inputs = sample_input.inputs.to(explainer.device)
        targets = targets_for(target, inputs, sample_input.label, model, explainer.head)
        check_target(target, model, inputs, explainer.head)
        # A target of several outputs has no prediction beside it.
        output = torch.empty(len(inputs)) if looks_at_all_heads(targets) else run_model(model, inputs, explainer.head)
        check_classes(classes, output)
        attribution = explainer.explain(inputs, targets, seed=self.seed)
        result.parent.mkdir(parents=True, exist_ok=True)
        written = [attribution.save(result)]
        if self.figure:
            written += self._draw(attribution, sample_input, classes, result.with_suffix(".png"))
        text = f"{summary(attribution, sample_input, output, classes)}\nwrote {', '.join(map(str, written))}"
        self.tell(text, **as_json(attribution, output, classes), written=[str(path) for path in written])
        return 0

    def _draw(
        self, attribution: Attribution, sample_input: SampleInput, classes: Sequence[str], path: Path
    ) -> list[Path]:
        """The figure, where there is a way to draw such a shape."""
        from xaikit.cli.summary import fits
        from xaikit.report import Names
        from xaikit.report.figures import KINDS

        values = attribution.values
        if values.ndim not in KINDS:
            self.note(f"no figure for an attribution of shape {tuple(values.shape)}")
            return []
        tokenizer, same_form = sample_input.tokenizer, fits(values, sample_input)
        names = Names(
            classes=classes,
            features=sample_input.features if same_form else (),
            tokens=None if tokenizer is None else tokenizer.convert_ids_to_tokens,
        )
        # At a layer an image is still seen under the map; a series or a row has other parts there.
        under = values.ndim == sample_input.picture.ndim == 4 or same_form
        attribution.plot(sample_input.picture if under else None, names=names).savefig(path, dpi=120)
        return [path]

    def _draw_columns(self, run: Run) -> list[str]:
        """The figure of the columns of a table beside the run's folder; nothing for other data, or a few rows."""
        import torch

        if not len(run) or not isinstance(run[0].values, torch.Tensor) or run[0].values.ndim != 1:
            return []  # before matplotlib is imported, which no picture needs here
        from xaikit.report.columns import columns_figure
        from xaikit.report.conclusion import FEWEST_ROWS

        if len(run) < FEWEST_ROWS:
            return []
        samples = list(run)
        values = torch.stack([sample.values.float() for sample in samples]).numpy()
        inputs = [s.inputs for s in samples if isinstance(s.inputs, torch.Tensor) and s.inputs.shape == s.values.shape]
        known = torch.stack(inputs).float().numpy() if len(inputs) == len(samples) else None
        assert self.out is not None
        path = self.out.with_name(f"{self.out.name}.columns.png")
        columns_figure(values, known, list(run.display_names.get("features", ()))).savefig(path, dpi=120)
        return [str(path)]

    def _all(self) -> int:
        from xaikit.cli import processes
        from xaikit.cli.run_summary import run_summary
        from xaikit.cli.targets import LABEL
        from xaikit.core.errors import InvalidInputError
        from xaikit.runs import explain_dataset, load_run
        from xaikit.runs.source import SampleSource

        if self.out is None:
            raise InvalidInputError("--data needs --out, the folder of the run")
        data, model = self.samples(self.model), self.loaded()
        data = self.fit_labels(data, model, needed=self.target == LABEL)
        first = SampleSource(data).first()[0]
        target = self.checked_target(self.target, data, model, first)
        run = explain_dataset(
            self.with_embedding_layer(model, first).bound(self.explainer, model),
            data,
            out=self.out,
            targets="predicted" if target is None else target,
            batch_size=self.batch_size,
            dtype=self.dtype or None,
            keep_inputs=self.keep_inputs,
            seed=self.seed,
            repair=self.repair,
            progress=not self.quiet,
        )
        together = processes.wait_for_all()
        if processes.rank() > 0:
            return 0  # the first process tells
        run = load_run(self.out) if together else run
        written = self._draw_columns(run) if self.figure else []
        for reason in list(run.skipped.values())[:SHOWN]:
            typer.echo(f"xaikit: skipped: {printable(reason)}", err=True)
        counts = {"explained": len(run), "skipped": len(run.skipped), "missing": run.n_missing}
        drawn = f"\nwrote {', '.join(written)}" if written else ""
        self.tell(run_summary(run, self.out) + drawn, **counts, run=str(self.out), written=written)
        n_bad = sum(not math.isfinite(row["score"]) for row in run.rows() if row["score"] is not None)
        if n_bad:
            typer.echo(f"xaikit: the model gives NaN or infinite scores for {n_bad} of {len(run)} samples", err=True)
        # What was left out must not look like success to a script.
        return 1 if run.skipped or n_bad else 0

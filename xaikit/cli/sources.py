"""Fields that most verbs share: the model, the data, the masks, the device. Each field is a flag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from xaikit.cli.job import Job, flag

if TYPE_CHECKING:
    from torch import nn

    from xaikit.cli.class_names import ClassNames
    from xaikit.core import Explainer
    from xaikit.files.pictures import Preparation


TARGET_HELP = (
    "What is explained: a class (3, or a word of --classes), 'label', or a target: contrast:for_=3,against=5, "
    "position:position=-1,index=5, region:class_=1, heads:... Default: the predicted class."
)


class ModelJob(Job):
    """A verb that needs a model."""

    model: str = flag(help="module:factory (its code is run), torchvision:NAME, timm:NAME, or hf:FOLDER.")
    weights: Path | None = flag(None, help="File with the model's weights: .safetensors or .pt.")
    layer: str = flag("", help="Explain this layer's output instead of the input.")
    head: str = flag("logits", help="Name or position of the output, if the model returns several.")
    device: str = flag("cpu", help="Where to run: cpu, cuda, ...")

    def loaded(self) -> nn.Module:
        """The model with its weights, on its device."""
        from xaikit.cli.models import load_model
        from xaikit.cli.options import device_of
        from xaikit.core.layers import find_point

        where = device_of(self.device)
        model = load_model(self.model, self.weights).to(where)
        if self.layer:
            find_point(model, self.layer)  # before anything is computed
        return model

    def bound(self, explainer: str, model: nn.Module) -> Explainer:
        """The explainer for the model, its layer (which a spec may name by itself) and its head."""
        from xaikit.core import EXPLAINERS

        unbound: Explainer = EXPLAINERS.create(explainer)
        view = self.view()
        return unbound.set_kwargs(model=model, **view if unbound.layer is None else {"head": view["head"]})

    def with_embedding_layer(self, model: nn.Module, inputs: Any) -> Self:
        """The job with the model's embedding as its layer, if the samples are token ids and no layer is named."""
        from xaikit.core.opening import embedding_layers
        from xaikit.core.structure import flatten
        from xaikit.explainers import Gradient

        if self.layer or any(t.is_floating_point() for t in flatten(inputs)[0]):
            return self
        layers = embedding_layers(Gradient(model), inputs)
        return self.model_copy(update={"layer": layers[0]}) if layers else self

    def view(self) -> dict[str, Any]:
        """The explainer's settings `head` and, if it is named, `layer`."""
        head = int(self.head) if self.head.isdecimal() else self.head
        return {"head": head, **({"layer": self.layer} if self.layer else {})}

    def checked_target(self, text: str, data: Any, model: nn.Module, first: Any) -> Any:
        """What --target names; one that the model does not have is refused before any work.

        Args:
            text: the value of --target.
            data: a data set, whose classes may be named.
            model: that is explained.
            first: inputs of one sample.
        """
        from xaikit.cli.targets import check_target, read_target

        target = read_target(text, getattr(data, "classes", ()))
        check_target(target, model, first, self.view()["head"])
        return target

    def fit_labels(self, data: Any, model: nn.Module, *, needed: bool) -> Any:
        """The data with labels that fit the model's outputs, see `xaikit.cli.class_names.fit_labels`."""
        from xaikit.cli.class_names import fit_labels

        return fit_labels(data, model, self.view()["head"], needed=needed)


class ImageFields(Job):
    """Options for reading images."""

    size: str = flag("", help="Size of images: 224 (centre square) or 240x320 (height x width).")
    grey: bool = flag(False, help="Read images as one grey channel.")
    mean: str = flag("", help="Mean subtracted from pixels in [0, 1]: one number per channel, or 'imagenet'.")
    std: str = flag("", help="Standard deviation that then divides the pixels, as for --mean.")

    def preparation(self, model: str) -> Preparation:
        """The preparation of images; by default that of the model's own library."""
        from xaikit.cli.options import preparation

        return preparation(model, self.size, self.grey, self.mean, self.std)

    def refuse_preparation(self, source: str) -> None:
        """Refuse the options for images where the samples are none: nothing would come of them.

        Args:
            source: of the samples, for the message.

        Raises:
            InvalidInputError: where one is set.
        """
        from xaikit.core.errors import InvalidInputError

        name = next((n for n in ("size", "grey", "mean", "std") if getattr(self, n)), "")
        if name:
            raise InvalidInputError(
                f"--{name} prepares images, and {source} holds none; prepare its numbers in the file, and leave it out"
            )


class DataFields(ImageFields):
    """Options that name the samples."""

    data: str = flag(
        "",
        help="Folder of images (labels.csv or class folders), .npy, .npz, .csv, .parquet, .jsonl, module:dataset.",
    )
    labels: str = flag("", help="Column of a table with the labels; images have labels.csv (columns file, label).")
    classes: str = flag("", help="Class names in the order of the model's outputs: no,yes. Default: alphabetical.")
    text: str = flag("", help="Column of a table with the texts; the model gets their token ids. Of a .jsonl: text.")
    tokenizer: str = flag("", help="hf:FOLDER with the tokenizer. Default: that of --model hf:FOLDER.")
    columns: str = flag("", help="Columns of a table that the model gets: age,sex. Default: all but the labels.")
    one_hot: str = flag("", help="Columns of categories, each category a column of 0 and 1: sex,city")
    standardise: bool = flag(False, help="Columns of numbers get mean 0 and standard deviation 1, by those of --data.")
    encoding: Path | None = flag(
        None, help="How columns become numbers, .json: used if it is there, else written (--one-hot, --standardise)."
    )
    series: str = flag("", help="Columns of a series' name and of the time, for a table in long form: id,time")
    length: int = flag(128, help="Number of tokens of each text; longer ones are cut, shorter ones padded.")
    strict: bool = flag(False, help="Stop at an unreadable image instead of leaving it out.")

    def samples(self, model: str, class_names: ClassNames | None = None, encoding: Any = None) -> Any:
        """The data set; its labels may use the known class names, else those of --classes or of the model.

        Args:
            model: that gets the samples.
            class_names: known ones.
            encoding: of other data's columns, which is used for these.
        """
        from xaikit.cli.class_names import ClassNames
        from xaikit.cli.data import open_data
        from xaikit.cli.hugging_face import classes_of, tokenizer_of
        from xaikit.cli.options import class_words, split_list
        from xaikit.cli.table_data import TableOptions, TextReader
        from xaikit.core.errors import InvalidInputError

        if not self.data:
            raise InvalidInputError("--data is missing: a folder of images, .npy, .npz, a table, or module:dataset")
        reader = self.tokenizer or model
        options = TableOptions(
            labels=self.labels,
            text=self.text,
            columns=split_list(self.columns),
            one_hot=split_list(self.one_hot),
            standardise=self.standardise,
            encoding=self.encoding if encoding is None else encoding,
            series=split_list(self.series),
            length=self.length,
        )
        is_text = bool(self.text) or Path(self.data).suffix.lower() == ".jsonl"
        if self.length != type(self).model_fields["length"].default and not is_text:
            raise InvalidInputError(f"--length is about texts (--text COLUMN), and {self.data} holds none")
        data = open_data(
            self.data,
            self.preparation(model),
            options=options,
            classes=ClassNames(class_words(self.classes), classes_of(model)) if class_names is None else class_names,
            tokenizer=TextReader(tokenizer_of(reader), reader) if is_text else None,
            strict=self.strict,
        )
        if getattr(data, "pictures", None) is None:
            self.refuse_preparation(self.data)
        return data


class MaskFields(DataFields):
    """A region of the samples: a file, or names."""

    mask: Path | None = flag(
        None,
        help="Where relevance should lie: .png, .npy, a folder named like the images, COCO, LabelMe, CVAT or YOLO.",
    )
    mask_label: str = flag("", help="Only these labels of annotations, or numbers of an index picture: ruler,patch")
    mask_names: str = flag("", help="Instead of --mask: columns of a table, or tokens of texts: age,sex")

    def masks(self, data: Any, *, by_class: bool = False) -> Any:
        """The masks for some data, one for each class where that is said; None where none are named."""
        from xaikit.cli.masks import read_masks
        from xaikit.cli.options import split_list

        labels = split_list(self.mask_label)
        return read_masks(self.mask, split_list(self.mask_names), data, by_class=by_class, labels=labels)

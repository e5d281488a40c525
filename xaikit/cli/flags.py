"""Messages of the library in the terms of the command line: the remedy is a flag, not an argument of Python."""

from __future__ import annotations

import re
from collections.abc import Callable

# Flags that have another name than the argument.
FLAGS = {
    "targets": "--target",
    "space": "--vary",
    "n_trials": "--trials",
    "study_name": "--study",
    "relevant_region": "--mask",
    "shortcut_masks": "--mask",
    "masks": "--mask",
    "head": "--head",
    "layer": "--layer",
    "model": "--model",
    "postprocess": "--postprocess",
    "storage": "--storage",
    "explainers": "--explainer",
    "n_epochs": "--epochs",
}
# Phrases that name no argument.
PHRASES: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"repair=True \(--repair\)": "--repair",
    r"resume=True \(--resume\)": "--resume",
    r"pass space=\{setting: [^}]*\}": "name other settings with --vary",
    r"bring them to one size(?!,)": "bring them to one size, images with --size",
    r"pass masks (> 127|> 0|== \d+)": r"save as 1 what is \1",
    r"name its output with head=": "name its output with --head",
    r"\bmask_scope='class'": "mask_scope=class",
    r"pass (--mask \S+) (> 127|> 0|== \d+)": r"save as 1 what is \2",
    r"^targets? (must lie|class|position|index)": r"--target \1",
    r"targets='label' needs data of pairs \(x, label\), got samples without a label": "--target label needs data with "
    "labels: class folders or labels.csv for images, 'y' in a .npz, --labels for a table",
    r"^(\w+) must be told where: a batch is \(inputs, labels, masks\), got None for the masks": r"\1 needs to know "
    "where the shortcut is: name it by --mask or --mask-names",
    r"explain the data with keep_inputs=True": "explain the data with --keep-inputs",
    r"name kind='text'": "name --kind text",
    r"facts=\{'channel_axis': 1\}, or -1": "--channel-axis 1, or -1",
    r"from_scratch=True, or": "--from-scratch, or",
    r"or methods= with": "or --method with",
    r"with target_layer=": "with --explainer gradcam:target_layer=NAME",
    r"^(\w+) cannot tune": r"--vary: \1 cannot tune",
    r"^recommend needs a modality \(([^)]*)\) or data": r"name --modality, one of \1, or --data",
    r"^pruner='(\w+)' (.*); pass a loader or a list": r"--pruner \1 \2; name --batch-size",
    r"^data must be a Dataset": "--data module:dataset must be a Dataset",
    r"^cluster must": "--cluster must",
    r"^a budget (is|must)": r"--budget \1",
    r"^groups must name": "--groups must name",
    r"^storage must be": "--storage must be",
    r"; name one with key=": "; save the masks alone as a .npy, and name that with --mask",
    r"^clustering needs (.*)$": r"clustering needs \1; name another number, --method spray:n_clusters=2",
    r"; use class_maps\(\)": "; leave --kind out",
    r"^\w+ takes a torch.nn.Module as its model, got (.*)$": r"a spec holds no model, got \1; name it with --model",
    r"(; |, or )name another folder$": r"\1name another folder with --out",
    r"^(seed|batch_size|dtype|confidence|limit|timeout|seconds|max_loss) must": lambda m: (
        f"--{m[1].replace('_', '-')} must"
    ),
}
ARGUMENT = re.compile(rf"\b({'|'.join(FLAGS)})=(?![\w'\"{{(\[])")


def in_flags(text: str) -> str:
    """A sentence with each argument that it names by itself (``head=``) as the flag (``--head``).

    Args:
        text: a message of the library.

    >>> in_flags("name its output with head=, one of ['a']")
    "name its output with --head, one of ['a']"
    """
    for phrase, replacement in PHRASES.items():
        text = re.sub(phrase, replacement, text)
    return ARGUMENT.sub(lambda match: FLAGS[match[1]], text)

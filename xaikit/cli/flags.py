"""Messages of the library in the terms of the command line: the remedy is a flag, not an argument of Python."""

from __future__ import annotations

import re

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
}
# Phrases that name no argument.
PHRASES = {
    r"repair=True \(--repair\)": "--repair",
    r"resume=True \(--resume\)": "--resume",
    r"pass space=\{setting: [^}]*\}": "name other settings with --vary",
    r"bring them to one size(?!,)": "bring them to one size, images with --size",
    r"pass masks > (127|0)": r"save as 1 what is > \1",
    r"name its output with head=": "name its output with --head",
    r"\bmask_scope='class'": "mask_scope=class",
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

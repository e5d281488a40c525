"""`xaikit explain --prompt` against the library called directly, and what it says to a wrong call."""

from __future__ import annotations

import json

import pytest
import torch

from tests.unit.language import small_models
from xaikit import AttnLRP
from xaikit.cli import main
from xaikit.language import Generation, explain_generation

TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small"
    small_models.llama().save_pretrained(path)
    small_models.byte_level().save_pretrained(path)
    return path


def leave(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_code:
        main.run(["explain", *arguments])
    return int(exit_code.value.code or 0)


def test_a_prompt_by_the_command_line_is_as_by_the_library(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("--model", f"hf:{folder}", "--explainer", "attn_lrp", "--prompt", TEXT, "--generate", "4", "--json")
    assert leave(*arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    result = Generation.load("text-the-capital-of-france-is.attn_lrp.npz")
    assert len(printed["rows"]) == 4
    assert [path.rpartition(".")[2] for path in printed["written"]] == ["npz", "png", "html"]
    assert all((tmp_path / path).stat().st_size > 1000 for path in printed["written"])
    model = type(small_models.llama()).from_pretrained(folder)
    expected = explain_generation(AttnLRP(model), small_models.byte_level(), TEXT, generation={"max_new_tokens": 4})
    assert torch.allclose(result.values, expected.values, atol=1e-6)
    assert result.generated == expected.generated


def test_messages_in_a_file_and_an_answer(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.json").write_text(json.dumps([{"role": "user", "content": "What is the capital?"}]))
    arguments = ("--prompt-file", "chat.json", "--answer", "Rome is.", "--units", "words", "--no-figure")
    arguments += ("--out", "result.npz", "--explainer", "gradient_x_input", "--target", "log_probability")
    assert leave("--model", f"hf:{folder}", *arguments) == 0
    result = Generation.load("result.npz")
    assert (result.answer, result.units, result.score) == ("Rome is.", "words", "log_probability")
    assert "answer: 'Rome is.'" in capsys.readouterr().out
    assert not (tmp_path / "result.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "a", "--prompt-file", "b"), "either --prompt or --prompt-file"),
        (("--prompt", "a", "--answer", "b", "--generate", "3"), "either --answer"),
        (("--prompt", "a", "--generate", "0"), "--generate must be at least 1"),
        (("--prompt", "a", "--units", "pages"), "--units of a prompt is one of tokens"),
        (("--prompt", "a", "--target", "3"), "--target of a prompt is one of logit"),
        (("--prompt-file", "nowhere.txt"), "holds no prompt that can be read"),
        (("picture.png", "--answer", "b"), "belong to a --prompt"),
        (("picture.png", "--prompt", "b"), "name either an INPUT"),
    ],
)
def test_wrong_calls(folder, arguments, message, capsys):
    assert leave("--model", f"hf:{folder}", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_tokenizer(capsys):
    assert leave("--model", "xaikit.cli.demo_digits:make_network", "--prompt", "a") == 2
    assert "a prompt needs a tokenizer" in capsys.readouterr().err

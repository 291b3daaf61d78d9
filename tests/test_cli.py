from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from weibull_monitor.cli import main


def test_components_of_a_configuration_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CONFIG_MAPPING["gpt_neox"](
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    ).save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "config.json"):
        assert main(["components", str(source)]) == 0
        text = capsys.readouterr().out
        assert "attn_qkv   mixed                2      -" in text
        assert "attention: gpt_neox.layers: MHA 4/4 heads of 8, fused (2 blocks)" in text


def test_components_lists_names_and_heads_and_takes_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["components", "bloom", "--list", "--resolution", "head", "--kind", r"word_embeddings\.weight=other"]) == 0
    )
    text = capsys.readouterr().out
    assert "transformer.h.1.self_attention.query_key_value.weight[q, head 5]" in text
    assert "other: transformer.word_embeddings.weight (16,056,320 elements): so named by the user" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "'no-such-model' is neither a path nor a model type"),
        (["."], "holds no config.json"),
        (["llama", "--kind", "mixer"], "not of the form PATTERN=KIND"),
        (["llama", "--kind", "q_proj=query"], "'query' is not a kind; the kinds are attn_q"),
        (["timm_backbone"], "no model can be built from the configuration of 'timm_backbone'"),
    ],
)
def test_what_is_wrong_is_one_line_on_standard_error(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["components", *arguments]) == 1
    out = capsys.readouterr()
    assert message in out.err
    assert out.err.count("\n") == 1
    assert not out.out


def test_a_broken_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert main(["components", str(tmp_path)]) == 1
    assert "cannot be read as a configuration" in capsys.readouterr().err


def test_a_wrong_command_line_exits_with_two() -> None:
    with pytest.raises(SystemExit) as raised:
        main(["weigh"])
    assert raised.value.code == 2

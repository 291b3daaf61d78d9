from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from weibull_monitor.cli.main import main


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
    assert "cannot be used as a configuration" in capsys.readouterr().err


def test_a_wrong_command_line_exits_with_two() -> None:
    with pytest.raises(SystemExit) as raised:
        main(["weigh"])
    assert raised.value.code == 2


@pytest.fixture
def broken_run(tmp_path: Path) -> Path:
    """A history of a run with Inf in one matrix from sample 15 on, as a monitor writes it."""
    import json

    from alerts.simulated import ATTENTION, components, healthy, samples_of

    from weibull_monitor.alerts import replay
    from weibull_monitor.history import HistoryWriter, RunRecord

    columns = healthy()
    for now in columns[15:]:
        now["nonfinite"][3] = 7.0
    samples = samples_of(columns)
    record = RunRecord(0.0, None, {}, 1, {}, components(), {}, "0", attention=[ATTENTION])
    writer = HistoryWriter(tmp_path)
    writer.write_run(record)
    for alert in replay(samples, None, [ATTENTION])[:1]:
        writer.write_alert(alert)
    writer.close()
    with writer.path.open("a") as file:
        for s in samples:
            file.write(json.dumps({"type": "snapshot", "step": s.step, "time": 0.0, **s.columns}) + "\n")
    return tmp_path


def test_alerts_replays_a_recorded_run(broken_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", str(broken_run), "--severity", "error"]) == 0
    text = capsys.readouterr().out
    assert "step 150  error  nonfinite  raised" in text
    assert "model.layers.0.attn_o.weight: Inf and NaN 7, expected 0." in text
    assert "1 alert: 1 error raised" in text
    assert "24 samples of 28 matrices and parts" in text


def test_alerts_takes_other_thresholds(broken_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text("alerts.nonfinite = false")
    assert main(["alerts", str(broken_run), "--config", str(tmp_path / "alerts.toml"), "--severity", "error"]) == 0
    assert "no alerts were raised" in capsys.readouterr().out


def test_alerts_shows_the_recorded_alerts(broken_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weibull_monitor import read_history

    assert main(["alerts", str(broken_run), "--recorded"]) == 0
    (recorded,) = read_history(broken_run).alerts
    assert (
        f"step {recorded.step}  {recorded.finding.severity}  {recorded.finding.rule}  raised" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no history at"), ("[alerts.dead]\njmup = 1", "alerts.dead.jmup is not known")]
)
def test_alerts_says_what_is_wrong_in_one_line(
    content: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["alerts", str(tmp_path)]
    if content:
        (tmp_path / "alerts.toml").write_text(content)
        arguments += ["--config", str(tmp_path / "alerts.toml")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1

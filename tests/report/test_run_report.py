import json
import re
from pathlib import Path

import numpy as np
import pytest
from synthetic_comparison import write_critic, write_run

from wmtp.config import Config, Recipe
from wmtp.errors import WMTPError
from wmtp.report.html import write_run_report
from wmtp.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run-7", np.random.default_rng(0), "rho1", 0, steps=40)
    return tmp_path / "run-7"


def page(run: Path) -> str:
    return write_run_report(Run(run, Recipe(), Config())).read_text()


def test_a_run_page_has_its_numbers(run: Path) -> None:
    (run / "environment.json").write_text(json.dumps({"torch": "2.13.0", "threads": 2, "cpu": "<b>"}))
    text = page(run)
    assert "40 steps, 81,920 tokens, 8.8 training seconds" in text
    validation = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert f"head 0: {validation['ce'][0]:.3f} nats per token at step 40" in text
    for title in ("gradient norm", "learning rate", "effective share of tokens", "validation cross-entropy"):
        assert title in text
    evaluation = json.loads((run / "evaluation-tinycode.json").read_text())
    assert f"pass@1 {100 * evaluation['pass_at']['1']['value']:.1f}% ± 3.0%" in text
    assert "<dd>2.13.0</dd>" in text
    assert "&lt;b&gt;" in text
    assert '<td class="n">2.25</td>' in text
    assert "updates were skipped" not in text


def test_problems_that_are_in_no_number_are_told(run: Path) -> None:
    path = run / "evaluation-tinycode.json"
    assert "left out" not in page(run)
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps(evaluation | {"left_out": ["1 problem that <nobody> solves"]}))
    assert "left out: 1 problem that &lt;nobody&gt; solves." in page(run)


def test_skipped_steps_and_bad_scores_are_told(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "train":
            line |= {"skipped_steps": 3, "nonfinite_scores": 7}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page(run)
    assert "3 updates were skipped" in text
    assert "7 scores were not finite" in text


def test_what_was_left_out_of_the_data_is_told(run: Path) -> None:
    assert 'id="data"' not in page(run)
    left_out = {
        "documents": 4321,
        "blank": 1,
        "overlong": 20,
        "unsupervised": 300,
        "pieces": 5,
        "cut": 7,
        "empty": 2,
    }
    training = {"tokens": 98765, "supervised_tokens": 54321, **left_out}
    (run / "data.json").write_text(
        json.dumps({"training": training, "validation": training, "notes": ["training: <left out>"]})
    )
    text = page(run)
    cells = "".join(f'<td class="n">{n}</td>' for n in ("4,321", "321", "7", "98,765", "54,321"))
    assert f'<tr><th scope="row">training</th>{cells}</tr>' in text
    assert "training: &lt;left out&gt;." in text
    (run / "data.json").write_text('{"training": {}}')
    with pytest.raises(WMTPError, match=r"data\.json: training\.tokens: Field required"):
        page(run)


def test_how_completions_ended_is_told(run: Path) -> None:
    path = run / "evaluation-tinycode.json"
    told = {"stops": {"eos": 90, "length": 1200}, "syntax_errors": 3, "verdicts": {"passed": 1, "failed": 9}}
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    text = page(run)
    assert "tinycode, completions ended by: 90 eos, 1,200 length." in text
    assert "tinycode, 3 of 10 samples are not valid Python." in text


def test_what_a_run_lacks_is_left_out_and_named(run: Path) -> None:
    (run / "evaluation-tinycode.json").unlink()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k != "lr"} for line in lines if line["kind"] == "train"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    text = page(run)
    assert 'id="evaluation"' not in text
    for said in ("there is no evaluation-", "learning rate: not in the metrics", "nothing was validated"):
        assert said in text
    assert "Environment: there is no environment.json" in text
    assert "Data: there is no data.json" in text


def test_a_damaged_environment_is_named(run: Path) -> None:
    (run / "environment.json").write_text("{")
    with pytest.raises(WMTPError, match=r"environment\.json: damaged"):
        page(run)


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))


def test_a_critic_has_a_section(run: Path) -> None:
    assert 'id="critic"' not in page(run)
    write_critic(run)
    text = page(run)
    section = text[text.index('<section id="critic">') : text.index('<section id="evaluation">')]
    assert facts(section) == {
        "objective": "gae",
        "AUC": "0.940",
        "explained variance": "0.512",
        "calibration error": "0.062",
        "documents": "1,080 for training, 120 held out",
        "best step": "20 of 30",
        "training seconds": "12.3",
    }
    assert "AUC on held-out documents: from 0.610 to 0.875, 0.940 at best." in section


def test_a_critic_that_learnt_from_pairs_and_one_that_is_not_finished(run: Path) -> None:
    result = write_critic(run) | {"objective": "pairwise", "explained_variance": None, "calibration": None}
    (run / "critic" / "critic.json").write_text(json.dumps(result))
    (run / "critic" / "metrics.jsonl").unlink()
    text = page(run)
    assert facts(text)["explained variance"] == facts(text)["calibration error"] == "—"
    assert "at best" not in text
    (run / "critic" / "critic.json").write_text('{"objective": "gae"}')
    with pytest.raises(WMTPError, match=r"critic\.json: documents: "):
        page(run)
    (run / "critic" / "critic.json").unlink()
    assert 'id="critic"' not in page(run)


def test_a_run_without_a_step_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(WMTPError, match="no training step"):
        page(tmp_path)

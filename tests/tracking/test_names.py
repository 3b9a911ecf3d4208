from wmtp.tracking import names


def test_a_record_becomes_flat_metrics() -> None:
    record = {
        "kind": "train",
        "step": 3,
        "time": 1.5,
        "loss": None,
        "ce": [1.0, None, 2],
        "skipped_steps": 0,
        "note": "text",
        "flag": True,
    }
    assert names.record_metrics(record) == {
        "train/ce_head_0": 1.0,
        "train/ce_head_2": 2.0,
        "train/skipped_steps": 0.0,
    }


def test_a_recipe_becomes_dotted_parameters_that_mlflow_takes() -> None:
    tree = {
        "a": {"b": None, "c": [1, 2]},
        "text": "x" * 600,
        "data": {"where": {"is it?": True}},
        "empty": {},
    }
    assert names.flatten(tree) == {
        "a.b": "null",
        "a.c": "[1, 2]",
        "text": "x" * 500,
        "data.where.is it_": "true",
        "empty": "{}",
    }


def test_results_become_metrics() -> None:
    evaluation = {
        "task": "tinycode",
        "protocol": "tinycode-greedy",
        "pass_at": {"1": {"value": 0.5, "stderr": None}},
        "verdicts": {"passed": 3},
        "decoding": {"tokens_per_forward": 2.5, "acceptance": [0.9]},
    }
    assert names.evaluation_metrics(evaluation) == {
        "evaluation/tinycode/pass_at_1": 0.5,
        "evaluation/tinycode/verdict_passed": 3.0,
        "evaluation/tinycode/tokens_per_forward": 2.5,
        "evaluation/tinycode/acceptance_head_1": 0.9,
    }
    interval = {"value": 0.5, "low": 0.4, "high": None}
    comparison = {
        "arms": [{"name": "rho1", "pass_at_1": interval, "difference": None, "validation_ce": {"value": 2.0}}]
    }
    assert names.comparison_metrics(comparison) == {
        "arms/rho1/pass_at_1": 0.5,
        "arms/rho1/pass_at_1_low": 0.4,
        "arms/rho1/validation_ce": 2.0,
    }

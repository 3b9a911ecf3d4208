import sys
from pathlib import Path

import pytest

from wmtp.config import Config
from wmtp.errors import WMTPError
from wmtp.tracking.store import check_tracking, tracking_uri


def at(uri: str | None, **mlflow: object) -> Config:
    return Config.model_validate({"paths": {"runs": "there"}, "mlflow": {"tracking_uri": uri, **mlflow}})


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:///{here}/there/mlflow.db"),
        ("sqlite:///x/y.db", "sqlite:///{here}/x/y.db"),
        ("sqlite:////x/y.db", "sqlite:////x/y.db"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://[::1]:8/prefix", "https://[::1]:8/prefix"),
        ("postgresql+psycopg2://me@host/mlflow", "postgresql+psycopg2://me@host/mlflow"),
    ],
)
def test_where_runs_go(uri: str | None, expected: str, tmp_path: Path) -> None:
    assert tracking_uri(at(uri)) == expected.format(here=tmp_path)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/x", "./mlruns", "file:///mlruns", "nonsense", "http://", "http://[", ""]
)
def test_an_address_that_is_none_is_one_line(uri: str) -> None:
    with pytest.raises(
        WMTPError, match=r"^mlflow\.tracking_uri '.*': should be http.*sqlite.*null"
    ) as caught:
        tracking_uri(at(uri))
    assert "\n" not in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(WMTPError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        tracking_uri(at("https://me:sesame@host"))
    assert "sesame" not in str(caught.value)


def test_without_mlflow_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(WMTPError, match=r"pip install 'wmtp\[mlflow\]'"):
        check_tracking(at(None))

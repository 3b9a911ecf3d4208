import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from wmtp.experiment.results import Comparison

Written = tuple[Path, Comparison, str]


def screenshot(page: Path, out: Path, *flags: str) -> np.ndarray:
    subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--hide-scrollbars", "--virtual-time-budget=3000", *flags, f"--screenshot={out}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return np.asarray(matplotlib.image.imread(out))[..., :3]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
def test_the_page_renders_light_dark_and_narrow(written: Written, tmp_path: Path) -> None:
    page = written[0] / "report.html"
    light = screenshot(page, tmp_path / "light.png", "--window-size=1200,3000")
    dark = screenshot(page, tmp_path / "dark.png", "--window-size=1200,3000", "--force-dark-mode")
    np.testing.assert_allclose(light[0, 0], [1, 1, 1])
    np.testing.assert_allclose(dark[0, 0], np.array([0x14, 0x17, 0x1B]) / 255, atol=0.01)
    for picture in (light, dark):
        for series in (slice(0, 1000), slice(1000, 2000), slice(2000, 3000)):
            colours = np.unique((picture[series] * 255).astype(np.uint8).reshape(-1, 3), axis=0)
            assert len(colours) > 50
    narrow = screenshot(page, tmp_path / "narrow.png", "--window-size=500,3000")
    # Nothing is wider than the window: the margin on the right stays empty.
    assert narrow.shape[1] == 500
    np.testing.assert_allclose(narrow[:, -8:], 1)

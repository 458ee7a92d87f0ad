"""Run in the image's build: everything in it works, for a user that has no entry and no home."""

import os
import shutil
import subprocess
import sys
import tempfile

ANYBODY = 12345


def main() -> None:
    """As somebody without rights, in a directory of their own, as a node runs tasks."""
    home = tempfile.mkdtemp()
    os.chmod(home, 0o777)
    if os.fork() == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(ANYBODY)
            os.setuid(ANYBODY)
        os.environ["HOME"] = home
        os.chdir(home)
        look()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    shutil.rmtree(home)
    if status:
        sys.exit(f"the smoke test failed with {status}")


def look() -> None:
    import joblib
    import numpy as np
    import pandas as pd
    import pyarrow
    import scipy
    import sklearn
    from scipy import linalg
    from sklearn.linear_model import Ridge

    x = np.random.default_rng(0).normal(size=(200, 5))
    y = x @ np.arange(5.0)
    assert np.allclose(Ridge(alpha=1e-9).fit(x, y).coef_, np.arange(5.0), atol=1e-6)
    assert np.allclose(linalg.lstsq(x, y)[0], np.arange(5.0))
    pd.DataFrame(x, columns=list("abcde")).to_parquet("x.parquet")
    assert np.array_equal(pd.read_parquet("x.parquet").to_numpy(), x)
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in (-1, -2)) == [1, 2]
    installer = subprocess.run(["uv", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", "environment"], check=True)
    seen = "import numpy, sys; print(sys.prefix != sys.base_prefix, numpy.__version__)"
    within = subprocess.run(["environment/bin/python", "-c", seen], check=True, capture_output=True, text=True).stdout
    assert within.split() == ["True", np.__version__], within
    versions = {module.__name__: module.__version__ for module in (np, scipy, pd, sklearn, pyarrow, joblib)}
    print(f"smoke test passed: Python {sys.version.split()[0]}, {installer}, {versions}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

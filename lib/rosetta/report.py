"""What `make reproduce` ends with: where the results are, and the exponent of each curve."""

import sys

import pandas as pd

from rosetta.study import Study


def summary(study: Study) -> str:
    """The folders of a finished run and its fitted exponents, as text."""
    lines = [f"{what:<10}{study.folder / folder}" for what, folder in
             (("figures", "figures"), ("tables", "tables"), ("notebooks", "notebooks"))]  # fmt: skip
    fits = pd.read_csv(study.folder / "tables" / "fits.csv")
    lines.append("")
    for fit in fits.itertuples():
        interval = f"[{fit.alpha_low:.2f}, {fit.alpha_high:.2f}]"
        lines.append(
            f"{fit.curve:<18}{fit.count:<12}alpha = {fit.alpha:.2f} {interval:<16}R2 = {fit.r2:.3f}   {fit.points} points"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(Study(*sys.argv[1:])))

"""What `make reproduce` ends with, and the figures and tables that the README shows (`make figures`)."""

import argparse
from pathlib import Path

import pandas as pd

from rosetta.results import write_whole
from rosetta.studies.matches import Study


def summary(study: Study) -> str:
    """The folders of a finished run and the fitted exponent of each curve, as text."""
    lines = [f"{what:<11}{study.folder / what}" for what in ("figures", "tables", "notebooks")]
    lines.append(f"{'explorer':<11}{study.folder / 'explorer.html'}")
    lines += took(study.folder / "benchmarks")
    fits = pd.read_csv(study.folder / "tables" / "fits.csv")
    for count, group in fits.groupby("count", sort=False):
        lines.append(f"\n|R| = c x^alpha, {count} count")
        for fit in group.itertuples():
            interval = f"[{fit.alpha_low:.2f}, {fit.alpha_high:.2f}]"
            lines.append(f"{fit.curve:<18}alpha = {fit.alpha:.2f} {interval:<14}R2 = {fit.r2:.3f}, {fit.points} sizes")
    return "\n".join(lines)


def took(folder: Path) -> list[str]:
    """The time in which at least one notebook ran, and the largest memory of one, from the engine's records (MiB, s)."""
    rows = []
    for file in folder.rglob("*.tsv"):
        row, ended = pd.read_csv(file, sep="\t").iloc[-1], file.stat().st_mtime
        name = " ".join(file.relative_to(folder).with_suffix("").parts)
        rows.append((ended - row.s, ended, 0.0 if pd.isna(row.max_rss) else float(row.max_rss), name))
    if not rows:
        return []
    wall = last = 0.0
    for started, ended, _, _ in sorted(rows):  # they overlap, and lie apart where a run was stopped and went on
        wall += max(0.0, ended - max(started, last))
        last = max(last, ended)
    memory, name = max((memory, name) for _, _, memory, name in rows)
    return [
        f"{'time':<11}{wall / 60:.1f} min for {len(rows)} notebooks",
        f"{'memory':<11}{memory / 1024:.2f} GiB at most, {name}",
    ]


def publish(study: Study, folder: Path) -> None:
    """Copy a run's figures and tables, and of the matching runs those of the example pair."""
    figures, tables = study.folder / "figures", study.folder / "tables"
    example = figures / "02_matching" / "+".join(study.profile.example)
    for source in (*figures.glob("*.png"), *example.glob("*.png"), *tables.glob("*.csv")):
        write_whole(folder / source.name, lambda path, source=source: path.write_bytes(source.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", nargs="?", default="micro")
    parser.add_argument("--results", default="results")
    parser.add_argument("--publish", type=Path, help="copy figures and tables to this folder")
    arguments = parser.parse_args()
    study = Study(arguments.profile, arguments.results)
    if arguments.publish:
        publish(study, arguments.publish)
    print(summary(study))


if __name__ == "__main__":
    main()

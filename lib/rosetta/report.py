"""What `make reproduce` ends with, and the figures and tables that the README shows (`make figures`)."""

import argparse
from pathlib import Path

import pandas as pd

from rosetta.profiles.profile import ProfileError
from rosetta.results import write_whole
from rosetta.studies.matches import Study


def summary(study: Study) -> str:
    """The folders of a finished run and the fitted exponent of each curve, as text."""
    lines = [f"{what:<11}{study.folder / what}" for what in ("figures", "tables", "notebooks")]
    lines += [f"{'explorer':<11}{page}" for page in sorted(study.folder.glob("explorer*.html"))]
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
    names = {file.relative_to(folder).with_suffix("").parts: file for file in folder.rglob("*.tsv")}
    files = {" ".join(parts): file for parts, file in names.items() if parts[0] != "pictures"}  # which are no notebooks
    if not files:
        return []
    runs = pd.concat({name: pd.read_csv(file, sep="\t").tail(1) for name, file in files.items()}).droplevel(1)
    runs["ended"] = [file.stat().st_mtime for file in files.values()]
    runs = runs.assign(started=runs.ended - runs.s, max_rss=runs.max_rss.fillna(0)).sort_values("started")
    # They overlap, and lie apart where a run was stopped and went on.
    idle = (runs.started - runs.ended.cummax().shift()).clip(lower=0).sum()
    minutes = (runs.ended.max() - runs.started.min() - idle) / 60
    most = f"{runs.max_rss.max() / 1024:.2f} GiB at most, {runs.max_rss.idxmax()}"
    return [f"{'time':<11}{minutes:.1f} min for {len(runs)} notebooks", f"{'memory':<11}{most}"]


def publish(study: Study, folder: Path) -> None:
    """Copy a run's figures and tables, and of the matching runs those of the example pairs."""
    figures, tables, images = study.folder / "figures", study.folder / "tables", study.profile.images
    examples = [study.profile.example, *([images.pair] if images else [])]
    of_pairs = [file for pair in examples for file in (figures / "02_matching" / "+".join(pair)).glob("*.png")]
    for source in (*figures.glob("*.png"), *of_pairs, *tables.glob("*.csv")):
        write_whole(folder / source.name, lambda path, source=source: path.write_bytes(source.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", nargs="?", default="micro")
    parser.add_argument("--results", default="results")
    parser.add_argument("--publish", type=Path, help="copy figures and tables to this folder")
    arguments = parser.parse_args()
    try:
        study = Study(arguments.profile, arguments.results)
    except ProfileError as error:
        parser.error(str(error))
    if not (study.folder / "tables" / "fits.csv").is_file():
        parser.error(f"{study.folder} holds no finished run; `make reproduce PROFILE={arguments.profile}` makes one")
    if arguments.publish:
        publish(study, arguments.publish)
    print(summary(study))


if __name__ == "__main__":
    main()

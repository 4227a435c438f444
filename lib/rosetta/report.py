"""What `make reproduce` ends with: a summary and a page; and what the README shows of a run (`make figures`)."""

import argparse
import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from rosetta.models.load import fingerprint
from rosetta.profiles.profile import ProfileError
from rosetta.results import made_by, write_whole
from rosetta.sources import scenes, text
from rosetta.studies import scorecard
from rosetta.studies.matches import Study
from rosetta.studies.pinned import kept
from rosetta.viewer.report import Judged, write_report


def summary(study: Study) -> str:
    """The folders of a finished run and the fitted exponent of each curve, as text."""
    lines = [f"{what:<11}{study.folder / what}" for what in ("figures", "tables", "notebooks")]
    lines += [f"{'explorer':<11}{page}" for page in sorted(study.folder.glob("explorer*.html"))]
    lines.append(f"{'report':<11}{study.folder / 'report.html'}")
    lines += took(study.folder / "benchmarks")
    fits = pd.read_csv(study.folder / "tables" / "fits.csv")
    for count, group in fits.groupby("count", sort=False):
        lines.append(f"\n|R| = c x^alpha, {count} count")
        for fit in group.itertuples():
            interval = f"[{fit.alpha_low:.2f}, {fit.alpha_high:.2f}]"
            lines.append(f"{fit.curve:<18}alpha = {fit.alpha:.2f} {interval:<14}R2 = {fit.r2:.3f}, {fit.points} sizes")
    return "\n".join(lines)


def took(folder: Path) -> list[str]:
    """The time in which at least one notebook ran, and the largest memory of one, from the engine's records."""
    runs = benchmarks(folder)
    runs = runs[[not name.startswith(("pictures ", "shards ")) for name in runs.index]]  # which are no notebooks
    if not len(runs):
        return []
    runs = runs.assign(started=runs.ended - runs.s).sort_values("started")
    # They overlap, and lie apart where a run was stopped and went on.
    idle = (runs.started - runs.ended.cummax().shift()).clip(lower=0).sum()
    minutes = (runs.ended.max() - runs.started.min() - idle) / 60
    most = f"{runs.max_rss.max() / 1024:.2f} GiB at most, {runs.max_rss.idxmax()}"
    return [f"{'time':<11}{minutes:.1f} min for {len(runs)} notebooks", f"{'memory':<11}{most}"]


def benchmarks(folder: Path) -> pd.DataFrame:
    """The engine's records of the jobs of a run, by name: ``s``, ``max_rss`` (MiB), and when they ``ended``."""
    files = {" ".join(file.relative_to(folder).with_suffix("").parts): file for file in sorted(folder.rglob("*.tsv"))}
    rows = {
        name: {**pd.read_csv(file, sep="\t").iloc[-1][["s", "max_rss"]].fillna(0), "ended": file.stat().st_mtime}
        for name, file in files.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["s", "max_rss", "ended"]).astype(float)


def page(study: Study) -> Path:
    """Write ``report.html``: all figures with claims and verdicts, and what made them, in one file that needs no network."""
    card = scorecard.scorecard(scorecard.Tables(study.folder / "tables", study.profile))
    claims = [Judged(**row) for row in card[list(Judged._fields)].to_dict("records")]
    runs = [("job", "seconds", "memory, GiB")]
    runs += [(name, f"{row.s:,.1f}", f"{row.max_rss / 1024:.2f}") for name, row in benchmarks(study.folder / "benchmarks").iterrows()]  # fmt: skip
    made = made_by(scorecard.__name__)
    versions = [("library", "version"), ("this library's code", made["code"]), *made["libraries"].items(), ("machine", platform.platform())]  # fmt: skip
    models = [("model", "digest of its files, or its revision", "commit of the model hub")]
    models += [(name, fingerprint(spec), kept(spec, study.folder) or "") for name, spec in study.profile.models.items()]
    data = [("data", "digest or source"), *_data(study)]
    seeds = [("number of the profile", "seed"), *_seeds(study.profile.model_dump(exclude={"models"}))]
    tables = {"Time and memory": runs, "Versions": versions, "Seeds": seeds, "Models": models, "Text and images": data}
    note = f"Profile {study.profile.name}, beside arXiv 2606.03990. Brackets are 95% intervals. Verdicts follow from rules: open a claim to read its own."  # fmt: skip
    title = f"Rosetta Neurons across scale: {study.profile.name}"
    return write_report(study.folder / "report.html", title, note, claims, shown(study), tables)


def _data(study: Study) -> Iterator[tuple[str, str]]:
    state = json.dumps(text.state(study.profile.corpus), sort_keys=True, default=str)
    yield f"text, {study.profile.corpus['kind']}", hashlib.sha256(state.encode()).hexdigest()
    if study.profile.images:
        real = study.profile.images.real
        yield f"images, {real['kind']}", scenes.digest() if real["kind"] == "scenes" else str(real)


def _seeds(section: dict, within: str = "") -> Iterator[tuple[str, str]]:
    """Every seed of a profile, by the path of its name."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _seeds(value, f"{within}{key}.")
        elif "seed" in str(key):
            yield f"{within}{key}", ", ".join(map(str, value if isinstance(value, list | tuple) else [value]))


def shown(study: Study) -> list[Path]:
    """The figures of a run, the paper's first; of the matching runs those of the example pairs."""
    figures, images = study.folder / "figures", study.profile.images
    examples = [study.profile.example, *([images.pair] if images else [])]
    of_pairs = [file for pair in examples for file in (figures / "02_matching" / "+".join(pair)).glob("*.png")]
    return sorted(
        [*figures.glob("*.png"), *of_pairs], key=lambda file: (not file.name.startswith(("fig", "table")), file.name)
    )


def publish(study: Study, folder: Path) -> None:
    """Copy a run's figures and tables, and put its claims into the README beside the folder, if that has marks for them."""
    for source in (*shown(study), *(study.folder / "tables").glob("*.csv")):
        write_whole(folder / source.name, lambda path, source=source: path.write_bytes(source.read_bytes()))
    readme = folder.resolve().parent / "README.md"
    if readme.is_file() and all(mark in readme.read_text(encoding="utf-8") for mark in scorecard.MARKS.values()):
        scorecard.describe(readme, scorecard.Tables(folder, study.profile))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", nargs="?", default="micro")
    parser.add_argument("--results", default="results")
    parser.add_argument("--publish", type=Path, help="copy figures and tables to this folder; claims into its README")
    arguments = parser.parse_args()
    try:
        study = Study(arguments.profile, arguments.results)
    except ProfileError as error:
        parser.error(str(error))
    if not (study.folder / "tables" / "fits.csv").is_file():
        parser.error(f"{study.folder} holds no finished run; `make reproduce PROFILE={arguments.profile}` makes one")
    page(study)
    if arguments.publish:
        publish(study, arguments.publish)
    print(summary(study))


if __name__ == "__main__":
    main()

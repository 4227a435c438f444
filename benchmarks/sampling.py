"""Time and memory of tokens sampled i.i.d. from a local ``jsonl.zst``, as `small` and `paper` sample theirs (4.1, G.1).

The file is made up: documents of lengths as spread as the Pile's, of the words of this kit's own sources. The sample is drawn by a
process of its own, which reads the file twice, keeps its index and the sample, and counts tokens with a tokenizer of the zoo. Memory is
the highest of all its processes together, and pages that they share are counted once.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import zstandard
from tokenizers import Tokenizer

from rosetta.sources import document, sampling

ROOT = Path(__file__).parents[1]
SUBSETS = ("Pile-CC", "Github", "ArXiv", "PubMed Abstracts", "Enron Emails")
#: Characters of the text from which documents are cut: more than zstd looks back.
POOL = 2**24


def make(path: Path, size: int, seed: int = 0) -> int:
    """Write documents of so many bytes of JSON lines together; returns how many there are."""
    rng, written, count = np.random.default_rng(seed), 0, 0
    words = np.array(" ".join(path.read_text() for path in sorted(ROOT.glob("lib/**/*.py"))).split(" "))
    pool = " ".join(rng.choice(words, POOL // 2).tolist())[:POOL]
    with zstandard.ZstdCompressor(threads=-1).stream_writer(open(path, "wb")) as file:
        while written < size:
            length = int(np.clip(rng.lognormal(7.8, 1.4), 20, 2**20))
            start = int(rng.integers(POOL - length))
            row = {"text": pool[start : start + length], "meta": {"pile_set_name": SUBSETS[count % len(SUBSETS)]}}
            line = json.dumps(row).encode() + b"\n"
            file.write(line)
            written, count = written + len(line), count + 1
    return count


def sample(path: Path, tokens: int, characters: int, workers: int) -> dict:
    """Draw sequences of one file or of a folder's until there are so many tokens: how many sequences, and seconds."""
    start = time.perf_counter()
    tokenizer = Tokenizer.from_file(str(ROOT / "zoo" / "pythia-32x2" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # written out in a text they stand for their letters
    files = sorted(path.glob("*.jsonl.zst"))
    corpus = {"kind": "files", "paths": list(map(str, files)), "subset": "meta.pile_set_name"}
    read = sequences = 0
    drawn = sampling.sequences(corpus, 0, characters, path / "kept", sampling.WHOLE, workers)
    for some in document.batched(drawn, 64):
        for encoded in tokenizer.encode_batch([one.text for one in some], add_special_tokens=False):
            if read < tokens:
                read, sequences = min(tokens, read + len(encoded)), sequences + 1
        if read == tokens:
            break
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"tokens": read, "sequences": sequences, "seconds": time.perf_counter() - start, "used": used}


def watched(command: list[str]) -> tuple[dict, float, float]:
    """What a command prints as JSON, and bytes of memory at most: of its processes together, and of one of them."""
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    together = largest = 0
    while process.poll() is None:
        held = []
        for one in [process, *process.children(recursive=True)]:
            try:
                held.append(one.memory_full_info())
            except psutil.Error:  # it has ended
                continue
        together = max(together, sum(getattr(of, "pss", of.uss) for of in held))
        largest = max([largest, *(of.rss for of in held)])
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(process.returncode)
    return json.loads(process.stdout.read()), together, largest


def measure(folder: Path, size: int, tokens: int, characters: int = 4_096, files: int = 1, workers: int = 1) -> dict:
    """As `sample` and `watched`, of made-up files that are so many bytes together, plain."""
    for number in range(files):
        make(folder / f"{number}.jsonl.zst", size // files, seed=number)
    asked = [str(folder), "--tokens", str(tokens), "--characters", str(characters), "--workers", str(workers)]
    found, together, largest = watched([sys.executable, __file__, "--sample", *asked])
    compressed = sum(path.stat().st_size for path in folder.glob("*.zst"))
    return found | {"together": together, "largest": largest, "compressed": compressed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10**9, help="bytes of all files together, plain")
    parser.add_argument("--tokens", type=int, default=10**6)
    parser.add_argument("--characters", type=int, default=4_096, help="of a sequence")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sample", type=Path, metavar="FOLDER", help="only draw from the files there, and print JSON")
    asked = parser.parse_args()
    if asked.sample:
        print(json.dumps(sample(asked.sample, asked.tokens, asked.characters, asked.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        of = measure(Path(folder), asked.size, asked.tokens, asked.characters, asked.files, asked.workers)
    print(
        f"{of['tokens']:,} tokens in {of['sequences']:,} sequences of {asked.characters:,} characters, of {asked.size / 1e9:.2f} GB "
        f"in {asked.files} file{'s' * (asked.files > 1)} ({of['compressed'] / 1e9:.2f} GB compressed), by {asked.workers} "
        f"worker{'s' * (asked.workers > 1)}: {of['seconds']:.0f} s ({of['used']:.0f} s of a processor), {of['together'] / 1e6:.0f} MB, of the largest process "
        f"{of['largest'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()

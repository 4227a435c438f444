"""One papermill run per notebook, and one run of 02_matching per point of the curves (Tables 2 and 3).

    snakemake -n                                                            what would run, micro profile
    snakemake --cores 2 --config profile=small                              pairs side by side
    snakemake --workflow-profile workflow/slurm --config profile=paper      as jobs of a Slurm cluster
"""

import re
import sys
from glob import glob
from tempfile import gettempdir

from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import ExecMode

sys.path.insert(0, "lib")
from rosetta import batch, kernels
from rosetta.profiles import load
from rosetta.profiles.judging import judged_pairs

if workflow.exec_mode == ExecMode.DEFAULT and not workflow.output_settings.dryrun:
    batch.attach(logger)  # not in the jobs themselves, nor where it is only asked what would run

PROFILE = config.get("profile", "micro")
RESULTS = config.get("results", "results")
STUDY = load(PROFILE)
OUT = f"{RESULTS}/{STUDY.name}"
POINTS = {"+".join(point): point for points in STUDY.curves.values() for point in points}
KEEP_MEMORY = "".join(f"{name}={value} " for name, value in batch.KEEP_MEMORY.items())
PYTHON = KEEP_MEMORY + "BENCHMARK={params.benchmark:q} OMP_NUM_THREADS={threads} {sys.executable:q} -m "
PAPERMILL = (
    PYTHON + "rosetta.batch "
    "{input.notebook:q} {output:q} --cwd notebooks --no-progress-bar --log-level WARNING -p profile {PROFILE:q} -p results {RESULTS:q}"
)
#: What opens models of a kind, where it takes long to import.
OPENED_BY = {
    "open_clip": "open_clip",
    "sana": "diffusers.pipelines.sana.pipeline_sana_sprint",
    "flux": "diffusers.pipelines.flux2.pipeline_flux2_klein",
}
TO_LOG = " > {log:q} 2>&1"


SERVER = None
if workflow.exec_mode == ExecMode.DEFAULT and not workflow.output_settings.dryrun:  # it gets ready while the jobs are laid out
    # What the engine and the command above set for a notebook of one thread, as here most are. Others start alone.
    threads = ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM")
    SERVER = kernels.start(
        {f"{name}_THREADS": "1" for name in threads}
        | dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), gettempdir())
        | batch.KEEP_MEMORY,
        dict.fromkeys(OPENED_BY[spec.kind] for spec in STUDY.models.values() if spec.kind in OPENED_BY),
    )


onstart:
    if SERVER and not workflow.non_local_exec_or_dryrun:
        SERVER.offer()
    elif SERVER:
        SERVER.dismiss()


wildcard_constraints:
    point="[^/]+",
    generator="[^/]+",


#: What the scorecard is made from: all notebooks but its own.
MEASURED = [
    f"{OUT}/notebooks/01_alignment.ipynb",
    *(f"{OUT}/notebooks/02_matching/{point}.ipynb" for point in POINTS),
    f"{OUT}/notebooks/03_scaling.ipynb",
    f"{OUT}/notebooks/04_theory.ipynb",
    f"{OUT}/notebooks/05_polarization.ipynb",
    f"{OUT}/notebooks/06_specialization.ipynb",
    f"{OUT}/notebooks/07_codesearchnet.ipynb",
]


rule all:
    input:
        MEASURED,
        f"{OUT}/notebooks/08_scorecard.ipynb",


def matched(pairs):
    """The notebooks that match these pairs."""
    return [f"{OUT}/notebooks/02_matching/{'+'.join(pair)}.ipynb" for pair in dict.fromkeys(pairs)]


def pairs_first(wildcards):
    """A point of three models reads the matches of its pairs, so theirs run before it."""
    point = POINTS[wildcards.point]
    return matched(pair for pair in STUDY.pairs_of(point) if pair != point)


def pictures_of(names):
    """What says that the pictures of those of some models that make any are kept."""
    return [f"{OUT}/images/{name}/made" for name in names if STUDY.models[name].generates]


def pictures_first(wildcards):
    """A generator's pictures are made once, before any encoder is shown them."""
    return pictures_of(POINTS[wildcards.point])


def shards_first(wildcards):
    """Where positions are shared out over jobs, a pair's MatchTables are made before its notebook, which finds them there."""
    return tables_of(POINTS[wildcards.point]) if STUDY.shards > 1 else []


#: What defines the Rosetta Neurons of notebooks 05 and 06.
ROSETTA = matched(
    [pair for family in STUDY.properties.rosetta for _, pair in STUDY.family_points(family)]
    + STUDY.pairs_of(STUDY.explorer.point)
    + [STUDY.filtering.pair]
    + ([pair for pair in (*STUDY.curves[STUDY.images.k_curve], STUDY.images.pair) if len(pair) == 2] if STUDY.images else [])
)
#: What the pages of Figures 8 to 13 show, in notebook 06.
PAGES = matched([pair for point in STUDY.examples.points for pair in STUDY.pairs_of(point)])
#: Whose positions, and whose images, notebook 02 looks at more closely.
EXAMPLES = [STUDY.positions.pair] + ([STUDY.images.pair] if STUDY.images else [])
#: What defines those that judges are asked about, in notebook 05; and the generators beside which it matches one more family.
JUDGED = matched(judged_pairs(STUDY) if STUDY.judging else [])
COMPARED = [pair[0] for pair in STUDY.judging.compared.pairs] if STUDY.judging and STUDY.judging.compared else []
#: The notebooks after 02 run two at a time.
HALF = max(1, workflow.cores // 2)


def weights(wildcards):
    """The files of a point's models, where they are on this machine. Of the jobs that are ready, those with the largest
    inputs run first, so no large pair is left to run alone at the end; nor is an example, of which more is shown, and which
    therefore names the files of all models."""
    point = POINTS[wildcards.point]
    sources = [STUDY.models[name].source for name in (STUDY.models if point in EXAMPLES else point)]
    return [file for source in sources for file in sorted(glob(f"{source}/**/*.safetensors", recursive=True))]


# ---------------------------------------------------------------------------------------------------------------------
# What a job asks of a cluster


def memory(names):
    """MB: what the profile gives to activations and tables, the models' weights, which pass through it to their device, and
    4 GB for Python with its libraries."""
    if workflow.exec_mode != ExecMode.DEFAULT or not workflow.non_local_exec_or_dryrun:
        return 0  # nobody asks
    from rosetta.planning.sizes import size

    weights = sum(size(STUDY.models[name]).parameters for name in names)
    return int(2**10 * (STUDY.memory_gb + 4) + {"float32": 4, "bfloat16": 2}[STUDY.dtype] * weights / 2**20)


def gpus(names):
    """None for the CPU, one for all models that share it, or else one for each that is named; for a model spread over
    all of a machine's, as many as ``--config gpus=8`` says."""
    devices = {STUDY.models[name].device or STUDY.device for name in names} - {"cpu", "mps"}
    return int(config.get("gpus", 8)) if "spread" in devices else len(devices)


def largest(of):
    """The most of anything that one model asks for."""
    return max(of([name]) for name in STUDY.models)


#: Whose images notebook 01 shows on two grids, and the pairs of the sweeps of notebook 03.
SHOWN = STUDY.images.pair if STUDY.images else ()
SWEPT = [STUDY.token_sweep.pair] + ([STUDY.images.sweep.pair, STUDY.images.sweep.encoders] if STUDY.images else [])


# What a notebook is made from: a change of the library or the profile runs it again, and what it kept is
# computed again only where that change matters to it.
LIBRARY = [*sorted(glob("lib/rosetta/**/*.py", recursive=True)), STUDY.path]


rule alignment:
    input:
        pictures_of(SHOWN),
        notebook="notebooks/01_alignment.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/01_alignment.ipynb",
    log:
        f"{OUT}/logs/01_alignment.log",
    params:
        benchmark=f"{OUT}/benchmarks/01_alignment.tsv",
    priority: 10
    resources:
        mem_mb=lambda wildcards: memory(SHOWN),
        gpu=gpus(SHOWN),
    shell:
        PAPERMILL + TO_LOG


rule pictures:
    input:
        library=LIBRARY,
    output:
        touch(f"{OUT}/images/{{generator}}/made"),
    log:
        f"{OUT}/logs/pictures/{{generator}}.log",
    params:
        benchmark=f"{OUT}/benchmarks/pictures/{{generator}}.tsv",
    priority: 11  # much waits for them
    resources:
        mem_mb=lambda wildcards: memory([wildcards.generator]),
        gpu=lambda wildcards: gpus([wildcards.generator]),
    shell:
        PYTHON + "rosetta.job rosetta.studies.pictures {PROFILE:q} {RESULTS:q} "
        "{wildcards.generator:q}" + TO_LOG


rule matching:
    input:
        pairs_first,
        pictures_first,
        shards_first,
        weights,
        notebook="notebooks/02_matching.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/02_matching/{{point}}.ipynb",
    log:
        f"{OUT}/logs/02_matching/{{point}}.log",
    params:
        benchmark=f"{OUT}/benchmarks/02_matching/{{point}}.tsv",
    priority: 2  # before all that does not wait for every point
    resources:
        mem_mb=lambda wildcards: memory(POINTS[wildcards.point]),
        gpu=lambda wildcards: gpus(POINTS[wildcards.point]),
    shell:
        PAPERMILL + " -p point {wildcards.point:q}" + TO_LOG


rule scaling:
    input:
        pictures_of(name for pair in SWEPT for name in pair),
        expand(f"{OUT}/notebooks/02_matching/{{point}}.ipynb", point=POINTS),
        notebook="notebooks/03_scaling.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/03_scaling.ipynb",
    log:
        f"{OUT}/logs/03_scaling.log",
    params:
        benchmark=f"{OUT}/benchmarks/03_scaling.tsv",
    priority: 5
    threads: HALF
    resources:
        mem_mb=lambda wildcards: max(map(memory, SWEPT)),
        gpu=max(map(gpus, SWEPT)),
    shell:
        PAPERMILL + TO_LOG


rule theory:
    input:
        # The last cell sets the theory beside the measured exponents.
        expand(f"{OUT}/notebooks/02_matching/{{point}}.ipynb", point=POINTS),
        notebook="notebooks/04_theory.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/04_theory.ipynb",
    log:
        f"{OUT}/logs/04_theory.log",
    params:
        benchmark=f"{OUT}/benchmarks/04_theory.tsv",
    threads: HALF
    shell:
        PAPERMILL + TO_LOG


rule polarization:
    input:
        ROSETTA,
        JUDGED,
        matched([pair for pair in STUDY.curves[STUDY.judging.compared.beside]] if COMPARED else []),
        pictures_of(dict.fromkeys(COMPARED)),
        notebook="notebooks/05_polarization.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/05_polarization.ipynb",
    log:
        f"{OUT}/logs/05_polarization.log",
    params:
        benchmark=f"{OUT}/benchmarks/05_polarization.tsv",
    priority: 1  # it takes long
    threads: HALF
    resources:
        mem_mb=lambda wildcards: largest(memory),
        gpu=largest(gpus),
    shell:
        PAPERMILL + TO_LOG


rule specialization:
    input:
        ROSETTA,
        PAGES,
        notebook="notebooks/06_specialization.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/06_specialization.ipynb",
    log:
        f"{OUT}/logs/06_specialization.log",
    params:
        benchmark=f"{OUT}/benchmarks/06_specialization.tsv",
    threads: HALF
    resources:
        mem_mb=lambda wildcards: largest(memory),
        gpu=largest(gpus),
    shell:
        PAPERMILL + TO_LOG


rule codesearchnet:
    input:
        matched([STUDY.filtering.pair]),
        notebook="notebooks/07_codesearchnet.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/07_codesearchnet.ipynb",
    log:
        f"{OUT}/logs/07_codesearchnet.log",
    params:
        benchmark=f"{OUT}/benchmarks/07_codesearchnet.tsv",
    priority: 1  # it takes longest
    threads: HALF  # it trains on one sequence at a time, which more threads make no faster
    resources:
        mem_mb=lambda wildcards: largest(memory),
        gpu=largest(gpus),
    shell:
        PAPERMILL + TO_LOG


rule scorecard:
    input:
        MEASURED,
        notebook="notebooks/08_scorecard.ipynb",
        library=LIBRARY,
    output:
        f"{OUT}/notebooks/08_scorecard.ipynb",
    log:
        f"{OUT}/logs/08_scorecard.log",
    params:
        benchmark=f"{OUT}/benchmarks/08_scorecard.tsv",
    shell:
        PAPERMILL + TO_LOG


if STUDY.shards > 1:

    include: "workflow/shards.smk"

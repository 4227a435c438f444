"""The rules of pairs whose positions are shared out over jobs (`rosetta.studies.shards`).

Screen shards, join them, verify shards, join these for the MatchTables, which the pair's notebook finds made. A third
reading, should one be needed, is the last job's own. The permuted null stays in the notebook's job: it sets positions of
one shard against those of another.
"""

from rosetta.studies.matches import without_name

NULLS = {"": [], **{f".untrained-{seed}": ["--untrained", seed] for seed in STUDY.nulls.untrained_seeds}}
#: Who is matched, by the name that `Study` gives the MatchTables.
TABLES = {f"{a}--{b}{null}": [a, b, *seed] for a, b in STUDY.pairs for null, seed in NULLS.items()}
#: The same over the positions that are left without outliers, where the profile asks for it.
WITHOUT = {
    f"{a}--{b}{null}.without-{without_name(STUDY)}": [a, b, *seed, "--without"]
    for a, b in STUDY.pairs
    for null, seed in NULLS.items()
    if STUDY.without_outliers((a, b))
}
TABLES |= WITHOUT
MATCHES, SHARDS = f"{OUT}/matches/{{tables}}", f"{OUT}/shards/{{tables}}"
SHARE = PYTHON + "rosetta.job rosetta.studies.shards {PROFILE:q} {RESULTS:q} {params.who:q} "

if workflow.exec_mode == ExecMode.DEFAULT:
    from rosetta.studies import shards

    # Tables and shards that are of no use are removed, and made again because they are not there. Tables that are
    # are taken as they are.
    TODO = shards.stale(STUDY, RESULTS, remove=not workflow.output_settings.dryrun)
else:
    TODO = TABLES


scattergather:
    shards=STUDY.shards,


wildcard_constraints:
    tables="|".join(map(re.escape, TODO)) or "none",


def tables_named(twins):
    """The names, as a pattern, of the tables that are made with a thinned twin, or of those without one."""
    pairs = list(map(list, STUDY.of("text")[1]))
    have = {name: TABLES[name][:2] in pairs and name not in WITHOUT for name in TODO}
    return "|".join(re.escape(name) for name in TODO if have[name] == twins) or "none"


def tables_of(point):
    """The MatchTables of a pair, trained and untrained; none of a point of more models, which has none of its own."""
    return [f"{OUT}/matches/{name}.parquet" for name, (a, b, *_) in TABLES.items() if (a, b) == point]


def who(wildcards):
    return TABLES[wildcards.tables]


def models_of(wildcards):
    return TABLES[wildcards.tables][:2]


def all_of(name):
    """The shards' files."""
    return lambda wildcards: gather.shards(f"{SHARDS}/{name}.{{scatteritem}}.safetensors", tables=wildcards.tables)


def pictures_before(wildcards):
    """A trained generator's pictures. What an untrained one makes is not kept. Once they are there, newer ones are no reason
    to make again what was made of them: `stale` looks for that."""
    a, b, *untrained = TABLES[wildcards.tables]
    makes_its_own = "--untrained" in untrained and STUDY.images and STUDY.images.untrained == "own"
    return [] if makes_its_own else [ancient(made) for made in pictures_of([a, b])]


def sizes_before(wildcards):
    """How large the positions are, where those above a size are left out."""
    a, b, *_ = TABLES[wildcards.tables]
    asked = wildcards.tables in WITHOUT and STUDY.positions.outliers.size is not None
    return ancient(f"{OUT}/positions/{a}--{b}.sizes.parquet") if asked else []


rule sizes:
    output:
        f"{OUT}/positions/{{pair}}.sizes.parquet",
    log:
        f"{OUT}/logs/positions/{{pair}}.log",
    params:
        who=lambda wildcards: TABLES[wildcards.pair],
        benchmark=f"{OUT}/benchmarks/shards/{{pair}}/sizes.tsv",
    wildcard_constraints:
        pair="|".join(re.escape(f"{a}--{b}") for a, b in STUDY.of("text")[1]) or "none",
    resources:
        mem_mb=lambda wildcards: memory(TABLES[wildcards.pair]),
        gpu=lambda wildcards: gpus(TABLES[wildcards.pair]),
    shell:
        SHARE + "--sizes" + TO_LOG


rule screen:
    input:
        pictures_before,
        sizes_before,
    output:
        temp(f"{SHARDS}/screen.{{scatteritem}}.safetensors"),
    log:
        f"{OUT}/logs/shards/{{tables}}/screen.{{scatteritem}}.log",
    params:
        who=who,
        benchmark=f"{OUT}/benchmarks/shards/{{tables}}/screen.{{scatteritem}}.tsv",
    resources:
        mem_mb=lambda wildcards: memory(models_of(wildcards)),
        gpu=lambda wildcards: gpus(models_of(wildcards)),
    shell:
        SHARE + "--shard {wildcards.scatteritem} --to {output:q}" + TO_LOG


rule screened:
    input:
        all_of("screen"),
    output:
        temp(f"{SHARDS}/screened.safetensors"),
    log:
        f"{OUT}/logs/shards/{{tables}}/screened.log",
    params:
        who=who,
        benchmark=f"{OUT}/benchmarks/shards/{{tables}}/screened.tsv",
    resources:
        mem_mb=lambda wildcards: 2 * memory([]),  # what is joined, and the next share
    shell:
        SHARE + "--join {input:q} --to {output:q}" + TO_LOG


rule verify:
    input:
        f"{SHARDS}/screened.safetensors",
    output:
        temp(f"{SHARDS}/verify.{{scatteritem}}.safetensors"),
    log:
        f"{OUT}/logs/shards/{{tables}}/verify.{{scatteritem}}.log",
    params:
        who=who,
        benchmark=f"{OUT}/benchmarks/shards/{{tables}}/verify.{{scatteritem}}.tsv",
    resources:
        mem_mb=lambda wildcards: memory(models_of(wildcards)),
        gpu=lambda wildcards: gpus(models_of(wildcards)),
    shell:
        SHARE + "--after {input:q} --shard {wildcards.scatteritem} --to {output:q}" + TO_LOG


rule matched:  # of text, over all positions and over thinned ones
    input:
        screened=f"{SHARDS}/screened.safetensors",
        verified=all_of("verify"),
    output:
        f"{MATCHES}.parquet",
        f"{MATCHES}.thinned-{STUDY.positions.t}.parquet",
    log:
        f"{OUT}/logs/shards/{{tables}}/matched.log",
    params:
        who=who,
        benchmark=f"{OUT}/benchmarks/shards/{{tables}}/matched.tsv",
    wildcard_constraints:
        tables=tables_named(twins=True),
    resources:
        mem_mb=lambda wildcards: memory(models_of(wildcards)),
        gpu=lambda wildcards: gpus(models_of(wildcards)),
    shell:
        SHARE + "--after {input.screened:q} --join {input.verified:q}" + TO_LOG


use rule matched as matched_alone with:
    output:
        f"{MATCHES}.parquet",
    wildcard_constraints:
        tables=tables_named(twins=False),

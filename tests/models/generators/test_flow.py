import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from vision_models import PMF, numbers, pmf_layers, write_pmf

from rosetta.matching.activations import capture
from rosetta.models.generators import flow as flows
from rosetta.models.load import ModelRefused, ModelSpec
from rosetta.models.opened import BadPicture
from rosetta.models.vision import describe_vision, open_vision

LABELS, SEEDS = torch.tensor([0, 4, 2]), [11, 12, 2**33]


def authors_key(name: str) -> str:
    """A key as the authors' checkpoints have it: their layers wrap one of torch's."""
    if name.endswith("embedding_table.weight"):
        return f"net.{name.removesuffix('.weight')}._flax_embedding.weight"
    wrapped = ("_proj", "w1", "w2", "w3", "linear", "mlp.0", "mlp.2")
    layer, _, last = name.rpartition(".")
    return f"net.{layer}._flax_linear.{last}" if layer.endswith(wrapped) else f"net.{name}"


def write_authors(folder, monkeypatch, **more) -> ModelSpec:
    """The same in the authors' form, and what `more` says of it changed."""
    write_pmf(folder)
    tensors = {authors_key(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    assert "net.u_heads.0.attn.q_proj._flax_linear.weight" in tensors and "net.x_embedder.proj1.weight" in tensors
    tensors["net.rope_freqs"] = torch.polar(torch.ones(9, 4), torch.zeros(9, 4))
    tensors |= more
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "pMF-tiny.pt")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    monkeypatch.setitem(flows.PUBLISHED, "pMF-tiny", PMF)
    return ModelSpec("tiny", str(folder), "pmf", 3, 20, kind="pmf", tag="pMF-tiny")


def test_one_step_makes_the_picture_that_the_equations_make_and_m_t_is_theirs(tmp_path):
    spec = write_pmf(tmp_path)
    assert describe_vision(str(tmp_path), "pmf", name="tiny", family="pmf") == spec
    vision = open_vision(spec)
    assert (vision.grid, vision.prefix, vision.classes, vision.prepare) == ((3, 3), 20, 5, None)
    with capture(vision.mlps) as seen:
        made = vision.run(LABELS, SEEDS)
    assert made.shape == (3, 12, 12, 3) and made.dtype == torch.uint8
    weights = numbers(vision.model)
    for i, (label, seed) in enumerate(zip(LABELS, SEEDS, strict=True)):
        start = 2 * torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(seed)).double().numpy()
        image, layers = pmf_layers(weights, start, 1, 7.5, 0.1, 0.8, label)
        expected = 255 * (np.clip(image, -1, 1) + 1) / 2
        assert np.abs(made[i].numpy() - expected.transpose(1, 2, 0)).max() < 0.501
        for mlp, m in zip(vision.mlps, layers, strict=True):
            np.testing.assert_allclose(seen[mlp.path][i], m, atol=1e-5 * max(1, np.abs(m).max()))


def test_a_picture_depends_on_its_label_and_seed_and_not_on_those_it_is_made_with(tmp_path):
    vision = open_vision(write_pmf(tmp_path))
    together = vision.run(LABELS, SEEDS)
    for i in range(3):
        alone = vision.run(LABELS[i : i + 1], SEEDS[i : i + 1])[0]
        assert (alone.int() - together[i].int()).abs().max() <= 1  # sums of another batch round otherwise
    assert not torch.equal(vision.run(LABELS[:1], [13])[0], together[0])
    assert not torch.equal(vision.run(torch.tensor([1]), SEEDS[:1])[0], together[0])


def test_the_guidance_is_the_models_own_or_what_is_asked_for(tmp_path):
    spec = write_pmf(tmp_path)
    own = open_vision(spec).run(LABELS, SEEDS)
    assert torch.equal(open_vision(spec, omega=7.5, t_min=0.1, t_max=0.8).run(LABELS, SEEDS), own)
    for other in ({"omega": 1.5}, {"t_min": 0.4}, {"t_max": 0.5}):
        assert not torch.equal(open_vision(spec, **other).run(LABELS, SEEDS), own)


def test_the_authors_checkpoint_is_the_same_network(tmp_path, monkeypatch):
    expected = open_vision(write_pmf(tmp_path / "own")).run(LABELS, SEEDS)
    more = {"net.v_heads.0.mlp.w2._flax_linear.weight": torch.zeros(2), "net.v_final_layer.norm.weight": torch.zeros(2)}
    spec = write_authors(tmp_path / "theirs", monkeypatch, **more)
    assert torch.equal(open_vision(spec).run(LABELS, SEEDS), expected)


def test_keys_that_are_missing_or_left_over_are_named(tmp_path, monkeypatch):
    of_block = "net.shared_blocks.1.mlp.w2._flax_linear.weight"
    spec = write_authors(tmp_path, monkeypatch, **{of_block: None, "net.other": torch.zeros(1)})
    with pytest.raises(ModelRefused, match=r"1 missing \(shared_blocks.1.mlp.w2.weight\), 1 left over \(other\)"):
        open_vision(spec)
    spec = write_authors(tmp_path, monkeypatch, **{of_block: torch.zeros(16, 24)})
    with pytest.raises(
        ModelRefused, match=r"1 of another shape \(shared_blocks.1.mlp.w2.weight \(16, 24\) instead of \(16, 20\)\)"
    ):
        open_vision(spec)


class Runs:
    def __reduce__(self):
        return print, ("this was run",)


@pytest.mark.parametrize("content", [{"a": Runs()}, {"a": 3}, [torch.zeros(1)], b"no checkpoint"])
def test_a_checkpoint_of_anything_but_tensors_is_refused_and_not_run(tmp_path, monkeypatch, capsys, content):
    spec, file = write_authors(tmp_path, monkeypatch), tmp_path / "pMF-tiny.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(ModelRefused, match=r"model tiny: .*pMF-tiny.pt is no (whole checkpoint|dict) of tensors"):
        open_vision(spec)
    assert "this was run" not in capsys.readouterr().out


def test_a_model_whose_files_are_not_there_is_refused(tmp_path, monkeypatch):
    spec = write_pmf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match=r"there is no .*model.safetensors"):
        open_vision(spec)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelRefused, match="its tag is None, not one of pMF-B-16, pMF-L-16, pMF-H-16"):
        open_vision(spec)
    with pytest.raises(ModelRefused, match=r"there is no .*pMF-B-16.pt"):
        open_vision(spec._replace(tag="pMF-B-16"))


def test_a_configuration_that_lacks_a_key_or_has_one_too_many_is_refused(tmp_path):
    spec = write_pmf(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["hedas"] = content.pop("heads")
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelRefused, match="lacks or has too much: heads, hedas; its keys are image_size, "):
        open_vision(spec)
    for content, said in (
        (json.dumps(PMF._replace(width="16")._asdict()), "width must be numbers"),
        ("[]", "holds no settings by name"),
        ("{", "no whole JSON file"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelRefused, match=f"model tiny: .*config.json.*{said}"):
            open_vision(spec)
    (tmp_path / "config.json").write_text(json.dumps(PMF._replace(image_size=14)._asdict()))
    with pytest.raises(ModelRefused, match=r"14 x 14 pixels .*multiples of 4"):
        open_vision(spec)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_class_that_there_is_not_is_refused(tmp_path, label):
    """5 would stand for no class."""
    with pytest.raises(ValueError, match=rf"model tiny: there is no class {label}; its classes are 0 to 4"):
        open_vision(write_pmf(tmp_path)).run(torch.tensor([0, label]), [1, 2])


def test_nan_in_a_picture_is_refused_with_the_picture_and_the_layer(tmp_path):
    vision = open_vision(write_pmf(tmp_path))
    vision.model.y_embedder.embedding_table.weight[3, 0] = float("inf")
    with pytest.raises(
        BadPicture,
        match=r"model tiny: .*label 3, seed 8 \(number 2 of 2\); it begins in layer 0, shared_blocks.0.mlp.w2",
    ):
        vision.run(torch.tensor([0, 3]), [7, 8])
    vision = open_vision(write_pmf(tmp_path))
    vision.model.u_heads[0].norm1.weight[0] = float("nan")
    with pytest.raises(BadPicture, match=r"begins in layer 2, u_heads.0.mlp.w2"):
        vision.run(torch.tensor([0]), [7])


def test_an_untrained_pmf_is_drawn_from_its_seed_and_makes_grey(tmp_path):
    spec = write_pmf(tmp_path)
    first, again, other = (open_vision(spec, seed=seed) for seed in (1, 1, 2))
    name = "shared_blocks.1.mlp.w2.weight"
    a, b, c = (numbers(vision.model)[name] for vision in (first, again, other))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.std() == pytest.approx(0.32 / 20**0.5, rel=0.15)
    assert (first.run(LABELS, SEEDS) == 128).all()


def test_a_hub_name_asks_for_the_tags_checkpoint(monkeypatch):
    asked = []
    monkeypatch.setattr(flows, "hf_hub_download", lambda *args, **more: asked.append((args, more)) or "/nowhere.pt")
    spec = ModelSpec("pMF-H", "Lyy0725/pMF", "pmf", 48, 3_416, revision="abc", kind="pmf", tag="pMF-H-16")
    with pytest.raises(ModelRefused, match=r"there is no /nowhere\.pt"):
        open_vision(spec)
    assert asked == [(("Lyy0725/pMF", "pMF-H-16.pt"), {"revision": "abc"})]

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import as_documents, texts

from rosetta.matching.activations import read_pieces
from rosetta.matching.alignment import token_byte_spans
from rosetta.matching.segments import windows
from rosetta.neurons import peaks
from rosetta.neurons.contexts import activations_on, top_contexts
from rosetta.sources.document import Document, split_at_lines


@pytest.fixture(scope="module")
def documents():
    pieces = [piece for text in texts() for piece in split_at_lines(text, 300)][:40]
    return [
        Document(piece, f"subset {i % 3}", "code" if i % 2 else "math", f"piece {i}") for i, piece in enumerate(pieces)
    ]


def stream(reader, documents, context=24, per_document=None):
    return list(windows(documents, reader.tokenizer, context, per_document))


def brute_force(reader, pieces, n, one_per_document, per_batch) -> dict[int, list[tuple]]:
    """For each neuron its highest positions by a plain sort: (activation, document, token bytes), of equals the first."""
    rows = [
        (number, window, token, acts[token].numpy())
        for number, (window, acts) in enumerate(read_pieces(reader, pieces, per_batch))
        for token in range(len(window.ids))
    ]
    values = np.stack([row[3] for row in rows])
    found = {}
    for neuron in range(values.shape[1]):
        taken, best = set(), []
        for i in np.argsort(-values[:, neuron], kind="stable"):
            _, window, token, _ = rows[i]
            if one_per_document and window.document.source in taken:
                continue
            taken.add(window.document.source)
            data = window.document.text.encode()
            best.append((values[i, neuron], window.document.source, data[slice(*window.spans[token])]))
            if len(best) == n:
                break
        found[neuron] = best
    return found


@pytest.mark.parametrize("family", ["pythia", "opt"])
@pytest.mark.parametrize("one_per_document", [True, False])
@pytest.mark.parametrize("per_batch", [1, 4, 100])
def test_top_contexts_are_those_of_a_sort_of_all_positions(reader_of, documents, family, one_per_document, per_batch):
    reader = reader_of[family]
    pieces = stream(reader, documents)
    assert len(pieces) > 2 * len(documents)  # documents go on over several windows
    table = top_contexts(reader, pieces, 5, one_per_document, per_batch)
    width = reader.layers[0]
    for neuron, best in brute_force(reader, pieces, 5, one_per_document, per_batch).items():
        rows = table[(table.layer == neuron // width) & (table.unit == neuron % width)]
        if not len(rows):  # dead
            continue
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        assert rows.activation.tolist() == [value for value, *_ in best]
        assert rows.source.tolist() == [source for _, source, _ in best]
        if family == "pythia":  # OPT's windows may begin inside a character
            assert [row.text.encode()[row.start : row.end] for row in rows.itertuples()] == [data for *_, data in best]


def test_the_table_says_where_each_context_lies(reader_of, documents):
    reader = reader_of["qwen"]
    table = top_contexts(reader, stream(reader, documents, per_document=1), 3)
    by_source = {document.source: document for document in documents}
    for row in table.sample(50, random_state=0).itertuples():
        document = by_source[row.source]
        assert (row.subset, row.category) == (document.subset, document.category)
        assert document.text.startswith(row.text)
        assert row.text.encode()[row.start : row.end].decode(errors="replace") == row.token
    assert not table.duplicated(["layer", "unit", "source"]).any()


def test_mean_and_spread_are_those_of_all_positions(reader_of, documents):
    reader = reader_of["gpt2"]
    pieces = stream(reader, documents)
    table = top_contexts(reader, pieces, 2)
    acts = torch.cat([acts for _, acts in read_pieces(reader, pieces)]).double().numpy()
    first = table[table["rank"] == 1]
    at = first.layer * reader.layers[0] + first.unit
    np.testing.assert_allclose(first["mean"], acts.mean(0)[at], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first["std"], acts.std(0)[at], rtol=1e-4, atol=1e-6)
    assert table.attrs["positions"] == len(acts)


def test_the_mean_of_a_context_is_over_all_its_tokens(reader_of, documents):
    reader = reader_of["pythia"]
    pieces = stream(reader, documents, per_document=1)
    table = top_contexts(reader, pieces, 2)
    means = {w.document.source: acts.double().mean(0).numpy() for w, acts in read_pieces(reader, pieces)}
    expected = [means[row.source][row.layer * reader.layers[0] + row.unit] for row in table.itertuples()]
    np.testing.assert_allclose(table.context_mean, expected, atol=1e-5)


def test_a_dead_neuron_has_no_contexts(reader_of, documents):
    reader = reader_of["opt"]
    acts = torch.cat([acts for _, acts in read_pieces(reader, stream(reader, documents[:6]))])
    dead = (acts == acts[0]).all(0)
    assert dead.any()
    table = top_contexts(reader, stream(reader, documents[:6]), 2)
    assert len(table[["layer", "unit"]].drop_duplicates()) == int((~dead).sum())


def test_memory_holds_only_windows_that_are_still_needed(reader_of, documents, monkeypatch):
    reader, sizes = reader_of["pythia"], []
    needed = peaks._still_needed

    def counted(*arguments):
        kept = needed(*arguments)
        sizes.append(len(kept))
        return kept

    monkeypatch.setattr(peaks, "_still_needed", counted)
    one = reader_of["pythia"]
    top_contexts(one, stream(reader, documents * 12, context=24, per_document=1), 1, sequences_per_batch=8)
    assert len(sizes) > 20
    assert max(sizes) <= sum(reader.layers) + 1


def test_a_window_that_begins_inside_a_character_shows_whole_characters(reader_of):
    reader = reader_of["qwen"]
    documents = as_documents(["漢字とかな交じり文。你好，世界！안녕하세요 세계 " * 3])
    pieces = stream(reader, documents, context=7)
    assert any(
        window.spans[0, 0] and window.document.text.encode()[window.spans[0, 0]] & 0xC0 == 0x80 for window in pieces
    )
    table = top_contexts(reader, pieces, 3, one_per_document=False)
    whole = [row for row in table.itertuples() if "�" not in row.token]
    assert whole
    for row in whole:
        assert row.text in documents[0].text
        assert row.text.encode()[row.start : row.end].decode() == row.token


def test_an_empty_stream_and_no_contexts_are_refused(reader_of):
    with pytest.raises(ValueError, match="nothing to read"):
        top_contexts(reader_of["pythia"], [])
    with pytest.raises(ValueError, match="n is 0"):
        top_contexts(reader_of["pythia"], [], n=0)


@pytest.mark.parametrize("context", [16, 128])
def test_activations_on_texts_are_those_of_reading_each_alone(reader_of, context):
    reader = reader_of["opt"]
    wanted = {text: [3, 200, 7][: i + 1] for i, text in enumerate(text[:220] for text in texts()[:3])}
    found = activations_on(reader, wanted, context, sequences_per_batch=4)
    room = context - len(reader.prefix)
    for text, columns in wanted.items():
        ids, spans = token_byte_spans(reader.tokenizer, text)
        alone = torch.cat([reader.read([ids[i : i + room]])[0] for i in range(0, len(ids), room)])
        np.testing.assert_array_equal(found[text][0], spans)
        np.testing.assert_allclose(found[text][1], alone[:, columns], atol=1e-5)


def test_the_table_survives_being_kept(reader_of, documents, tmp_path):
    table = top_contexts(reader_of["pythia"], stream(reader_of["pythia"], documents), 2)
    table.to_parquet(tmp_path / "t.parquet", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)

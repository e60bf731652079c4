"""optalloc.report.models: the tables of models and their plain form."""

from __future__ import annotations

import json

from optalloc.files import canonical_json
from optalloc.model.load import bundled_models, load_model
from optalloc.report.models import model_facts, model_table, models_table
from optalloc.report.table import render


def test_every_bundled_model_has_a_row_with_its_counts() -> None:
    """Name, total and active parameters."""
    rows = {row[0]: row for row in models_table().rows}
    assert tuple(rows) == bundled_models()
    assert rows["deepseek-v3"][2:4] == (671_026_404_352, 37_552_282_624)


def test_the_table_of_a_model_lists_its_layer_types_and_the_sum() -> None:
    """Embedding, dense and expert layers, head, all."""
    rows = {row[0]: row for row in model_table(load_model("deepseek-v3")).rows}
    assert list(rows) == ["embedding", "decoder", "decoder_moe", "head", "all"]
    assert rows["decoder_moe"][1] == 58
    assert rows["all"][1:3] == (61, 671_026_404_352)


def test_parts_of_the_vision_tower_outside_its_layers_have_a_row() -> None:
    """Qwen2.5-VL: patch embedding 1,505,280 and merger 44,574,464."""
    rows = {row[0]: row for row in model_table(load_model("qwen2.5-vl-7b")).rows}
    assert rows["vision, rest"][2] == 46_079_744


def test_tables_fit_100_columns_without_folding() -> None:
    """Every row of every model stays on its line."""
    for table in [models_table(), *(model_table(load_model(n)) for n in bundled_models())]:
        text = render([table], None, "table")
        assert max(map(len, text.splitlines())) <= 100
        shown = [line.split() for line in text.splitlines() if line.strip()]
        for row in table.rows:
            assert any(words[: len(str(row[0]).split())] == str(row[0]).split() for words in shown)


def test_the_plain_form_is_json_with_the_counts() -> None:
    """``total_parameters`` and ``active_parameters`` among others."""
    plain = json.loads(canonical_json(model_facts(load_model("mixtral-8x7b"))))
    assert plain["total_parameters"] == 46_702_792_704
    assert plain["active_parameters"] == 12_879_925_248
    assert plain["weight_bytes"]["bf16"] == 93_405_585_408
    assert [row["name"] for row in plain["layer_types"]] == ["embedding", "decoder_moe", "head"]

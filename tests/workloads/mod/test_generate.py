"""Real generation: batches, left padding, beams, caches; greedy tokens are compared exactly."""

from dataclasses import replace

import pytest
import torch

from tests.workloads.mod import tiny
from workloads.mod import MoDConfig, RoutingRecord, convert, nominal_skip

GREEDY = {
    "max_new_tokens": 6,
    "min_new_tokens": 6,
    "do_sample": False,
    # Random weights may say it, and then an image is missing.
    "suppress_tokens": [tiny.IMAGE_TOKEN],
}
GAMMA = MoDConfig.gamma(layers=[0, 1, 3], capacity_ratio=0.5, threshold=0.6, decode_threshold=0.4)
CONFIGS = {
    "gamma, first layer too": GAMMA,
    "gamma, nothing generated is skipped": replace(GAMMA, routable=("system", "image")),
    "gamma, compact positions": replace(GAMMA, positions="compact"),
    "gamma, image only": replace(GAMMA, routable=("image",)),
    "p_mod": MoDConfig.p_mod(tiny.NUM_LAYERS),
    "p_mod in every layer": MoDConfig.p_mod(tiny.NUM_LAYERS, max_ratio=0.5, mean_retention=0.0),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def converted(config, attention="sdpa"):
    scale = 0.5 if config.scorer == "binary" else 0.05
    return tiny.randomize_routers(convert(tiny.llava(attention), config), scale=scale)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@EACH
def test_a_batch_says_what_its_rows_say_alone(config, attention):
    model, rows = converted(config, attention), tiny.mixed_rows()
    batch = tiny.batch(rows, side="left")
    record = RoutingRecord()
    together = model.generate(**batch, **GREEDY, routing_record=record)
    assert 0.0 < record.skip_routable() < 1.0
    for index in range(len(rows)):
        alone = model.generate(**tiny.one_row(batch, index, rows), **GREEDY)
        assert together[index, -6:].tolist() == alone[0, -6:].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@EACH
def test_decoding_with_the_cache_equals_the_whole_forward(config, attention):
    config = replace(config, decode_threshold=None)
    model = converted(config, attention)
    rows = [tiny.row(images=1, answer=5, seed=1), tiny.row(images=2, answer=5, seed=2)]
    batch = tiny.batch(rows, side="left")
    pixels = {"pixel_values": batch.pop("pixel_values")}
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    prompt = {name: tensor[:, :-5] for name, tensor in batch.items()}
    with torch.no_grad():
        whole = model(**batch, **pixels, position_ids=positions).logits[:, -6:]
        outputs = model(**prompt, **pixels, position_ids=positions[:, :-5], use_cache=True)
        steps = [outputs.logits[:, -1]]
        for at in range(-5, 0):
            end = at + 1 or None
            outputs = model(
                input_ids=batch["input_ids"][:, at:end],
                attention_mask=batch["attention_mask"][:, :end],
                position_ids=positions[:, at:end],
                past_key_values=outputs.past_key_values,
            )
            steps.append(outputs.logits[:, -1])
    # The dense model's own cached and whole logits differ by 2e-5 at this size.
    torch.testing.assert_close(torch.stack(steps, dim=1), whole, atol=5e-5, rtol=0.0)


def test_each_layers_cache_holds_what_the_layer_computed():
    config = CONFIGS["p_mod"]
    model = converted(config)
    batch = tiny.batch([tiny.row(images=1, question=5)])
    with torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
    length = batch["input_ids"].shape[1]
    text = length - tiny.IMAGE_FEATURES
    stored = [layer.keys.shape[-2] for layer in cache.layers]
    kept = [text + max(1, int(share * tiny.IMAGE_FEATURES)) for share in config.capacities]
    assert stored == [length, *kept]
    assert [layer.get_seq_length() for layer in cache.layers] == [length] * tiny.NUM_LAYERS


def test_generation_without_a_cache_says_the_same():
    model = converted(CONFIGS["p_mod"])
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    cached = model.generate(**batch, **GREEDY)
    assert torch.equal(model.generate(**batch, **GREEDY, use_cache=False), cached)


@EACH
def test_beams_keep_their_own_caches(config):
    config = replace(config, decode_threshold=None)
    model = converted(config)
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    beams = GREEDY | {"num_beams": 3}
    cached = model.generate(**batch, **beams)
    assert torch.equal(model.generate(**batch, **beams, use_cache=False), cached)


EVERY_KIND = MoDConfig.p_mod(tiny.NUM_LAYERS, routable=("system", "image", "question", "answer"))


def repeating_row():
    """A prompt that ends as it began: looked up, it has candidates for the first forward."""
    ids, kinds, images = tiny.row(images=0, system=4, question=12)
    ids[-4:] = ids[:4]
    return ids, kinds, images


@pytest.mark.parametrize("derived", [False, True], ids=["kinds given", "kinds derived"])
def test_prompt_lookup_says_what_greedy_says(derived):
    model = converted(EVERY_KIND)
    batch = tiny.batch([repeating_row()])
    if derived:
        del batch["token_kinds"]
    greedy = model.generate(**batch, **GREEDY)
    assert torch.equal(model.generate(**batch, **GREEDY, prompt_lookup_num_tokens=2), greedy)


def test_assisted_generation_says_what_greedy_says():
    config = replace(EVERY_KIND, routable=("system", "question"))
    model = tiny.randomize_routers(convert(tiny.llama(), config), scale=0.05)
    batch = tiny.batch([tiny.row(images=0, question=12)])
    del batch["token_kinds"]  # the assistant, a dense model, would not know them
    assistant = tiny.llama(seed=1)
    greedy = model.generate(**batch, **GREEDY)
    assert torch.equal(model.generate(**batch, **GREEDY, assistant_model=assistant), greedy)


def test_kinds_are_derived_if_none_are_given():
    config = replace(GAMMA, routable=("image",))
    model = converted(config)
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    given = model.generate(**batch, **GREEDY)
    batch.pop("token_kinds")
    assert torch.equal(model.generate(**batch, **GREEDY), given)


def test_the_record_counts_the_prompt_alone():
    config = CONFIGS["p_mod"]
    model, record = converted(config), RoutingRecord()
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    model.generate(**batch, **GREEDY, routing_record=record)
    measured = (record.skip_routable(), record.skip_all())
    assert measured == pytest.approx(nominal_skip(config, batch["token_kinds"]))


def test_a_misspelt_argument_is_still_refused():
    batch = tiny.batch([tiny.row()])
    with pytest.raises(ValueError, match="token_kind"):
        converted(GAMMA).generate(**batch, **GREEDY, token_kind=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
    ],
)
def test_what_cannot_be_done_right_is_refused_by_name(arguments, message):
    batch = tiny.batch([tiny.row(images=0)])
    with pytest.raises(ValueError, match=message):
        converted(GAMMA).generate(**batch, **GREEDY, **arguments)

"""Clipping, accumulation, exclusion from decay, and functions as learning rates.

`test_keras_answers.py` compares their results with those of Keras.
"""

import numpy as np
import pytest
from minidl_kernels.threads import num_threads
from recorded_runs import REPLAYS, assert_equal, check, fit, network, quick
from small_models import bits as bits_of_model

import minidl
from minidl import Tensor, constraints, layers, models, optimizers
from minidl.distributed import DataParallel
from minidl.engine.parameter import Parameter
from minidl.formats.description import describe
from minidl.optimizers import SGD, Adam, AdamW, Nadam

# ------------------------------------------------------------------------------ clipping

CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def bits(arrays):
    return [array.tobytes() for array in arrays]


def updated(optimizer, *gradients, backend=None, dtype="float32"):
    """Return weights of 0 after an update by these gradients."""
    backend = backend or minidl.get_backend("cpu")
    weights = [
        Parameter(np.zeros(g.shape, dtype), backend, f"w{n}", n) for n, g in enumerate(gradients)
    ]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = Tensor(gradient.astype(dtype), device=weight.device)
    optimizer.update(weights)
    return [weight.numpy() for weight in weights]


@pytest.mark.parametrize("name", CLIPPING)
def test_gradients_within_the_limit_keep_their_bits(name, backend):
    gradients = np.random.default_rng(0).normal(size=(2, 5, 7))
    plain = updated(SGD(0.1), *gradients, backend=backend)
    clipped = updated(SGD(0.1, **{name: 1e3}), *gradients, backend=backend)
    assert bits(plain) == bits(clipped)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clipnorm", [[-0.6, -0.8], [-0.5, 0.0]]),
        ("global_clipnorm", [[-3 / 25.25**0.5, -4 / 25.25**0.5], [-0.5 / 25.25**0.5, 0.0]]),
        ("clipvalue", [[-1.0, -1.0], [-0.5, 0.0]]),
    ],
)
def test_larger_gradients_are_clipped(name, expected, backend):
    gradients = np.array([[3.0, 4.0], [0.5, 0.0]])
    found = updated(SGD(1.0, **{name: 1.0}), *gradients, backend=backend, dtype="float64")
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
def test_norm_of_large_float32_gradients_does_not_overflow(name, backend):
    (found,) = updated(SGD(1.0, **{name: 1.0}), np.full(4, 1e30), backend=backend)
    np.testing.assert_allclose(found, -0.5, rtol=1e-6)


def test_norm_of_nan_makes_all_gradients_nan():
    found = updated(SGD(1.0, global_clipnorm=1.0), np.array([np.nan, 1.0]), np.ones(2))
    assert np.isnan(found).all()


def test_norm_does_not_depend_on_the_number_of_threads():
    gradient, found = np.random.default_rng(0).normal(size=100_003), []
    threads = num_threads()
    try:
        for number in (1, 2, 3):
            minidl.set_num_threads(number)
            found.append(bits(updated(Adam(0.1, global_clipnorm=0.5), gradient)))
    finally:
        minidl.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


def test_two_kinds_of_clipping_are_rejected():
    with pytest.raises(ValueError, match=r"^Adam: expected at most one of clipnorm, .*got several"):
        Adam(clipnorm=1.0, clipvalue=1.0)
    with pytest.raises(ValueError, match=r"^SGD: expected clipnorm in \(0, inf\), got 0"):
        SGD(clipnorm=0)


# ------------------------------------------------------------------------------ recordings

WITHOUT_KERNELS = {
    "clipnorm": (lambda: SGD(0.1, momentum=0.9, clipnorm=0.3), "gradients are clipped"),
    "clipvalue": (lambda: Adam(0.01, clipvalue=0.01), "gradients are clipped"),
    "global_clipnorm": (lambda: AdamW(0.01, global_clipnorm=0.3), "gradients are clipped"),
    "amsgrad": (lambda: Adam(0.01, amsgrad=True), "Adam has no kernel for its arguments"),
    "nadam": (
        lambda: Nadam(0.01, weight_decay=0.1, undecayed=["bias"]),
        "Nadam has no kernel for its arguments",
    ),
}


@pytest.mark.needs_recordings
@pytest.mark.parametrize("name", quick(WITHOUT_KERNELS))
def test_update_without_kernel_is_recorded_on_cuda_and_refused_on_the_cpu(name, device, tmp_path):
    make, reason = WITHOUT_KERNELS[name]
    replays = 0 if device == "cpu" else REPLAYS
    model = check(lambda: network(device, make()), tmp_path, replays)
    assert model.recording.reason == (reason if device == "cpu" else "")


@pytest.mark.needs_recordings
def test_function_as_a_learning_rate_is_recorded_and_not_saved(tmp_path):
    def rate(step):
        return 0.1 / (1 + step)

    recorded, eager = (fit(network("cpu", SGD(rate)), record=record) for record in (True, False))
    assert recorded.recording.replays == REPLAYS
    assert bits_of_model(recorded) == bits_of_model(eager)
    assert recorded.optimizer.numbers()[0][0] == rate(recorded.step)
    with pytest.raises(TypeError, match=r"^save: .*rate, a function that files cannot hold"):
        recorded.save(tmp_path / "model.safetensors")


def test_wrong_result_of_a_function_names_it():
    def decay(step):
        return -1

    with pytest.raises(ValueError, match=r"^SGD: decay: expected it to return .*got -1 for"):
        SGD(decay).numbers()


# ------------------------------------------------------------------------------ accumulation


def test_only_every_nth_call_updates(device):
    optimizer = Adam(0.1, gradient_accumulation_steps=3)
    model = models.Sequential([layers.Dense(2, input_shape=(3,))], device=device, seed=1)
    weights, changed = model.parameters(), []
    for call in range(7):
        before = bits_of_model(model)
        for weight in weights:
            weight.grad = Tensor(np.full(weight.shape, 1.0 + call, "float32"), device=device)
        optimizer.update(weights)
        changed.append(bits_of_model(model) != before)
        assert (optimizer.calls, optimizer.iterations) == (call + 1, (call + 1) // 3)
    assert changed == [False, False, True, False, False, True, False]
    waiting = model.backend.to_numpy(optimizer.state["accumulated"])
    assert waiting.tolist() == [7.0] * 8


def test_schedule_and_constraint_of_accumulating_calls_are_those_of_keras():
    (weight,) = [Parameter(np.array([-5.0, 4.0]), minidl.get_backend("cpu"), "w", 0)]
    weight.constraint = constraints.NonNeg()
    optimizer = SGD(lambda call: 0.1 * call, gradient_accumulation_steps=2)
    seen = []
    for _ in range(4):
        weight.grad = Tensor(np.ones(2))
        optimizer.update([weight])
        seen.append(weight.numpy().tolist())
    # Each call applies the constraint. Calls 1 and 3, counted from 0, update.
    np.testing.assert_allclose(seen, [[0, 4], [0, 3.9], [0, 3.9], [0, 3.6]])


def test_weight_without_a_gradient_in_a_call_keeps_its_sum():
    weights = [Parameter(np.zeros(2), minidl.get_backend("cpu"), n, 0) for n in ("first", "second")]
    optimizer = SGD(1.0, gradient_accumulation_steps=2)
    for given in (weights, weights[1:]):
        for weight in given:
            weight.grad = Tensor(np.ones(2))
        optimizer.update(weights)
    assert [weight.numpy().tolist() for weight in weights] == [[0, 0], [-1, -1]]
    assert not optimizer.state["accumulated"].any()  # as in Keras, which forgets the first


def test_earlier_gradients_of_a_weight_without_one_are_not_in_the_norm_of_all():
    weights = [Parameter(np.zeros(1), minidl.get_backend("cpu"), n, 0) for n in ("first", "second")]
    optimizer = SGD(1.0, gradient_accumulation_steps=2, global_clipnorm=1.0)
    for given in (weights, weights[1:]):
        for weight in given:
            weight.grad = Tensor([4.0])
        optimizer.update(weights)
    assert [weight.item() for weight in weights] == [0, -1]


def accumulating():
    return AdamW(lambda step: 0.01 / (1 + step), gradient_accumulation_steps=3)


@pytest.mark.slow_on("cuda-double")
def test_accumulating_steps_are_not_recorded(device):
    model = fit(network(device, accumulating()), epochs=2)
    assert (model.recording.replays, model.recording.reason) == (0, "gradients are accumulated")
    assert (model.optimizer.iterations, model.step) == (2, 8)


@pytest.mark.parametrize("epochs", [1, 2, 3])  # with 1, 2 and 0 gradients waiting
def test_run_that_stops_within_an_accumulation_is_resumed_with_equal_bits(epochs, tmp_path):
    def make():
        return network("cpu", AdamW(0.01, gradient_accumulation_steps=3, amsgrad=True))

    path = tmp_path / "model.safetensors"
    whole, first = fit(make()), fit(make(), epochs=epochs)
    first.save(path)
    again = models.load(path)
    assert (again.optimizer.calls, again.optimizer.iterations) == (4 * epochs, 4 * epochs // 3)
    fit(again, resume=True)
    assert_equal(again, fit(make(), record=False), tmp_path)
    assert bits_of_model(again) == bits_of_model(whole)


def test_shared_steps_accumulate_and_clip_as_others():
    def trained(**options):
        used = SGD(0.1, momentum=0.9, gradient_accumulation_steps=2, clipnorm=0.2)
        stack = [layers.Dense(3, "softmax", input_shape=(6,))]
        return fit(network("cpu", used, stack=stack), **options).get_weights()

    for ours, theirs in zip(trained(distribution=DataParallel(shards=3)), trained(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_invalid_number_of_accumulated_gradients_is_rejected():
    with pytest.raises(ValueError, match=r"^SGD: gradient_accumulation_steps: .*positive.*, got 0"):
        SGD(gradient_accumulation_steps=0)


# ------------------------------------------------------------------------------ exclusion


@pytest.mark.slow_on("cuda-double")
def test_excluded_weights_are_not_decayed(device):
    def trained(*names, decay=0.5, parameters=()):
        model = network(device, AdamW(0.01, weight_decay=decay), stack=None)
        listed = [model.parameters()[n] for n in parameters]
        model.optimizer.exclude_from_weight_decay(var_list=listed, var_names=names)
        return fit(model, epochs=1, batch_size=14)

    # After one update, weights differ by their own decay alone.
    all_decay, none = trained().get_weights(), trained(decay=0.0).get_weights()
    found = trained("bias", parameters=[2]).get_weights()
    assert bits(found) == bits([all_decay[0], none[1], none[2], none[3]])
    assert not np.array_equal(all_decay[2], none[2])


@pytest.mark.parametrize(
    ("pattern", "kept"), [("kernel", [0]), ("bias", [1]), ("gamma", [2]), ("beta", [3])]
)
def test_patterns_exclude_weights_by_their_names_in_keras(pattern, kept):
    stack = [
        layers.Dense(3, bias_initializer="ones", input_shape=(2,)),
        layers.LayerNormalization(),
    ]
    model = models.Sequential(stack)
    model.layers[1].beta.assign(np.ones(3))
    before = model.get_weights()
    optimizer = SGD(0.5, weight_decay=1.0)
    optimizer.exclude_from_weight_decay(var_names=[pattern])
    for weight in model.parameters():
        weight.grad = Tensor(np.zeros(weight.shape))
    optimizer.update(model.parameters())
    pairs = zip(before, model.get_weights(), strict=True)
    assert [n for n, (a, b) in enumerate(pairs) if (a == b).all()] == kept


def test_list_excludes_no_weight_whose_name_only_begins_so():
    weights = [Parameter(np.ones(1), minidl.get_backend("cpu"), n, 0) for n in ("a/w", "a/w2")]
    optimizer = SGD(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=weights[:1])
    for weight in weights:
        weight.grad = Tensor(np.zeros(1))
    optimizer.update(weights)
    assert [weight.item() for weight in weights] == [1.0, 0.75]


@pytest.mark.parametrize("place", range(4))
def test_list_of_an_older_file_excludes_the_same_weight(place):
    # Such files name weights as minidl does: NORMALIZATION/weight, not gamma.
    weights = models.Sequential([layers.Dense(3, input_shape=(2,)), layers.LayerNormalization()])
    listed = weights.parameters()[place]
    now, before = AdamW(), AdamW(undecayed=[f"^{listed.name}$"])
    now.exclude_from_weight_decay(var_list=[listed])
    for optimizer in (now, before):
        groups = [optimizer.groups_of([weight]) for weight in weights.parameters()]
        assert groups == [[(1.0, float(n != place))] for n in range(4)]


def test_options_are_saved_and_those_at_their_defaults_are_left_out(tmp_path):
    plain = describe(optimizers.AdamW())["arguments"]
    assert plain.keys() == {"learning_rate", "weight_decay", "beta_1", "beta_2", "epsilon"}
    used = AdamW(clipvalue=0.5, amsgrad=True, undecayed=["bias"], gradient_accumulation_steps=2)
    path = tmp_path / "model.safetensors"
    fit(network("cpu", used), epochs=1).save(path)
    again = models.load(path).optimizer
    assert (again.clipvalue, again.amsgrad, again.undecayed) == (0.5, True, ("bias",))
    assert again.gradient_accumulation_steps == 2
    assert again.state.keys() == {"mean", "square", "largest", "accumulated"}

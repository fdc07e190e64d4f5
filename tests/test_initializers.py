"""Initial values of weights: moments, limits, and known answers that never change."""

import math

import numpy as np
import pytest

from minidl import initializers, layers, models, rng
from minidl.initializers import (
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Initializer,
    LecunNormal,
    LecunUniform,
    Ones,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)

STREAM = rng.WEIGHT_STREAMS
FAN_IN, FAN_OUT = 300, 200

# The variance (Glorot & Bengio 2010, equation 12; He et al. 2015, equation 10;
# LeCun et al. 1998, equation 16), the distribution,
# and the first four values of `draw((2, 3), seed=1, stream=STREAM)`, recorded once.
RANDOM = {
    "GlorotUniform": (
        2 / (FAN_IN + FAN_OUT),
        "uniform",
        [0.8195303410373491, 0.5147576265403164, 0.7566872981022055, -0.2516068433762264],
    ),
    "GlorotNormal": (
        2 / (FAN_IN + FAN_OUT),
        "normal",
        [0.7672700098498729, 0.42820604647943133, 0.6850960624725477, -0.20011411292592537],
    ),
    "HeUniform": (
        2 / FAN_IN,
        "uniform",
        [1.295791244646291, 0.81390327140487, 1.1964276692608875, -0.3978253499770625],
    ),
    "HeNormal": (
        2 / FAN_IN,
        "normal",
        [1.2131604057327128, 0.6770532073654643, 1.083231986713129, -0.3164081943950331],
    ),
    "LecunUniform": (
        1 / FAN_IN,
        "uniform",
        [0.9162627760915488, 0.5755165224402986, 0.8460021181335894, -0.2813050026966924],
    ),
    "LecunNormal": (
        1 / FAN_IN,
        "normal",
        [0.8578339495606245, 0.47874891415222154, 0.7659606834030297, -0.22373437987971925],
    ),
}
CONSTANT = {"Zeros": 0.0, "Ones": 1.0}

# Initializers with arguments, each with the mean and the standard deviation of its values, the
# bounds, and the first four values of `draw((2, 3), seed=1, stream=STREAM)`, recorded once.
IN_CUT = 0.8796256610342398  # the standard deviation of a normal distribution cut at two sigma
WITH_ARGUMENTS = {
    Constant(0.5): (0.5, 0, (0.5, 0.5), [0.5] * 4),
    RandomUniform(1, 4): (
        2.5,
        math.sqrt(9 / 12),
        (1, 4),
        [3.6221881358651444, 3.204860909259878, 3.536136755370535, 2.155473140650429],
    ),
    RandomNormal(2, 0.5): (
        2,
        0.5,
        (-1.33, 5.33),
        [1.9792210180312395, 2.042841751128435, 1.7152867317199707, 2.756226122379303],
    ),
    TruncatedNormal(2, 0.5): (
        2,
        0.5 * IN_CUT,
        (1, 3),
        [2.533563511916602, 2.2977766875420995, 2.4764193261829845, 1.8608396164243093],
    ),
    VarianceScaling(3, "fan_out", "untruncated_normal"): (
        0,
        math.sqrt(3 / FAN_OUT),
        (-6.66 * math.sqrt(3 / FAN_OUT), 6.66 * math.sqrt(3 / FAN_OUT)),
        [-0.04155796393752098, 0.08568350225687027, -0.5694265365600586, 1.512452244758606],
    ),
}

# A normal distribution cut at two sigma: the probability inside, and its moments after the cut.
INSIDE = math.erf(2 / math.sqrt(2))
DENSITY_AT_2 = math.exp(-2) / math.sqrt(2 * math.pi)
CUT_VARIANCE = 1 - 4 * DENSITY_AT_2 / INSIDE
CUT_FOURTH_MOMENT = 3 * CUT_VARIANCE - 16 * DENSITY_AT_2 / INSIDE
KURTOSIS = {"uniform": 9 / 5, "normal": CUT_FOURTH_MOMENT / CUT_VARIANCE**2}


def test_table_names_every_initializer():
    public = {
        name
        for name, value in vars(initializers).items()
        if isinstance(value, type) and issubclass(value, Initializer) and not name.startswith("_")
    }
    others = {"Initializer", *(type(initializer).__name__ for initializer in WITH_ARGUMENTS)}
    assert set(RANDOM) | set(CONSTANT) == public - others


@pytest.mark.parametrize("name", RANDOM)
def test_values_have_expected_mean_variance_and_limit(name):
    variance, distribution, _ = RANDOM[name]
    values = getattr(initializers, name)().draw((FAN_IN, FAN_OUT), seed=4, stream=STREAM)
    n = values.size
    assert values.shape == (FAN_IN, FAN_OUT)
    assert abs(values.mean()) < 5 * math.sqrt(variance / n)
    error_of_variance = variance * math.sqrt((KURTOSIS[distribution] - 1) / n)
    assert abs(values.var() - variance) < 5 * error_of_variance
    # A uniform distribution ends at sqrt(3) sigma. A normal one is cut at two sigma before the cut,
    # which is wider by 1 / sqrt(CUT_VARIANCE).
    edges = {"uniform": math.sqrt(3), "normal": 2 / math.sqrt(CUT_VARIANCE)}
    edge = edges[distribution] * math.sqrt(variance)
    assert 0.99 * edge < np.abs(values).max() <= edge


@pytest.mark.parametrize("name", RANDOM)
def test_values_equal_known_answers(name):
    values = getattr(initializers, name)().draw((2, 3), seed=1, stream=STREAM)
    np.testing.assert_allclose(values.ravel()[:4], RANDOM[name][2], rtol=1e-12)


@pytest.mark.parametrize("name", RANDOM)
def test_values_depend_on_seed_and_stream(name):
    def draw(**address):
        arguments = {"seed": 1, "stream": STREAM} | address
        return getattr(initializers, name)().draw((3, 5), **arguments)

    assert np.array_equal(draw(), draw())
    assert not np.array_equal(draw(), draw(seed=2))
    assert not np.array_equal(draw(), draw(stream=STREAM + 1))


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_initializer_returns_its_constant(name):
    values = getattr(initializers, name)().draw((2, 3), seed=1, stream=STREAM)
    assert np.array_equal(values, np.full((2, 3), CONSTANT[name]))


FANS = {  # as Keras computes them
    (3, 3, 16, 32): (9 * 16, 9 * 32),
    (10, 30, 40): (10 * 30, 10 * 40),
    (5, 40, 1): (5 * 40, 5),
    (2000,): (2000, 2000),
}


@pytest.mark.parametrize("shape", FANS)
@pytest.mark.parametrize("name", RANDOM)
def test_fans_have_the_receptive_field_of_keras(name, shape):
    fan_in, fan_out = FANS[shape]
    kind = name.removesuffix("Normal").removesuffix("Uniform")
    fan = {"He": fan_in / 2, "Lecun": fan_in, "Glorot": (fan_in + fan_out) / 2}[kind]
    values = getattr(initializers, name)().draw(shape, seed=0, stream=STREAM)
    assert values.shape == shape
    assert values.std() == pytest.approx(math.sqrt(1 / fan), rel=0.12)


@pytest.mark.parametrize("name", RANDOM)
def test_0d_weight_has_fans_of_1(name):
    initializer = getattr(initializers, name)()
    value = initializer.draw((), seed=0, stream=STREAM)
    assert value.shape == ()
    assert value == initializer.draw((1, 1), seed=0, stream=STREAM)[0, 0]


def test_layer_weight_with_one_axis_can_be_random():
    class Scale(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight("factor", (input_shape[-1],), "he_uniform")

        def call(self, x):
            return x * self.factor

    weights = models.Sequential([Scale(input_shape=(5,))], seed=1).get_weights()[0]
    assert len(set(weights.tolist())) == 5
    assert np.abs(weights).max() <= math.sqrt(6 / 5)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (0, 3, 4), (3, 0, 4)])
@pytest.mark.parametrize("name", RANDOM)
def test_empty_weight_is_accepted(name, shape):
    draw = getattr(initializers, name)().draw
    assert draw(shape, seed=0, stream=STREAM).shape == shape


def test_get_returns_initializer_of_that_name():
    by_name = {
        "zeros": Zeros,
        "ones": Ones,
        "glorot_uniform": GlorotUniform,
        "glorot_normal": GlorotNormal,
        "he_uniform": HeUniform,
        "he_normal": HeNormal,
        "lecun_uniform": LecunUniform,
        "lecun_normal": LecunNormal,
        "constant": Constant,
        "random_normal": RandomNormal,
        "random_uniform": RandomUniform,
        "truncated_normal": TruncatedNormal,
        "variance_scaling": VarianceScaling,
    }
    for name, kind in by_name.items():
        assert type(initializers.get(name)) is kind
    own = HeNormal(seed=3)
    assert initializers.get(own) is own


def test_get_rejects_unknown_initializer_with_the_names():
    message = r"^initializer: expected an Initializer or one of zeros, .*, got 'orthogonal'"
    with pytest.raises(ValueError, match=message):
        initializers.get("orthogonal")


def test_own_seed_precedes_seed_of_model():
    def weight(initializer, seed):
        model = models.Sequential(
            [layers.Dense(4, kernel_initializer=initializer, input_shape=(3,))], seed=seed
        )
        return model.get_weights()[0]

    own = [weight(GlorotUniform(seed=9), seed) for seed in (1, 2)]
    assert np.array_equal(*own)
    assert np.array_equal(own[0], weight("glorot_uniform", 9))
    assert not np.array_equal(weight("glorot_uniform", 1), weight("glorot_uniform", 2))


def test_custom_initializer_draws_initial_values():
    class Diagonal(Initializer):
        def draw(self, shape, *, seed, stream):
            return np.eye(*shape)

    layer = layers.Dense(3, kernel_initializer=Diagonal())
    models.Sequential([layer])(np.zeros((1, 3)))
    assert np.array_equal(layer.weight.numpy(), np.eye(3, dtype="float32"))
    assert not issubclass(Diagonal, VarianceScaling)


def test_custom_initializer_need_not_call_init():
    class Constant(Initializer):
        def __init__(self, value):
            self.value = value

        def draw(self, shape, *, seed, stream):
            return np.full(shape, self.value)

    layer = layers.Dense(2, kernel_initializer=Constant(3.0))
    models.Sequential([layer])(np.zeros((1, 2)))
    assert layer.weight.numpy().tolist() == [[3, 3], [3, 3]]


@pytest.mark.parametrize("initializer", WITH_ARGUMENTS, ids=lambda each: type(each).__name__)
def test_values_of_arguments_have_expected_moments_and_bounds(initializer):
    mean, deviation, (low, high), _ = WITH_ARGUMENTS[initializer]
    values = initializer.draw((FAN_IN, FAN_OUT), seed=4, stream=STREAM)
    assert values.shape == (FAN_IN, FAN_OUT)
    assert abs(values.mean() - mean) <= 5 * deviation / math.sqrt(values.size)
    assert values.std() == pytest.approx(deviation, rel=0.02)
    assert values.min() >= low
    assert values.max() <= high
    if type(initializer) in (RandomUniform, TruncatedNormal):
        assert values.max() - values.min() > 0.98 * (high - low)
    if type(initializer) in (RandomNormal, VarianceScaling):
        assert np.abs(values - mean).max() > 3.5 * deviation


@pytest.mark.parametrize("initializer", WITH_ARGUMENTS, ids=lambda each: type(each).__name__)
def test_values_of_arguments_equal_known_answers(initializer):
    values = initializer.draw((2, 3), seed=1, stream=STREAM)
    np.testing.assert_allclose(values.ravel()[:4], WITH_ARGUMENTS[initializer][3], rtol=1e-12)


def test_values_have_the_bits_of_the_streams():
    address = {"seed": 5, "stream": STREAM}
    drawn = rng.normal((7, 9), **address, step=0).astype("float64")
    assert np.array_equal(RandomNormal(0.0, 1.0).draw((7, 9), **address), drawn)
    uniform = rng.initial_uniform((7, 9), 0.25, **address)
    assert np.array_equal(RandomUniform(-0.25, 0.25).draw((7, 9), **address), uniform)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (GlorotUniform, (1, "fan_avg", "uniform")),
        (GlorotNormal, (1, "fan_avg", "truncated_normal")),
        (HeUniform, (2, "fan_in", "uniform")),
        (HeNormal, (2, "fan_in", "truncated_normal")),
        (LecunUniform, (1, "fan_in", "uniform")),
        (LecunNormal, (1, "fan_in", "truncated_normal")),
    ],
)
def test_variance_scaling_with_their_arguments_has_their_bits(kind, arguments):
    address = {"seed": 5, "stream": STREAM}
    values = VarianceScaling(*arguments).draw((7, 9), **address)
    assert np.array_equal(values, kind().draw((7, 9), **address))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomUniform(1, 0), "RandomUniform: expected maxval of 1.* or above, got 0"),
        (lambda: RandomNormal(stddev=-1), r"RandomNormal: expected stddev in \[0, inf\), got -1"),
        (lambda: Constant(math.nan), "Constant: expected value in .*, got nan"),
        (lambda: VarianceScaling(0), r"VarianceScaling: expected scale in \(0, inf\), got 0"),
        (
            lambda: VarianceScaling(mode="fan"),
            "VarianceScaling: expected mode among .*'fan'",
        ),
        (
            lambda: VarianceScaling(distribution="normal"),
            "VarianceScaling: expected distribution among .*, got 'normal'",
        ),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()

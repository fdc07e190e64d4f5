"""`minidl.sklearn`: the checks of scikit-learn, its numbers, and what it does not have."""

import importlib
import pickle
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn, from the extra test")

from sklearn.base import clone
from sklearn.datasets import make_blobs, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from minidl import layers
from minidl.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUICK = {"max_iter": 20, "learning_rate_init": 0.05}


def blobs(classes=3, dtype="float32"):
    x, y = make_blobs(90, 4, centers=classes, random_state=0)
    return (x / 5).astype(dtype), y


def labels():
    x, y = make_multilabel_classification(60, 5, n_classes=3, random_state=0)
    return (x / 10).astype("float64"), y


def lines(outputs=1):
    x = np.random.default_rng(0).normal(size=(80, 3))
    y = np.stack([x[:, 0] - x[:, 1], x[:, 2]], axis=1)
    return x, y[:, 0] if outputs == 1 else y


def weights_of(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def equal(one, other):
    return all((a == b).all() for a, b in zip(weights_of(one), weights_of(other), strict=True))


# ------------------------------------------------------------------------------ scikit-learn


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([MLPClassifier(), MLPRegressor()])
def test_estimator_passes_check(estimator, check):
    check(estimator)


SOLVERS = [
    {"solver": "sgd", "nesterovs_momentum": False},
    {"solver": "sgd", "momentum": 0.5, "learning_rate": "invscaling"},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 2},
    {"solver": "adam", "activation": "logistic"},
    {"solver": "adam", "activation": "identity", "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4},
]


@pytest.mark.parametrize("options", SOLVERS, ids=str)
@pytest.mark.parametrize(
    ("kinds", "data"),
    [
        ((MLPClassifier, TheirClassifier), blobs(3, "float64")),
        ((MLPClassifier, TheirClassifier), blobs(2, "float64")),
        ((MLPClassifier, TheirClassifier), labels()),
        ((MLPRegressor, TheirRegressor), lines()),
        ((MLPRegressor, TheirRegressor), lines(2)),
    ],
    ids=["classes", "two classes", "labels", "number", "numbers"],
)
def test_training_from_equal_weights_equals_that_of_scikit_learn(kinds, data, options):
    x, y = data
    options = {"activation": "tanh", "tol": 0.0, **options}
    # In batches of equal size; the weights of samples are normalised over all of them.
    options |= {"hidden_layer_sizes": (6, 5), "alpha": 0.3, "shuffle": False}
    options |= {"batch_size": len(x) // 2, "learning_rate_init": 0.01}
    mine, theirs = (kind(**options, random_state=1) for kind in kinds)
    classes = (
        {} if kinds[0] is MLPRegressor else {"classes": np.arange(3 if y.ndim > 1 else y.max() + 1)}
    )
    mine.set_params(learning_rate_init=1e-12).partial_fit(x, y, **classes)
    theirs.set_params(learning_rate_init=1e-12).partial_fit(x, y, **classes)
    pairs = zip(theirs.coefs_, theirs.intercepts_, strict=True)
    mine._model.set_weights([array for pair in pairs for array in pair])
    mine.t_ = theirs.t_ = theirs._no_improvement_count = 0
    theirs.best_loss_ = np.inf
    for estimator in (mine, theirs):
        estimator.set_params(warm_start=True, learning_rate_init=0.01, max_iter=8).fit(x, y)
    assert mine.n_iter_ == theirs.n_iter_
    for one, other in zip(weights_of(mine), weights_of(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(mine.predict(x), theirs.predict(x), rtol=1e-6)
    if mine.n_outputs_ == 1 or kinds[0] is MLPClassifier:  # their loss is a mean of the outputs
        np.testing.assert_allclose(mine.loss_curve_[1:], theirs.loss_curve_[1:], rtol=1e-6)
    if kinds[0] is MLPClassifier:
        np.testing.assert_allclose(mine.predict_proba(x), theirs.predict_proba(x), rtol=1e-5)
        np.testing.assert_allclose(mine.predict_log_proba(x), theirs.predict_log_proba(x), 1e-5)
    assert mine.out_activation_ == theirs.out_activation_
    assert (mine.n_layers_, mine.n_outputs_) == (theirs.n_layers_, theirs.n_outputs_)


def test_parameters_are_those_of_scikit_learn_and_four():
    mine, theirs = MLPClassifier().get_params(), TheirClassifier().get_params()
    assert set(mine) - set(theirs) == {"dropout", "input_dropout", "device"}
    assert set(theirs) - set(mine) == {"max_fun"}
    assert {name: mine[name] for name in mine if name in theirs} == {
        name: theirs[name] for name in mine if name in theirs
    }


def test_grid_search_in_two_processes_gives_the_bits_of_one():
    x, y = blobs()
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(8, **QUICK, random_state=3))
    grid = {"mlpclassifier__dropout": [0.0, 0.3]}
    one, two = (GridSearchCV(pipeline, grid, n_jobs=jobs, cv=2).fit(x, y) for jobs in (1, 2))
    assert (one.cv_results_["mean_test_score"] == two.cv_results_["mean_test_score"]).all()
    assert equal(one.best_estimator_[-1], two.best_estimator_[-1])


def threads_of_kernels():
    import numba

    from minidl.sklearn import MLPClassifier

    return MLPClassifier.__name__, numba.get_num_threads()


def test_workers_of_joblib_divide_the_cores():
    from joblib import Parallel, cpu_count, delayed

    found = Parallel(n_jobs=2)(delayed(threads_of_kernels)() for _ in range(2))
    assert found == [("MLPClassifier", max(1, cpu_count() // 2))] * 2


def test_cross_val_score_of_regressor_is_high():
    assert cross_val_score(MLPRegressor(12, **QUICK, random_state=0), *lines(2), cv=3).min() > 0.9


# ------------------------------------------------------------------------------ fitting


@pytest.mark.parametrize("state", [5, None], ids=["integer", "generator"])
def test_equal_random_states_give_equal_bits_and_others_do_not(state):
    x, y = blobs()

    def fitted(seed):
        own = seed if state else np.random.RandomState(seed)
        return MLPClassifier(8, dropout=0.3, max_iter=3, random_state=own).fit(x, y)

    assert equal(fitted(5), fitted(5))
    assert not equal(fitted(5), fitted(6))


def test_inputs_decide_the_dtype():
    for given, wanted in (("float32", "float32"), ("float64", "float64"), ("int64", "float32")):
        x, y = blobs(dtype=given)
        fitted = MLPClassifier(4, max_iter=2).fit(x, y)
        assert {weight.dtype for weight in weights_of(fitted)} == {np.dtype(wanted)}
        assert fitted.predict_proba(x).dtype == wanted


def test_labels_may_be_strings():
    x, y = blobs()
    names = np.array(["lion", "bear", "zebra"])[y]
    fitted = MLPClassifier(12, **QUICK, random_state=0).fit(x, names)
    assert fitted.classes_.tolist() == ["bear", "lion", "zebra"]
    assert fitted.score(x, names) > 0.9


def test_dropout_changes_training_and_not_prediction():
    x, y = blobs()
    plain, hidden, features = (
        MLPClassifier(8, max_iter=4, random_state=0, **rates).fit(x, y)
        for rates in ({}, {"dropout": 0.5}, {"input_dropout": 0.5})
    )
    assert not equal(plain, hidden)
    assert not equal(plain, features)
    assert not equal(hidden, features)
    assert (hidden.predict_proba(x) == hidden.predict_proba(x)).all()


def test_dropout_may_differ_between_hidden_layers():
    x, y = blobs()
    fitted = MLPClassifier((8, 6), dropout=[0.5, 0.25], max_iter=2, random_state=0).fit(x, y)
    rates = [layer.rate for layer in fitted._model.layers if isinstance(layer, layers.Dropout)]
    assert rates == [0.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="one for each of the 2 hidden layers, got"):
        MLPClassifier((8, 6), dropout=[0.5, 0.2, 0.1]).fit(x, y)
    same = MLPClassifier((8, 6), dropout=0.5, max_iter=2, random_state=0).fit(x, y)
    assert not equal(fitted, same)


def test_warm_start_goes_on_and_forgets_the_optimizer():
    x, y = blobs()
    twice = MLPClassifier(8, max_iter=3, random_state=0, warm_start=True).fit(x, y)
    twice.set_params(dropout=0.4).fit(x, y)
    assert twice.n_iter_ == 3
    assert len(twice.loss_curve_) == 6
    assert twice.t_ == 6 * len(x)
    assert twice.loss_curve_[3] < twice.loss_curve_[0]
    assert twice._model.layers[2].rate == 0.4
    anew = clone(twice).set_params(dropout=0.0, warm_start=False).fit(x, y).fit(x, y)
    assert anew.loss_curve_ == twice.loss_curve_[:3]


@pytest.mark.parametrize("change", [{"hidden_layer_sizes": 9}, {"activation": "tanh"}])
def test_warm_start_rejects_another_network(change):
    x, y = blobs()
    fitted = MLPClassifier(8, max_iter=2, warm_start=True).fit(x, y)
    with pytest.raises(ValueError, match="expected the network of the last fit"):
        fitted.set_params(**change).fit(x, y)


def test_partial_fit_of_all_samples_equals_fit():
    x, y = blobs()
    options = {"random_state": 2, "dropout": 0.2, "batch_size": 30}
    whole = MLPClassifier(8, max_iter=3, **options).fit(x, y)
    parts = MLPClassifier(8, **options)
    for _ in range(3):
        parts.partial_fit(x, y, classes=[0, 1, 2])
    assert equal(whole, parts)
    assert parts.loss_curve_ == whole.loss_curve_
    number = MLPRegressor(8, **options)
    for _ in range(3):
        number.partial_fit(*lines())
    assert equal(number, clone(number).set_params(max_iter=3).fit(*lines()))


def test_partial_fit_learns_a_class_that_a_part_lacks():
    x, y = blobs()
    parts = MLPClassifier(16, learning_rate_init=0.05, random_state=0)
    with pytest.raises(ValueError, match="expected classes in the first call"):
        parts.partial_fit(x, y)
    for step in range(60):
        chosen = y != step % 3
        parts.partial_fit(x[chosen], y[chosen], classes=[0, 1, 2])
    assert parts.score(x, y) > 0.9
    with pytest.raises(ValueError, match="expected classes of"):
        parts.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="early_stopping=False"):
        parts.set_params(early_stopping=True).partial_fit(x, y)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_early_stopping_keeps_the_best_weights(kind):
    x, y = blobs() if kind is MLPClassifier else lines()
    options = {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 3}
    fitted = kind(8, learning_rate_init=0.2, random_state=4, **options).fit(x, y)
    scores = fitted.validation_scores_
    assert fitted.n_iter_ == len(scores) < 200
    assert fitted.best_validation_score_ == max(scores)
    assert fitted.best_loss_ is None
    best = scores.index(max(scores)) + 1
    again = kind(8, learning_rate_init=0.2, random_state=4, **options, max_iter=best).fit(x, y)
    assert equal(fitted, again)


def test_training_stops_when_the_loss_no_longer_improves():
    x, y = blobs()
    fitted = MLPClassifier(8, random_state=0, tol=1e9, n_iter_no_change=4).fit(x, y)
    assert fitted.n_iter_ == 6
    assert fitted.best_loss_ == min(fitted.loss_curve_)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        MLPClassifier(8, max_iter=2).fit(x, y)


def test_weights_of_samples_count_as_repetitions_in_batches_of_all():
    x, y = lines()
    weight = np.arange(len(x)) % 3
    options = {"batch_size": 1000, "max_iter": 20, "random_state": 0, "alpha": 1.0}
    weighted = MLPRegressor(4, **options).fit(x, y, weight)
    repeated = MLPRegressor(4, **options).fit(x.repeat(weight, axis=0), y.repeat(weight))
    for one, other in zip(weights_of(weighted), weights_of(repeated), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_fitted_estimator_survives_pickle_and_goes_on(tmp_path):
    x, y = blobs()
    fitted = MLPClassifier(8, dropout=0.3, random_state=0).partial_fit(x, y, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(x) == fitted.predict_proba(x)).all()
    assert equal(again.partial_fit(x, y), fitted.partial_fit(x, y))


def test_names_of_features_are_checked():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    x, y = blobs()
    frame = pandas.DataFrame(x, columns=list("abcd"))
    fitted = MLPClassifier(4, max_iter=2).fit(frame, y)
    assert fitted.feature_names_in_.tolist() == list("abcd")
    assert fitted.n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[list("dcba")])


def test_verbose_prints_a_line_for_each_epoch(capsys):
    MLPClassifier(4, max_iter=3, verbose=True).fit(*blobs())
    assert capsys.readouterr().out.count("loss") == 3


@pytest.mark.parametrize(("early_stopping", "value"), [(False, "loss"), (True, "validation_score")])
def test_verbose_shows_the_score_and_why_training_stops(early_stopping, value, capsys):
    options = {"early_stopping": early_stopping, "verbose": True, "n_iter_no_change": 1}
    fitted = MLPClassifier(4, tol=2.0, random_state=0, **options).fit(*blobs())
    lines = capsys.readouterr().out.splitlines()
    assert sum(f" - {value}: " in line for line in lines) == fitted.n_iter_ == 3
    assert f"Epoch 3: {value} no longer improved by tol=2.0" in lines


def test_estimator_runs_on_device(device):
    x, y = blobs()
    fitted = MLPClassifier(8, max_iter=3, dropout=0.3, random_state=0, device=device).fit(x, y)
    on_cpu = MLPClassifier(8, max_iter=3, dropout=0.3, random_state=0).fit(x, y)
    for one, other in zip(weights_of(fitted), weights_of(on_cpu), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------ uncertainty


def test_uncertainty_without_dropout_warns():
    fitted = MLPClassifier(4, **QUICK).fit(*blobs())
    with pytest.warns(UserWarning, match=r"^predict_uncertainty: .* Fit with dropout=0\.5\.$"):
        assert not fitted.predict_uncertainty(blobs()[0], samples=2).std.any()
    fitted.set_params(input_dropout=0.5).fit(*blobs()).predict_uncertainty(blobs()[0], samples=2)


def test_uncertainty_has_the_shapes_of_predictions():
    x, y = blobs()
    fitted = MLPClassifier(8, **QUICK, dropout=0.2, random_state=0).fit(x, y)
    found = fitted.predict_uncertainty(x, samples=30)
    assert found.mean.shape == found.std.shape == (90, 3)
    assert found.mutual_information.shape == (90,)
    assert found.std.max() > 0.01
    np.testing.assert_allclose(found.mean, fitted.predict_proba(x), atol=0.3)
    assert (fitted.predict_uncertainty(x, samples=30).std == found.std).all()

    x, y = blobs(2)
    found = MLPClassifier(8, **QUICK, dropout=0.5).fit(x, y).predict_uncertainty(x)
    assert found.mean.shape == found.std.shape == (90, 2)
    np.testing.assert_allclose(found.mean.sum(axis=1), 1, rtol=1e-6)
    assert found.mutual_information is None

    x, y = lines()
    found = MLPRegressor(8, **QUICK, dropout=0.5).fit(x, y).predict_uncertainty(x)
    assert found.mean.shape == found.std.shape == (80,)
    x, y = lines(2)
    found = MLPRegressor(8, **QUICK, dropout=0.5).fit(x, y).predict_uncertainty(x)
    assert found.mean.shape == found.std.shape == (80, 2)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "gelu"}, "activation"),
        ({"alpha": -1.0}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "all"}, "batch_size"),
        ({"device": "tpu"}, "device"),
        ({"dropout": 1.0}, "dropout"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"hidden_layer_sizes": (4, 0)}, "units"),
        ({"input_dropout": -0.1}, "input_dropout"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
        ({"max_iter": 0}, "max_iter"),
        ({"momentum": 1.0, "solver": "sgd"}, "momentum"),
        ({"n_iter_no_change": 0.5}, "n_iter_no_change"),
        ({"solver": "lbfgs"}, "solver"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
    ids=str,
)
def test_fit_rejects_parameter(options, named):
    estimator = MLPClassifier(**options)
    with pytest.raises((TypeError, ValueError), match=named):
        estimator.fit(*blobs())
    with pytest.raises(NotFittedError):
        estimator.predict(blobs()[0])


def test_fit_rejects_data():
    x, y = blobs()
    estimator = MLPClassifier(4, max_iter=2)
    sparse = pytest.importorskip("scipy.sparse").csr_array(x)
    with pytest.raises(TypeError, match="dense"):
        estimator.fit(sparse, y)
    for weight in (-np.ones(90), np.zeros(90), np.ones(89), np.ones((90, 1))):
        with pytest.raises(ValueError, match="weight"):
            estimator.fit(x, y, weight)
    with pytest.raises(NotFittedError):
        estimator.predict_uncertainty(x)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fit_rejects_weights_that_do_not_stay_finite():
    x, y = lines()
    with pytest.raises(ValueError, match="expected finite weights"):
        MLPRegressor(4, solver="sgd", learning_rate_init=1e30, max_iter=9).fit(x, y)


def test_import_without_scikit_learn_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("minidl.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"minidl\[sklearn\]"):
        importlib.import_module("minidl.sklearn")

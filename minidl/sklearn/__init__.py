"""Estimators for scikit-learn: multilayer networks with dropout.

They need scikit-learn, the extra ``sklearn``; ``import minidl`` alone does not import them.

=================  ================================================================
`MLPClassifier`    classes, or several labels for each sample
`MLPRegressor`     one or several numbers for each sample
=================  ================================================================
"""

from minidl.storage.extras import from_extra

with from_extra("sklearn", "scikit-learn", who="minidl.sklearn"):
    from minidl.sklearn.estimators import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

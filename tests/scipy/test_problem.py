"""All derivatives of a problem in one call, in the forms of `minimize` and `least_squares`."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint, rosen, rosen_der, rosen_hess, rosen_hess_prod

import fastgc

X = np.array([1.3, 0.7, 0.8])


def verdicts(report: fastgc.ProblemReport) -> dict[str, str]:
    return {name: each.verdict for name, each in report.sections.items()}


def circle(x: Any) -> Any:
    return x[0] ** 2 + x[1] * x[2]


def circle_jac(x: Any) -> Any:
    return np.array([2 * x[0], x[2], x[1]])


def circle_hess(x: Any, v: Any) -> Any:
    return v[0] * np.array([[2.0, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_a_right_problem_passes_in_every_section() -> None:
    report = fastgc.check_problem(rosen, X, rosen_der, rosen_hess, hessp=rosen_hess_prod)
    assert verdicts(report) == {"gradient": "pass", "hessian": "pass", "hessp": "pass"}
    assert report.passed and bool(report) and report.verdict == "pass"
    assert str(report).startswith("PASS  all checked derivatives agree: gradient, hessian, hessp   3 derivatives check")
    assert report.evaluations == sum(each.evaluations for each in report.sections.values())


def test_what_is_checked_is_what_the_solver_takes() -> None:
    constraint = {"type": "ineq", "fun": circle, "jac": circle_jac}
    arguments: dict[str, Any] = {"jac": rosen_der, "constraints": constraint, "bounds": [(0, 2)] * 3}
    assert scipy.optimize.minimize(rosen, X, **arguments).success
    assert verdicts(fastgc.check_problem(rosen, X, **arguments)) == {"gradient": "pass", "constraints[0]": "pass"}


def test_each_wrong_derivative_fails_its_own_section() -> None:
    constraints = [
        {"type": "eq", "fun": circle, "jac": lambda x: -circle_jac(x)},
        NonlinearConstraint(circle, 0, 1, jac=circle_jac, hess=lambda x, v: 2 * circle_hess(x, v)),
        NonlinearConstraint(circle, 0, 1, jac=circle_jac, hess=circle_hess),
    ]
    report = fastgc.check_problem(rosen, X, lambda x: 2 * rosen_der(x), lambda x: 2 * rosen_hess(x), constraints)
    assert verdicts(report) == {
        "gradient": "fail",
        "hessian": "pass",  # it is the Jacobian of that wrong gradient
        "constraints[0]": "fail",
        "constraints[1]": "pass",
        "constraints[1].hess": "fail",
        "constraints[2]": "pass",
        "constraints[2].hess": "pass",
    }
    assert "FAIL  3 of 7 derivatives wrong: gradient, constraints[0], constraints[1].hess" in str(report)


def test_fun_may_return_its_gradient() -> None:
    report = fastgc.check_problem(lambda x: (rosen(x), rosen_der(x)), X, True, rosen_hess)
    assert verdicts(report) == {"gradient": "pass", "hessian": "pass"}
    assert fastgc.check_problem(lambda x: (rosen(x), -rosen_der(x)), X, True).verdict == "fail"


@pytest.mark.parametrize("args", [(3.0,), 3.0, (np.array([3.0, 1.0, 2.0]),)], ids=["tuple", "one value", "array"])
def test_args_go_to_all_functions(args: Any) -> None:
    report = fastgc.check_problem(
        lambda x, a: np.sum(a * x**3), X, lambda x, a: 3 * a * x**2, lambda x, a: np.diag(6 * a * x), args=args
    )
    assert verdicts(report) == {"gradient": "pass", "hessian": "pass"}


def test_a_constraint_has_its_own_args() -> None:
    constraint = {"type": "eq", "fun": lambda x, a: a * x @ x, "jac": lambda x, a: 2 * a * x, "args": (2.0,)}
    assert fastgc.check_problem(rosen, X, rosen_der, constraints=[constraint]).passed


T = np.linspace(0, 1, 7)


def residuals(x: Any) -> Any:
    return np.exp(x[0] * T) * x[1] - x[2]


def residuals_jac(x: Any) -> Any:
    e = np.exp(x[0] * T)
    return np.stack([T * e * x[1], e, -np.ones(7)], axis=1)


@pytest.mark.parametrize(
    "form",
    [np.asarray, scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.linalg.aslinearoperator],
    ids=["dense", "sparse", "matrix", "operator"],
)
@pytest.mark.parametrize("factor", [1, 2])
def test_residuals_of_least_squares(form: Any, factor: int) -> None:
    report = fastgc.check_problem(
        residuals, X, lambda x: form(factor * residuals_jac(x)), bounds=(-np.inf, [2, 2, 0.8])
    )
    assert verdicts(report) == {"jacobian": "pass" if factor == 1 else "fail"}


def test_one_residual_has_a_row() -> None:
    report = fastgc.check_problem(lambda x: np.array([x @ x]), X, lambda x: 2 * x[None, :])
    assert verdicts(report) == {"jacobian": "pass"}
    report = fastgc.check_problem(lambda x: np.array([x @ x]), X, lambda x: 2 * x)  # `minimize` takes that
    assert verdicts(report) == {"gradient": "pass"}


def test_a_constraint_of_one_value_in_an_array_may_have_a_flat_row() -> None:
    constraint = {"type": "eq", "fun": lambda x: np.array([circle(x)]), "jac": circle_jac}
    assert fastgc.check_problem(rosen, X, rosen_der, constraints=constraint).passed


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array, scipy.sparse.linalg.aslinearoperator])
def test_hessians_in_all_forms(form: Any) -> None:
    report = fastgc.check_problem(rosen, X, rosen_der, lambda x: form(rosen_hess(x)))
    assert report.passed
    assert not fastgc.check_problem(rosen, X, rosen_der, lambda x: form(np.tril(rosen_hess(x)))).passed


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array, scipy.sparse.linalg.aslinearoperator])
@pytest.mark.parametrize("factor", [1, 2])
def test_nonlinear_constraints_of_several_values(form: Any, factor: int) -> None:
    constraint = NonlinearConstraint(
        lambda x: x**3, 0, 1, jac=lambda x: form(np.diag(3 * x**2)), hess=lambda x, v: form(np.diag(factor * 6 * x * v))
    )
    found = verdicts(fastgc.check_problem(rosen, X, rosen_der, constraints=constraint))
    assert found["constraints[0]"] == "pass"
    assert found["constraints[0].hess"] == ("pass" if factor == 1 else "fail")


def test_nothing_is_called_outside_the_bounds() -> None:
    def f(x: Any) -> Any:
        assert x.min() >= 0.5
        return np.sum(np.sqrt(x - 0.5) ** 3)

    def jac(x: Any) -> Any:
        return 1.5 * np.sqrt(x - 0.5)

    constraint = {"type": "ineq", "fun": f, "jac": jac}
    report = fastgc.check_problem(f, [0.5, 0.7], jac, constraints=constraint, bounds=Bounds(0.5, np.inf))
    assert report.verdict != "fail"


def test_what_is_not_checked_is_said() -> None:
    constraints = [LinearConstraint(np.eye(3)), NonlinearConstraint(circle, 0, 1), {"type": "eq", "fun": circle}]
    report = fastgc.check_problem(rosen, X, "2-point", rosen_hess, constraints, hessp=None)
    assert report.sections == {} and report.verdict == "undecided"
    assert report.notes == (
        "jac: '2-point': no derivative of yours to check",
        "hess: hess is compared with differences of the gradient: it needs jac as a function, or True",
        "constraints[0]: linear: A is its Jacobian",
        "constraints[1]: jac is '2-point': no derivative of yours to check",
        "constraints[2]: jac is None: no derivative of yours to check",
    )
    assert str(report).startswith("UNDECIDED  no derivative to check")
    assert "note: constraints[0]: linear" in str(report)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (3, r"^constraints\[0\] is a int; it must be a dict with 'fun' and 'jac', a NonlinearConstraint or"),
        ({"type": "eq"}, r"^constraints\[0\]\['fun'\] is None; it must be a function$"),
        (LinearConstraint(np.eye(2)), r"^constraints\[0\].A has shape \(2, 2\); x0 has 3 variables: A must have as"),
    ],
)
def test_other_constraints_are_refused(constraint: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fastgc.check_problem(rosen, X, rosen_der, constraints=[constraint])


def test_the_report_is_saved_shown_and_read_back(tmp_path: Path) -> None:
    report = fastgc.check_problem(
        rosen, X, lambda x: -rosen_der(x), rosen_hess, constraints=LinearConstraint(np.eye(3))
    )
    text = report.to_json(tmp_path / "report.json")
    schema = json.loads(resources.files("fastgc").joinpath("report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(text), schema)
    other: Any = fastgc.load_report(tmp_path / "report.json")
    assert isinstance(other, fastgc.ProblemReport)
    assert str(other) == str(report)
    assert other.to_dict() == report.to_dict()
    assert "| hessian |" in report.to_markdown()
    assert "hessian" in report.to_html()
    assert set(report.to_dataframe()["tensor"]) == {"gradient", "hessian"}

"""The check of a Jacobian or a Hessian."""

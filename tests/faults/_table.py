"""Plausible mistakes, each with the tests that ought to notice it.

A fault is one change of one place: a sign, a constant off by 5 %, a wrong axis, a
dropped term, a swapped branch. None of them raises; each makes a number wrong that a
user would believe. `python -m tests.faults` plants them one at a time.

To add one: quote a snippet that occurs exactly once in its file (more of the line, or
the line before, makes it unique), and name the narrowest tests that guard it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Args:
        name: How `--only` knows it.
        file: The file it is planted in, below `isometry/`.
        before: Text that occurs exactly once in that file.
        after: What is written in its place.
        tests: Files of tests that ought to fail, below `tests/`.
        match: Which tests of these files, as `pytest -k` takes it; all if empty.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    match: str = ""


INITIALIZERS = (
    Fault(
        "kaiming-modes-swapped",
        "initializers/_scaled.py",
        'if mode == "fan_in":',
        'if mode == "fan_out":',
        ("initializers/test_laws.py",),
        match="kaiming",
    ),
    Fault(
        "torch-default-bound",
        "initializers/_scaled.py",
        "math.sqrt(3.0 * fan_in)",
        "math.sqrt(3.15 * fan_in)",
        ("initializers/test_laws.py",),
        match="torch_default",
    ),
    # The cut normal keeps 0.774 of its variance; this divides by 5 % too little.
    Fault(
        "truncated-standard-deviation",
        "initializers/_variance_scaling.py",
        "_STD_WITHIN_TWO = 0.87962566103423978",
        "_STD_WITHIN_TWO = 0.8357",
        ("initializers/test_laws.py",),
        match="glorot_normal",
    ),
    Fault(
        "truncation-forgets-the-mean",
        "initializers/_random.py",
        "standard_lower = (lower - mean) / std",
        "standard_lower = lower / std",
        ("initializers/test_laws.py",),
        match="truncated_normal",
    ),
    # Orthogonal all the same, but its law is not Haar's.
    Fault(
        "haar-signs-forgotten",
        "linalg/_factorizations.py",
        "q = q * jnp.sign(diagonal)[..., None, :]",
        "q = q * jnp.ones_like(diagonal)[..., None, :]",
        ("initializers/test_isometric.py",),
        match="orthogonal_is_haar",
    ),
    # An even window is shifted by one pixel under SAME padding.
    Fault(
        "delta-orthogonal-tap",
        "initializers/_kernels.py",
        "(k - 1) // 2 for k in window",
        "k // 2 for k in window",
        ("initializers/test_convolution.py",),
        match="delta_orthogonal",
    ),
    # Still a projection, so the convolution stays an isometry, of another law.
    Fault(
        "block-orthogonal-projects-on-coordinates",
        "initializers/_convolution.py",
        "directions @ directions.T",
        "directions.T @ directions",
        ("initializers/test_convolution.py",),
        match="uses_its_whole_window",
    ),
    # The outputs of the groups alternate, as no convolution reads them.
    Fault(
        "groups-interleaved",
        "initializers/_kernels.py",
        "grouped = jnp.moveaxis(kernels, len(parts.batch), -2)",
        "grouped = jnp.moveaxis(kernels, len(parts.batch), -1)",
        ("initializers/test_convolution.py",),
        match="dirac",
    ),
    Fault(
        "groups-draw-one-matrix",
        "initializers/_kernels.py",
        "kernels = jax.vmap(draw_one)(keys)",
        "kernels = jax.vmap(lambda _: draw_one(key))(keys)",
        ("contract/test_initializers.py",),
        match="stack",
    ),
    # Rows stay orthogonal; the matrix is another one.
    Fault(
        "hadamard-parity-of-or",
        "initializers/_zero.py",
        "row[:, None] & column[None, :]",
        "row[:, None] | column[None, :]",
        ("initializers/test_isometric.py",),
        match="hadamard",
    ),
    Fault(
        "sparse-rounds-down",
        "initializers/_sparse.py",
        "math.ceil(float(sparsity) * shape.num_outputs)",
        "math.floor(float(sparsity) * shape.num_outputs)",
        ("initializers/test_sparse.py",),
        match="leave_every_input_alike",
    ),
    Fault(
        "critical-by-fan-out",
        "initializers/_critical.py",
        "sigma_w * fan_in**-0.5",
        "sigma_w * fan_out**-0.5",
        ("initializers/test_critical_weights.py",),
    ),
)

ACTIVATIONS = (
    Fault(
        "gelu-tanh-constant",
        "activations.py",
        "0.044715 * x**3",
        "0.042479 * x**3",
        ("theory/mean_field/test_maps.py",),
        match="gelu_tanh",
    ),
)

LINALG = (
    # The small rows drown in the rounding of the large ones.
    Fault(
        "graded-rows-ascending",
        "linalg/_graded.py",
        "order = jnp.argsort(-size)",
        "order = jnp.argsort(size)",
        ("linalg/test_product.py",),
        match="general_position or mpmath",
    ),
    # The basis of a Cholesky factor is orthonormal to eps times the squared condition.
    Fault(
        "graded-basis-not-orthonormal",
        "linalg/_product.py",
        "_graded.flip(_graded.core(orthonormal))",
        "_graded.flip(_graded.core(product))",
        ("linalg/test_product.py",),
        match="orthonormal",
    ),
    # A group that is badly conditioned is kept.
    Fault(
        "groups-of-any-condition",
        "linalg/_sweep.py",
        "return condition <= 2.0 **",
        "return condition <= 2e8 * 2.0 **",
        ("linalg/test_product.py",),
        match="groups_are_as_accurate",
    ),
    Fault(
        "residual-of-the-wrong-axis",
        "linalg/_lanczos.py",
        "jnp.abs(left[done - 1, ends])",
        "jnp.abs(left[ends, done - 1])",
        ("linalg/test_lanczos.py",),
        match="extremes or bounds or reached",
    ),
    Fault(
        "quadrature-weights-not-squared",
        "linalg/_lanczos.py",
        "weights = right[..., 0] ** 2",
        "weights = jnp.abs(right[..., 0])",
        ("linalg/test_lanczos.py",),
        match="truncated_quadrature or standard_error",
    ),
    # Value and gradient of log_spread are right.
    Fault(
        "hessian-forgets-that-the-mean-moves",
        "linalg/_log_spread.py",
        "(turned - moved)",
        "turned",
        ("linalg/test_log_spread.py",),
        match="hessian",
    ),
    Fault(
        "jacobian-norm-per-input",
        "linalg/_moments.py",
        "jnp.sum(matrix_of(g, point.ravel()) ** 2) / m",
        "jnp.sum(matrix_of(g, point.ravel()) ** 2) / n",
        ("linalg/test_moments.py",),
        match="partial_jacobian_norm",
    ),
    Fault(
        "chebyshev-waves-halved",
        "linalg/_chebyshev.py",
        "(series.angle + 2 * waves)",
        "(series.angle + waves)",
        ("linalg/test_factored.py",),
        match="quarter_circle",
    ),
    # Where fewer units live than the program has room for, unit 0 fills up.
    Fault(
        "padding-counts-unit-zero",
        "linalg/_compact.py",
        "jnp.where(is_unit, scale_of_units, 0)",
        "scale_of_units",
        ("linalg/test_compact.py",),
    ),
    # J is right, its transpose is that of the layers in the wrong order.
    Fault(
        "transpose-runs-forward",
        "linalg/_linear.py",
        "        reverse=backward,\n",
        "",
        ("linalg/test_factored.py",),
        match="products_of_factors",
    ),
)

THEORY = (
    Fault(
        "correlation-map-scale-not-squared",
        "theory/mean_field/_maps.py",
        "sigma_w**2 * found.product",
        "sigma_w * found.product",
        ("theory/mean_field/test_pair.py",),
        match="erf or relu",
    ),
    Fault(
        "variance-slope-halved",
        "theory/mean_field/_moments.py",
        "mean(value * slope * z) / scale",
        "mean(value * slope * z) / (2 * scale)",
        ("theory/mean_field/test_fixed_points.py",),
        match="slice",
    ),
    Fault(
        "critical-bias-not-divided",
        "theory/mean_field/_critical.py",
        "finite(phi, q, known.excess[0]) / slope",
        "finite(phi, q, known.excess[0])",
        ("theory/mean_field/test_critical.py",),
        match="critical_at_table",
    ),
    # Both scales agree in the ordered phase.
    Fault(
        "gradient-depth-is-that-of-correlation",
        "theory/mean_field/_fixed_points.py",
        "(abs(point.slope), abs(c.slope), chi_1)",
        "(abs(point.slope), abs(c.slope), abs(c.slope))",
        ("theory/mean_field/test_fixed_points.py",),
    ),
    # The S-transform of the projection is left out.
    Fault(
        "narrowing-haar-keeps-its-rank",
        "theory/laws/_closed.py",
        "((size / outputs, 1.0), (size / (taps * inputs), -1.0))",
        "((size / outputs, 1.0),)",
        ("theory/laws/test_law_matrices.py",),
        match="widening_and_narrowing",
    ),
    Fault(
        "bernoulli-series-sign",
        "theory/laws/_closed.py",
        "signs = -((-1.0) ** np.arange(n))",
        "signs = (-1.0) ** np.arange(n)",
        ("theory/laws/test_law_closed_forms.py",),
        match="bernoulli_class",
    ),
    Fault(
        "gaussian-width-rate",
        "theory/laws/_jacobian_law.py",
        "3 * spread + 2 if is_gaussian",
        "3 * spread + 1 if is_gaussian",
        ("theory/laws/test_law_matrices.py",),
        match="finite_width",
    ),
    Fault(
        "branch-scale-not-squared",
        "theory/laws/_jacobian_law.py",
        "branch_scale**2 * sigma**2 * slope_at[q]",
        "branch_scale * sigma**2 * slope_at[q]",
        ("theory/laws/test_law_matrices.py",),
        match="residual_blocks",
    ),
    # A law without mass at zero does not show it.
    Fault(
        "log-moment-not-off-zero",
        "theory/laws/_law.py",
        "(t / 2) ** k) / product.rank",
        "(t / 2) ** k)",
        ("theory/laws/test_law_closed_forms.py",),
        match="log_s",
    ),
    Fault(
        "logistic-variance",
        "theory/laws/_log_moments.py",
        "2: math.pi**2 / 3",
        "2: math.pi**2 / 3.1",
        ("theory/laws/test_log_moments.py",),
        match="powers",
    ),
    Fault(
        "density-of-s-halved",
        "theory/laws/_law.py",
        '"s": 2 * np.exp(-flat / 2)',
        '"s": np.exp(-flat / 2)',
        ("theory/laws/test_law_closed_forms.py",),
        match="quarter_circle",
    ),
    # The fixed point is right, its gradient is not.
    Fault(
        "implicit-gradient-multiplied",
        "theory/traced.py",
        "return y / g(jnp.ones_like(y))",
        "return y * g(jnp.ones_like(y))",
        ("theory/test_traced.py",),
        match="gradient",
    ),
)

NETWORKS = (
    # The hidden span ends before the slopes of its last layer.
    Fault(
        "hidden-span-keeps-the-last-slopes",
        "networks/_mlp.py",
        "Factors(matrix, scale.at[-1].set(1))",
        "Factors(matrix, scale)",
        ("measure/test_product_method.py",),
        match="is_autodiff",
    ),
    # Equal widths do not show it.
    Fault(
        "widening-orthogonal-keeps-its-gain",
        "schemes/_scheme.py",
        "layer.fan_in / max(layer.fan_in, num_outputs)",
        "num_outputs / max(layer.fan_in, num_outputs)",
        ("networks/test_mlp_law.py",),
        match="mean_of_both_spans",
    ),
    Fault(
        "fixup-exponent",
        "schemes/_residual.py",
        "2 * branch.length - 2",
        "2 * branch.length - 1",
        ("schemes/test_laws.py",),
        match="fixup",
    ),
    Fault(
        "deep-norm-counts-layers",
        "schemes/_transformer.py",
        "(4 * branch.count) ** -0.25",
        "(8 * branch.count) ** -0.25",
        ("schemes/test_laws.py",),
        match="deep_norm",
    ),
    Fault(
        "mirrored-variance-of-the-whole",
        "schemes/_mirrored.py",
        "base(half)(key, half, dtype)",
        "base(shape)(key, half, dtype)",
        ("schemes/test_mirrored.py",),
        match="product_of_its_blocks",
    ),
)

MEASURING = (
    Fault(
        "standard-error-of-a-population",
        "measure/_batches.py",
        "jnp.std(per_seed, axis=0, ddof=1)",
        "jnp.std(per_seed, axis=0)",
        ("measure/test_spectrum.py",),
        match="standard_error",
    ),
    Fault(
        "quadrature-counts-each-probe-whole",
        "measure/methods/lanczos.py",
        "weights = rules.weights.ravel() / method.probes",
        "weights = rules.weights.ravel()",
        ("measure/test_record.py",),
        match="mass_one",
    ),
    # The two rules would enclose nothing.
    Fault(
        "radau-rule-without-its-zero",
        "linalg/_lanczos.py",
        "num_kept = jnp.where(is_whole, done, done - 1)",
        "num_kept = done",
        ("linalg/test_lanczos.py",),
        match="enclose_what",
    ),
    Fault(
        "interval-of-the-gauss-rule-alone",
        "measure/_intervals.py",
        "by_radau = statistic(radau)",
        "by_radau = by_gauss",
        ("measure/test_record.py",),
        match="few_steps",
    ),
    Fault(
        "values-taken-out-count-twice",
        "linalg/_lanczos.py",
        "rest = (1 - jnp.sum(mass)) * rules.weights",
        "rest = rules.weights",
        ("linalg/test_lanczos.py",),
        match="taken_out",
    ),
    # Square Jacobians do not show it.
    Fault(
        "quadrature-has-no-structural-zeros",
        "measure/_target.py",
        "structural_zeros=abs(m - n),",
        "structural_zeros=0,",
        ("measure/test_lanczos_method.py",),
        match="within_their_errors",
    ),
    # Zeros are left as rounding, below the floor but not exact.
    Fault(
        "rank-of-the-widest-space",
        "measure/methods/dense.py",
        "jnp.min(linalg.live_counts(stacks), -1, keepdims=True)",
        "jnp.max(linalg.live_counts(stacks), -1, keepdims=True)",
        ("measure/test_ensemble.py",),
        match="dead_units_change",
    ),
    # Vectors do not show it.
    Fault(
        "jacobian-of-a-rescaled-input",
        "measure/_target.py",
        "y = self.apply(params, x, z.reshape(start.shape))",
        "y = self.apply(params, x, z.reshape(start.shape, order='F'))",
        ("measure/test_jacobian.py",),
        match="any_shape",
    ),
)

VERDICTS = (
    # Equal widths do not show it.
    Fault(
        "growth-not-per-unit",
        "verdicts/_growth.py",
        "np.median(log_mean, axis=-1) + math.log(sp.size / num_outputs)",
        "np.median(log_mean, axis=-1)",
        ("verdicts/test_phase.py",),
        match="unequal_widths",
    ),
    Fault(
        "record-one-step-late",
        "_monitor.py",
        "is_due = state.step % plan.every == 0",
        "is_due = (state.step + 1) % plan.every == 0",
        ("test_monitor.py",),
        match="records_are_those",
    ),
    Fault(
        "extra-arguments-of-the-optimizer-ignored",
        "_monitor.py",
        "current = _monitor_current.current(self.state, params, extra)",
        "_monitor_current.current(self.state, params, extra)",
        ("test_monitor.py",),
        match="training_changes",
    ),
    Fault(
        "reset-behind-the-matrix",
        "networks/_cells.py",
        'activation(_pre_activation(gates["candidate"], reset * h, x))',
        'activation(reset * _pre_activation(gates["candidate"], h, x))',
        ("networks/test_rnn.py",),
        match="equations",
    ),
    Fault(
        "logits-scaled-by-the-width",
        "networks/_transformer.py",
        "logits / (self.width // self.heads) ** 0.5",
        "logits / self.width**0.5",
        ("networks/test_transformer.py",),
        match="plain_implementation",
    ),
    Fault(
        "branch-across-the-steps-of-a-recurrence",
        "structure/_branches.py",
        "if fork_value not in of_state or not is_same_step:",
        "if fork_value not in of_state:",
        ("structure/test_branches.py",),
        match="gru_and_an_lstm",
    ),
)

CERTIFICATES = (
    # A negative entry is then equal to nothing: locks up to sign are lost.
    Fault(
        "signs-of-a-class-forgotten",
        "certificates/_partition.py",
        "height = signs[members] * values[members]",
        "height = values[members]",
        ("certificates/test_partition.py",),
    ),
    # Matrices do not show it.
    Fault(
        "kernel-as-a-matrix-of-its-first-axis",
        "certificates/_layers.py",
        "matrix = code.reshape(-1, code.shape[-1])",
        "matrix = code.reshape(code.shape[0], -1)",
        ("certificates/test_layers.py",),
    ),
    Fault(
        "heads-along-the-other-axis",
        "certificates/_findings.py",
        "axes = layer.in_axes if is_output else layer.out_axes",
        "axes = layer.out_axes if is_output else layer.in_axes",
        ("certificates/test_locks.py", "certificates/test_certificate.py"),
        match="head or what_to_do",
    ),
    Fault(
        "minimum-without-its-sign",
        "certificates/relaxing/_table.py",
        "return -_smooth.maximum(smooth, -first, -second)",
        "return _smooth.maximum(smooth, -first, -second)",
        ("certificates/test_relaxation.py",),
    ),
    # Float32 parameters in float64 do not show it.
    Fault(
        "coarse-sums-are-claimed",
        "certificates/_certify.py",
        "space.bits > _MOST_BITS or smooth.is_coarse",
        "space.bits > _MOST_BITS and smooth.is_coarse",
        ("certificates/test_certify.py",),
        match="near_miss",
    ),
    # Equal experts are then parted by decay, and their lock is lost.
    Fault(
        "equal-leaves-decay-apart",
        "certificates/_closure.py",
        "return by_group[_group_of_leaf(space, group)]",
        "return by_group",
        ("certificates/test_locks.py",),
        match="experts",
    ),
    Fault(
        "direction-counted-whatever-the-gradient",
        "certificates/_confine.py",
        "is_new = sizes > keep * norm",
        "is_new = sizes > keep",
        ("certificates/test_confine.py",),
    ),
    Fault(
        "first-step-counted-from-zero",
        "certificates/_closure.py",
        "self._first[is_new] = self.num_rounds + 1",
        "self._first[is_new] = max(self.num_rounds, 1)",
        ("certificates/test_closure.py", "certificates/test_certificate.py"),
        match="step or harmless or first",
    ),
)

FLAGS = (
    Fault(
        "rounding-is-added-twice",
        "verdicts/_training.py",
        "jax.tree.map(jnp.add, gradient, lost)",
        "jax.tree.map(jnp.subtract, gradient, lost)",
        ("verdicts/test_probe.py",),
        match="rounding",
    ),
    Fault(
        "rank-of-the-longer-side",
        "verdicts/flags/rank_constrained_training.py",
        "bound = min(math.prod(rows), math.prod(columns))",
        "bound = max(math.prod(rows), math.prod(columns))",
        ("verdicts/flags/test_rank_constrained_training.py",),
    ),
    Fault(
        "channels-for-tokens",
        "verdicts/_statistics.py",
        'found["token_spread"] = jax.vmap(_spread)(tokens)',
        'found["token_spread"] = jax.vmap(_spread)(tokens.swapaxes(1, 2))',
        ("verdicts/flags/test_attention_collapse.py",),
    ),
    Fault(
        "share-of-s-for-that-of-its-square",
        "verdicts/_outliers.py",
        "squares = np.exp(2 * (log_s - log_max))",
        "squares = np.exp(log_s - log_max)",
        ("verdicts/test_spectrum_flags.py",),
        match="outlier",
    ),
    Fault(
        "interval-of-one-side",
        "verdicts/_spread.py",
        "stdtrit(freedom, 0.975)",
        "stdtrit(freedom, 0.95)",
        ("verdicts/test_spread.py",),
    ),
    # Networks without biases do not show it.
    Fault(
        "looser-of-two-nulls",
        "verdicts/_nulls.py",
        "min(by_covariance, by_sign)",
        "max(by_covariance, by_sign)",
        ("verdicts/flags/test_dead_units.py",),
    ),
    Fault(
        "rounding-of-a-square-not-squared",
        "verdicts/_collapse.py",
        "return _NOISE * unit**2",
        "return _NOISE * unit",
        ("verdicts/flags/test_rank_collapse.py",),
    ),
    Fault(
        "correlation-of-an-input-with-itself",
        "verdicts/_collapse.py",
        "1 - signal.spread * without_itself",
        "1 - signal.spread",
        ("verdicts/test_activity.py",),
    ),
    Fault(
        "lift-left-in-a-gradient",
        "verdicts/_double.py",
        "return np.ldexp(gradients, -exponents), log_size - math.log(LIFT)",
        "return np.ldexp(gradients, -exponents), log_size",
        ("verdicts/test_gradients.py",),
        match="underflow or float64",
    ),
)

REPORTING = (
    # E log x is below log E x by half the variance.
    Fault(
        "curvature-doubled",
        "comparison/_finite_width.py",
        "var(0, ddof=1) / 2",
        "var(0, ddof=1)",
        ("comparison/test_statistics.py",),
        match="half_their_variance",
    ),
    Fault(
        "ranks-from-the-top",
        "comparison/_ranks.py",
        "wanted = (1 - u) * mass_above[-1]",
        "wanted = u * mass_above[-1]",
        ("comparison/test_distance.py",),
    ),
    Fault(
        "outliers-left-in-the-bulk",
        "comparison/_compare.py",
        "np.minimum(counts, law.outliers)",
        "0 * counts",
        ("comparison/test_outliers.py",),
    ),
    # Pixels share weights, and are no independent units.
    Fault(
        "pixels-counted-as-width",
        "comparison/_compare.py",
        "width = sp.size // law.positions",
        "width = sp.size",
        ("comparison/test_finite_width.py",),
        match="pixels",
    ),
    Fault(
        "density-of-lam-drawn-as-of-s",
        "plots/_axis.py",
        "unit = LN10 / self.power",
        "unit = LN10",
        ("plots/test_pictures.py",),
        match="equal_masses",
    ),
    Fault(
        "norm-not-per-feature",
        "data.py",
        "jnp.mean(scaled**2, axis=axes, keepdims=True)",
        "jnp.sum(scaled**2, axis=axes, keepdims=True)",
        ("test_data.py",),
        match="normalized_inputs",
    ),
    Fault(
        "noise-shown-as-a-value",
        "measure/_known.py",
        "np.isfinite(log_s) & (log_s < log_floor)",
        "np.isfinite(log_s) & (log_s < -np.inf)",
        ("measure/test_known.py",),
        match="below_the_floor",
    ),
    # Of values below one it is wrong, of those above e it is right.
    Fault(
        "deviation-from-zero",
        "measure/_known.py",
        "jnp.log(jnp.abs(jnp.expm1(small)))",
        "small",
        ("measure/test_known.py",),
        match="of_any_size",
    ),
    Fault(
        "bounds-rounded-inwards",
        "_internal/numerals.py",
        "math.ceil(tenths - _SLACK)",
        "round(tenths)",
        ("_internal/test_numerals.py",),
    ),
    Fault(
        "zeros-drawn-as-unresolved",
        "measure/_display.py",
        'is_solid=kind == "zeros"',
        'is_solid=kind != "zeros"',
        ("test_notebook.py",),
        match="no_place",
    ),
    Fault(
        "atoms-of-a-law-at-lam",
        "verdicts/_html/_pictures.py",
        "(math.log10(atom.lam) / 2, atom.mass / width)",
        "(math.log10(atom.lam), atom.mass / width)",
        ("verdicts/test_html.py",),
        match="with_its_atoms",
    ),
    Fault(
        "mass-of-a-law-right-of-the-axis-lost",
        "verdicts/_html/_pictures.py",
        "law.survival(edges[-1] * _LN10",
        "0 * law.survival(edges[-1] * _LN10",
        ("verdicts/test_html.py",),
        match="beyond_the_axis",
    ),
    Fault(
        "ticks-of-a-linear-axis",
        "_internal/svg.py",
        "steps = [0.0, math.log10(2), math.log10(5)]",
        "steps = [0.0, 0.2, 0.5]",
        ("_internal/test_svg.py",),
        match="ticks",
    ),
    Fault(
        "standard-error-of-all-matrices",
        "cli/_summary.py",
        "std(ddof=1) / math.sqrt(len(per_seed))",
        "std(ddof=1) / math.sqrt(logs.size)",
        ("cli/test_summary.py",),
        match="over_seeds",
    ),
    Fault(
        "depth-scale-of-the-squared-gradient",
        "cli/_theory.py",
        "depth * math.log(chi)",
        "depth * math.log(chi) / 2",
        ("cli/test_theory.py",),
        match="json_says",
    ),
    Fault(
        "undecided-network-passes",
        "cli/_audit.py",
        'elif flag.state != "clear":',
        'elif flag.state == "not_run":',
        ("cli/test_audit.py",),
        match="not_judged",
    ),
    # JAX would run what others have put there.
    Fault(
        "cache-open-to-a-group",
        "cli/_cache.py",
        "(stat.S_IWGRP | stat.S_IWOTH)",
        "stat.S_IWOTH",
        ("cli/test_cache.py",),
        match="others_can_fill",
    ),
    Fault(
        "tokens-of-the-smallest-embedding",
        "cli/_model.py",
        "most = num_rows.get(i, _RANGE_UNKNOWN)",
        "most = min(layer.fan_in for layer in net.anatomy.embeddings)",
        ("cli/test_model.py",),
        match="drawn_by_their_kind",
    ),
)

FAULTS = (
    *INITIALIZERS,
    *ACTIVATIONS,
    *LINALG,
    *THEORY,
    *NETWORKS,
    *MEASURING,
    *VERDICTS,
    *CERTIFICATES,
    *FLAGS,
    *REPORTING,
)

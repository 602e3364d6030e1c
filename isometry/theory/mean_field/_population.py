"""Recurrent cells with the same weights in every step: a population of sites.

Gates of one unit are correlated over time if the weights are those of every step, so
the mean field of fresh weights does not hold. What holds in a wide network: a matrix W
that is applied to vectors a_1, a_2, ..., and whose transpose is never applied, takes
orthonormal directions to independent Gaussian vectors (Bolthausen, 2014). So W need not
be kept. Each new vector is split into its part in the span of the earlier ones, whose
image is known, and the rest, whose image is drawn. K sites cost K n numbers a step in
place of K².

Images are orthonormalized too, so the population is a network of K units whose Haar
weights are drawn where they are met. A Gaussian W has the same limit, and for the same
error needs several times more sites.

Perturbations have matrices of their own: in the limit they are orthogonal to the
states, and a vector orthogonal to all earlier ones has an independent image. Several
of them share the path of one site.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry._internal import blas
from isometry.activations import Activation
from isometry.theory.mean_field._fixed_points import NoFixedPoint
from isometry.theory.mean_field._gates import Scales
from isometry.theory.mean_field._host import evaluate

Vector = Float[np.ndarray, " entries"]
Images = Float[np.ndarray, "gates entries"]

# Perturbations of each site. With one, the rate is twice as noisy at cells whose gates
# hardly move; four cost twice as much as one.
_COPIES = 2

# A rest of this share of a vector is rounding of float32: no new direction.
_ROUNDING = 1e-6


class HaarWeights:
    """Haar orthogonal matrices that are all applied to the same vectors.

    Args:
        scales: Every singular value of each matrix.
        entries: The number of entries of a vector.
        most: The number of vectors at most.
        rng: Draws the images.
    """

    def __init__(
        self,
        scales: Sequence[float],
        entries: int,
        most: int,
        *,
        rng: np.random.Generator,
    ):
        by_gate = np.array(scales, np.float32)
        self.scales = by_gate[:, None]
        self.rng = rng
        self.num_directions = 0
        # In float32: rounding is far below the noise of a population, and half of the
        # time goes to memory. The mean square of each row is 1.
        self._directions = np.empty((most, entries), np.float32)
        # By gate, direction and entry.
        shape = (len(scales), most, entries)
        self._images = np.empty(shape, np.float32)

    def __call__(self, vector: Vector) -> Images:
        """Apply each of the matrices to a vector."""
        known = self._directions[: self.num_directions]
        coefficients, rest = _split(vector, known)
        size = _root_mean_square(rest)
        if size > _ROUNDING * _root_mean_square(vector):
            self._draw(rest / size)
            coefficients = np.append(coefficients, np.float32(size))
        images = self._images[:, : self.num_directions]
        # One product of a matrix for each gate: together they would be copied.
        by_gate = [coefficients @ of_gate for of_gate in images]
        return self.scales * np.stack(by_gate)

    def _draw(self, direction: Vector) -> None:
        """Add a direction, with an image in each matrix."""
        n = self.num_directions
        self._directions[n] = direction
        # W is orthogonal, so a new image is orthogonal to those of earlier directions,
        # and as long as the direction.
        for images in self._images:
            num = len(direction)
            drawn = self.rng.standard_normal(num, np.float32)
            _, image = _split(drawn, images[:n])
            images[n] = image / _root_mean_square(image)
        self.num_directions += 1


def _split(
    vector: Vector,
    directions: Float[np.ndarray, "some entries"],
) -> tuple[Float[np.ndarray, " some"], Vector]:
    """Return the coefficients of a vector along directions, and what is left of it.

    The directions are orthogonal rows, each of mean square 1.
    """
    # A row of mean square 1 has the squared length len(vector).
    coefficients = directions @ vector / len(vector)
    projection = coefficients @ directions
    return coefficients, vector - projection


@dataclasses.dataclass
class Sites:
    """What the equations of a cell ask for, at all sites and their perturbations.

    Attributes:
        phi: The activation.
        gates: The distribution of each gate's pre-activation.
        num: The number of sites.
        rng: Draws biases, inputs and weights.
        most: The number of steps at most.
    """

    phi: Activation
    gates: Mapping[str, Scales]
    num: int
    rng: np.random.Generator
    most: int

    def __post_init__(self):
        # Biases stay the same in all steps.
        self._biases = {}
        for name, gate in self.gates.items():
            variance = max(gate.drive - gate.noise, 0.0)
            noise = variance**0.5 * self.normal(self.num)
            self._biases[name] = gate.bias + noise

    def normal(self, num: int) -> Vector:
        """Draw standard normal numbers."""
        return self.rng.standard_normal(num, np.float32)

    def from_input(self, name: str) -> Vector:
        """Return V x + b of a gate in a new step."""
        scale = self.gates[name].noise ** 0.5
        noise = scale * self.normal(self.num)
        return self._biases[name] + noise

    def from_content(
        self,
        name: str,
        content: Vector,
    ) -> Vector:
        """Return V z + b of a gate that reads the content z in the place of x.

        z is drawn anew in each step, so V z is too.
        """
        del content
        return self.from_input(name)

    def weights(self, *names: str) -> tuple[HaarWeights, HaarWeights]:
        """Return the recurrent weights of gates: for states, and for perturbations."""
        scales = [self.gates[name].recurrent ** 0.5 for name in names]
        of_states = HaarWeights(
            scales,
            self.num,
            self.most,
            rng=self.rng,
        )
        num_changes = self.num * _COPIES
        of_changes = HaarWeights(
            scales,
            num_changes,
            self.most,
            rng=self.rng,
        )
        return of_states, of_changes

    def activated(self, u: Vector) -> tuple[Vector, Vector]:
        """Return phi(u) and phi'(u)."""
        # Most cells have tanh, and a call of JAX in each step would take longer than
        # all the rest of a small population.
        if self.phi.name == "tanh":
            value = np.tanh(u)
            return value, 1 - value**2
        value, slope = evaluate(self.phi, u)
        return value.astype(np.float32), slope.astype(np.float32)


class Driven(Sites):
    """Sites that read given inputs, one after the other.

    Args:
        phi: The activation.
        gates: The distribution of each gate's pre-activation, for inputs of mean square
            1.
        num: The number of sites.
        n_in: The number of entries of an input.
        rng: Draws biases and weights.
        most: The number of steps of all sequences together.
    """

    def __init__(
        self,
        phi: Activation,
        gates: Mapping[str, Scales],
        num: int,
        *,
        n_in: int,
        rng: np.random.Generator,
        most: int,
    ):
        super().__init__(phi, gates, num=num, rng=rng, most=most)
        self._inputs = {}
        self._contents = {}
        for name, gate in gates.items():
            scale = (gate.noise / n_in) ** 0.5
            draws = rng.standard_normal((n_in, num), np.float32)
            self._inputs[name] = np.float32(scale) * draws
        self.x = np.zeros(n_in, np.float32)

    def from_input(self, name: str) -> Vector:
        """Return V x + b of a gate for the present x."""
        of_x = self.x @ self._inputs[name]
        return self._biases[name] + of_x

    def from_content(
        self,
        name: str,
        content: Vector,
    ) -> Vector:
        """Return V z + b of a gate that reads the content z in the place of x.

        V is drawn at the first call, and is the same at every step of the recurrence.
        """
        if name not in self._contents:
            scales = [self.gates[name].noise ** 0.5]
            self._contents[name] = HaarWeights(
                scales, self.num, self.most, rng=self.rng
            )
        (image,) = self._contents[name](content)
        return self._biases[name] + image


# The states of a cell; the first is h.
States = tuple[Vector, ...]


class OneStep(NamedTuple):
    """The Jacobian from h to the next h, site by site, as squares.

    It is diag(a) + Σ diag(s) W, and in a GRU with a reset between two matrices also
    diag(t) W_g (diag(r) + diag(p) W_r).

    Attributes:
        kept: a².
        fed: Σ sigma_w² s².
        product: sigma_w² t².
        reset: r².
        through_reset: sigma_w² p².
    """

    kept: Vector
    fed: Vector
    product: Vector | None = None
    reset: Vector | None = None
    through_reset: Vector | None = None


class Moved(NamedTuple):
    """States and perturbations after a step.

    Attributes:
        states: The new states.
        changes: The new perturbations.
        jacobian: Returns the Jacobian of the step, where it is asked for.
    """

    states: States
    changes: States
    jacobian: Callable[[], OneStep]


# One step: from states and perturbations to new ones.
Step = Callable[[States, States], Moved]


def _logistic(u: Vector) -> tuple[Vector, Vector]:
    value = 1 / (1 + np.exp(-u))
    return value, value * (1 - value)


def _at_copies(values: Vector) -> Vector:
    """Return the values of sites once for each perturbation."""
    return np.tile(values, _COPIES)


def minimal(sites: Sites) -> Step:
    """Return a step of h' = u h + (1 − u) z, where u = s(W h + V z + b)."""
    to_states, to_changes = sites.weights("update")

    def step(
        states: States,
        changes: States,
    ) -> Moved:
        (h,), (dh,) = states, changes
        from_x = sites.from_input("candidate")
        z, _ = sites.activated(from_x)
        (image,) = to_states(h)
        from_z = sites.from_content("update", z)
        u, slope = _logistic(image + from_z)
        (du,) = to_changes(dh)
        by_update = slope * (h - z)
        dh = _at_copies(u) * dh
        dh += _at_copies(by_update) * du
        new = u * h + (1 - u) * z

        def jacobian() -> OneStep:
            strength = sites.gates["update"].recurrent
            fed = strength * by_update**2
            return OneStep(kept=u**2, fed=fed)

        return Moved((new,), (dh,), jacobian)

    return step


def gru(sites: Sites) -> Step:
    """Return a step of h' = u h + (1 − u) g, where g = phi(W(r h) + V x + b)."""
    to_states, to_changes = sites.weights("update", "reset")
    to_products, to_changes_of_products = sites.weights("candidate")

    def step(
        states: States,
        changes: States,
    ) -> Moved:
        (h,), (dh,) = states, changes
        update, reset = to_states(h)
        u, slope_u = _logistic(update + sites.from_input("update"))
        r, slope_r = _logistic(reset + sites.from_input("reset"))
        (candidate,) = to_products(r * h)
        candidate = candidate + sites.from_input("candidate")
        g, slope_g = sites.activated(candidate)
        by_update = slope_u * (h - g)
        by_reset = slope_r * h
        by_candidate = (1 - u) * slope_g
        du, dr = to_changes(dh)
        product = _at_copies(r) * dh
        product += _at_copies(by_reset) * dr
        (dg,) = to_changes_of_products(product)
        dh = _at_copies(u) * dh
        dh += _at_copies(by_update) * du
        dh += _at_copies(by_candidate) * dg
        new = u * h + (1 - u) * g

        def jacobian() -> OneStep:
            gates = sites.gates
            return OneStep(
                kept=u**2,
                fed=gates["update"].recurrent * by_update**2,
                product=gates["candidate"].recurrent * by_candidate**2,
                reset=r**2,
                through_reset=gates["reset"].recurrent * by_reset**2,
            )

        return Moved((new,), (dh,), jacobian)

    return step


def lstm(sites: Sites) -> Step:
    """Return a step of c' = f c + i g, h' = o phi(c')."""
    names = ("input", "forget", "output", "cell")
    to_states, to_changes = sites.weights(*names)

    def step(
        states: States,
        changes: States,
    ) -> Moved:
        (h, c), (dh, dc) = states, changes
        u = {}
        for name, image in zip(names, to_states(h), strict=True):
            u[name] = image + sites.from_input(name)
        du = dict(zip(names, to_changes(dh), strict=True))
        i, slope_i = _logistic(u["input"])
        f, slope_f = _logistic(u["forget"])
        o, slope_o = _logistic(u["output"])
        g, slope_g = sites.activated(u["cell"])
        to_cell = {
            "forget": slope_f * c,
            "input": slope_i * g,
            "cell": i * slope_g,
        }
        dc = _at_copies(f) * dc
        dc += _at_copies(to_cell["forget"]) * du["forget"]
        dc += _at_copies(to_cell["input"]) * du["input"]
        dc += _at_copies(to_cell["cell"]) * du["cell"]
        c = f * c + i * g
        shown, slope = sites.activated(c)
        # h' = o phi(c') moves with the new c, and with the output gate.
        by_cell = o * slope
        by_output = slope_o * shown
        dh = _at_copies(by_cell) * dc
        dh += _at_copies(by_output) * du["output"]

        def jacobian() -> OneStep:
            gates = sites.gates
            fed = gates["output"].recurrent * by_output**2
            for name, factor in to_cell.items():
                through_cell = (by_cell * factor) ** 2
                fed += gates[name].recurrent * through_cell
            # The old h is in no term but those of the gates.
            return OneStep(kept=np.zeros_like(fed), fed=fed)

        new = o * shown
        return Moved((new, c), (dh, dc), jacobian)

    return step


CELLS = {"minimal": minimal, "gru": gru, "lstm": lstm}


def growth(
    cell: str,
    sites: Sites,
    first: int,
) -> tuple[float, float]:
    """Run a population from states 0; return q of h, and the growth of |dh|² in a step.

    Args:
        cell: The name of the cell.
        sites: The population.
        first: The number of steps before the states and the perturbations are taken to
            be stationary.

    Raises:
        NoFixedPoint: The states grow without bound.
    """
    step = CELLS[cell](sites)
    states = _zeros(cell, sites.num)
    num_changes = sites.num * _COPIES
    changes = tuple(sites.normal(num_changes) for _ in states)
    squares, log_growths = [], []
    for t in range(sites.most):
        before = _root_mean_square(changes[0])
        moved = step(states, changes)
        states = moved.states
        after = _root_mean_square(moved.changes[0])
        square = _root_mean_square(states[0]) ** 2
        is_bounded = math.isfinite(square) and 0 < after < math.inf
        if not is_bounded:
            raise NoFixedPoint("the mean square of the state grows without bound.")
        # Rescaled, because the growth of hundreds of steps overflows float32.
        size = np.float32(after)
        changes = tuple(change / size for change in moved.changes)
        if t >= first:
            squares.append(square)
            log_growths.append(2 * math.log(after / before))
    rate = math.exp(np.mean(log_growths))
    return float(np.mean(squares)), rate


def _root_mean_square(vector: Vector) -> float:
    return math.sqrt(vector @ vector / len(vector))


def _zeros(cell: str, num: int) -> States:
    """Return states 0 of a cell."""
    num_states = 2 if cell == "lstm" else 1
    return (np.zeros(num, np.float32),) * num_states


# With more threads, products with vectors take ten times more of the processor: threads
# wait for one another by spinning.
@blas.single_threaded()
def paths(
    cell: str,
    sites: Driven,
    xs: Float[np.ndarray, "inputs steps n_in"],
) -> Float[np.ndarray, "inputs steps sites"]:
    """Return h at all sites after each step of each sequence, from states 0."""
    shape = (*xs.shape[:2], sites.num)
    found = np.empty(shape)
    for i, by_step in enumerate(_moves(cell, sites, xs)):
        for t, moved in enumerate(by_step):
            found[i, t] = moved.states[0]
    return found


@blas.single_threaded()
def jacobians(
    cell: str,
    sites: Driven,
    xs: Float[np.ndarray, "inputs steps n_in"],
) -> list[OneStep]:
    """Return the Jacobian of the last step of each sequence, from states 0."""
    found = []
    for by_step in _moves(cell, sites, xs):
        *_, last = by_step
        found.append(last.jacobian())
    return found


def _moves(
    cell: str,
    sites: Driven,
    xs: Float[np.ndarray, "inputs steps n_in"],
) -> Iterator[Iterator[Moved]]:
    """Yield the steps of each sequence, one sequence after the other."""
    step = CELLS[cell](sites)
    # No perturbation: directions that vanish cost nothing.
    nothing = _zeros(cell, sites.num * _COPIES)

    def steps(sequence: Float[np.ndarray, "steps n_in"]) -> Iterator[Moved]:
        states = _zeros(cell, sites.num)
        for x in sequence:
            sites.x = x.astype(np.float32)
            moved = step(states, nothing)
            states = moved.states
            yield moved

    for sequence in xs:
        yield steps(sequence)

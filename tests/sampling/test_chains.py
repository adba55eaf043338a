"""Samplers: stationary moments of linear Gaussian networks, exact; noise of each sample's own."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable, SamplingTable
from pcgen.errors import DivergenceError, RecipeError
from pcgen.inference.preconditioners import BlockDiagonal
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from pcgen.registry import SOLVERS
from pcgen.sampling.ancestral import draw_data, draw_states
from pcgen.sampling.chains import Chains, Posterior
from pcgen.sampling.langevin import SAMPLERS, Layers
from pcgen.sampling.mass_matrices import ErrorMass
from pcgen.sampling.modes import Modes
from pcgen.sampling.noise import SampleNoise
from pcgen.sampling.settled import find_modes
from tests import oracle
from tests.inference.test_inference import linear_equilibrium, linear_hessian

CHAINS = 1500


def posterior(network: Network, solver: str = "kinetic", **sampling: object) -> Posterior:
    table = InferenceTable(solver=solver, sampling=SamplingTable(**sampling))
    return Posterior(network, table)


def run(
    target: Posterior, data_BD: Tensor, steps: int, mask_BD: Tensor | None = None, seed: int = 0
) -> Chains:
    """Return chains that began in one point, after so many steps."""
    network, count = target.network, len(data_BD)
    states = [data_BD, *(data_BD.new_zeros(count, size) for size in network.sizes[1:])]
    if network.table.activation == network.table.output == "linear" and mask_BD is None:
        states = linear_equilibrium(network, data_BD)

    def noise(like: Layers) -> SampleNoise:
        return SampleNoise(seed, "test", range(count), like)

    chains = target.begin(states, noise, mask_BD=mask_BD)
    for _ in range(steps):
        chains.step()
    return chains


def linear(hidden: float = 1.0) -> Network:
    return oracle.network(
        layers=(2, 3), shape=4, activation="linear", hidden=hidden, latent=0.7, data=2.0
    )


def worst(found_BD: Tensor, mean_D: Tensor, covariance_DD: Tensor) -> tuple[float, float]:
    """Return how many standard errors mean and variances are off, along the worst direction."""
    values, vectors = torch.linalg.eigh(covariance_DD)
    along = (found_BD - mean_D) @ vectors
    count = len(found_BD)
    mean = along.mean(0).abs() / (values / count).sqrt()
    spread = (along.square().mean(0) / values - 1).abs() / (2 / count) ** 0.5
    return float(mean.max()), float(spread.max())


def momentum_covariance(hessian: Tensor, step: float, friction: float) -> Tensor:
    """Return the exact stationary covariance of x of the momentum sampler with M = 1."""
    size = len(hessian)
    eye, mu = torch.eye(size, dtype=hessian.dtype), 1 - friction
    # (x, m) <- A (x, m) + noise on m, and what it does to x.
    move = torch.cat(
        [
            torch.cat([eye - step * hessian, -step * mu * eye], 1),
            torch.cat([hessian, mu * eye], 1),
        ]
    )
    kick = torch.cat([-step * eye, eye]) * (2 * friction / step) ** 0.5
    # The discrete Lyapunov equation as one linear system.
    square = torch.kron(move, move)
    whole = torch.linalg.solve(torch.eye(len(square)).double() - square, (kick @ kick.T).flatten())
    return whole.view(2 * size, 2 * size)[:size, :size]


@pytest.mark.parametrize("coordinates", ["states", "errors"])
@pytest.mark.parametrize("precondition", [True, False])
def test_kinetic_samples_a_linear_network_exactly_at_a_large_step(
    coordinates: str, precondition: bool
) -> None:
    network = linear()
    data = oracle.data(network, 1).expand(CHAINS, -1)
    step = 0.9 if precondition else 0.25
    target = posterior(network, coordinates=coordinates, precondition=precondition, step=step)
    found = torch.cat(run(target, data, 60 if precondition else 120).states[1:], 1)
    mean = torch.cat(linear_equilibrium(network, data[:1])[1:], 1)[0]
    assert max(worst(found, mean, torch.linalg.inv(linear_hessian(network)))) < 3


def test_kinetic_is_exact_at_curvature_100_where_the_others_are_biased() -> None:
    # One latent over one unit of data: the posterior's curvature is 100.
    network = oracle.network(layers=(1,), shape=1, activation="linear", latent=1.0, data=99.0)
    network.layers[0].weight.fill_(1.0)
    network.layers[0].bias.zero_()  # type: ignore[union-attr]
    data = torch.zeros(8_000, 1, dtype=torch.float64)

    def variance(solver: str, step: float, friction: float) -> float:
        target = posterior(network, solver, precondition=False, step=step, friction=friction)
        return 100 * float(run(target, data, 80).states[1].square().mean())

    three = 3 * (2 / len(data)) ** 0.5
    assert abs(variance("kinetic", 0.13, 1.0) - 1) < three
    # METHODS, table M: overdamped 2.00; momentum at the published rate .0184, mu .9: 1.94.
    assert abs(variance("langevin", 0.01, 1.0) / 2 - 1) < three
    theory = float(momentum_covariance(torch.full((1, 1), 100.0).double(), 0.018447, 0.1)) * 100
    assert 1.9 < theory < 2.0
    assert abs(variance("momentum", 0.018447, 0.1) / theory - 1) < three


@pytest.mark.parametrize("solver", ["langevin", "momentum"])
def test_the_other_samplers_have_the_variance_of_their_discrete_theory(solver: str) -> None:
    network = linear()
    data = oracle.data(network, 1).expand(CHAINS, -1)
    step, friction, hessian = 0.08, 0.3, linear_hessian(network)
    target = posterior(network, solver, precondition=False, step=step, friction=friction)
    found = torch.cat(run(target, data, 150).states[1:], 1)
    if solver == "langevin":
        eye = torch.eye(len(hessian)).double()
        expected = torch.linalg.inv(hessian @ (eye - 0.5 * step * hessian))
    else:
        expected = momentum_covariance(hessian, step, friction)
    mean = torch.cat(linear_equilibrium(network, data[:1])[1:], 1)[0]
    assert max(worst(found, mean, expected)) < 3


@pytest.mark.parametrize("solver", ["langevin", "kinetic"])
@pytest.mark.parametrize("coordinates", ["states", "errors"])
def test_a_metropolis_test_makes_a_large_step_exact(solver: str, coordinates: str) -> None:
    network = linear()
    data = oracle.data(network, 1).expand(CHAINS, -1)
    step = 0.6 if solver == "langevin" else 0.8
    target = posterior(network, solver, coordinates=coordinates, step=step, metropolis=True)
    chains = run(target, data, 160 if solver == "langevin" else 100)
    share = float(chains.accepted_B.mean()) / chains.steps
    assert 0.3 < share < 0.99
    found = torch.cat(chains.states[1:], 1)
    mean = torch.cat(linear_equilibrium(network, data[:1])[1:], 1)[0]
    assert max(worst(found, mean, torch.linalg.inv(linear_hessian(network)))) < 3


def test_a_metropolis_test_makes_a_crooked_posterior_exact() -> None:
    """One tanh unit: the density is known by quadrature; an untested large step misses it."""
    network = oracle.network(layers=(1,), shape=1, output="tanh", latent=1.0, data=3.0)
    network.layers[0].weight.fill_(1.5)
    data = torch.full((4_000, 1), 0.7, dtype=torch.float64)
    places = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    weight = (-network.energy([data[:1].expand(len(places), -1), places])).softmax(0)
    mean = float(weight @ places[:, 0])
    spread = float(weight @ (places[:, 0] - mean).square())
    for solver, step in (("langevin", 0.3), ("kinetic", 1.2)):
        target = posterior(network, solver, metropolis=True, step=step)
        found = run(target, data, 100).states[1][:, 0]
        assert abs(float(found.mean()) - mean) < 3 * (spread / len(data)) ** 0.5
        # The fourth moment sets the error of the variance; 6 is beyond this density's kurtosis.
        assert abs(float(found.var()) / spread - 1) < 3 * (5 / len(data)) ** 0.5


def two_causes() -> Network:
    """Return a network of one latent and one unit of data, its causes 16 deviations apart."""
    network = oracle.network(layers=(1,), shape=1, output="tanh", latent=1.0, data=2.0)
    network.layers[0].weight.fill_(0.1)
    prior = Mixture.standard(2, 1, 0, network.layers[0].weight)
    prior.means_KL.copy_(torch.tensor([[-4.0], [4.0]]))
    prior.roots_KLL.fill_(2.0)
    prior.log_weights_YK.copy_(torch.tensor([[0.3, 0.7]]).log())
    network.mixture = prior
    return network


def modes_of(network: Network, data_BD: Tensor, mask_BD: Tensor | None = None) -> Modes:
    """Return the modes of one row's data, for each of CHAINS chains."""
    method = prepare(network, InferenceTable(solver="errors"))
    mask = None if mask_BD is None else mask_BD[:1]
    modes = find_modes(method, data_BD[:1], mask, 0)
    assert modes is not None
    return modes.of(torch.zeros(CHAINS, dtype=torch.long))


@pytest.mark.parametrize("coordinates", ["states", "errors"])
@pytest.mark.parametrize("spoilt", [False, True])
def test_jumps_find_the_weights_of_causes_that_lie_far_apart(
    coordinates: str, spoilt: bool
) -> None:
    """The shares of the modes are known by quadrature, and hold for any proposal."""
    network = two_causes()
    data = torch.full((CHAINS, 1), 0.2, dtype=torch.float64)
    places = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
    weight = (-network.energy([data[:1].expand(len(places), -1), places])).softmax(0)
    expected = float(weight @ (places[:, 0] > 0).double())
    modes = modes_of(network, data)
    if spoilt:
        # Wrong weights, centres and widths make jumps rarer, and their result no worse.
        wrong = torch.tensor([0.4, -0.3], dtype=torch.float64)
        centres = [modes.centres[0][:, :2] + wrong[:, None]]
        roots = 0.8 * modes.roots_BJLL[:, :2]
        weights = torch.full((CHAINS, 2), 0.5).double().log()
        modes = replace(modes, log_weights_BJ=weights, centres=centres, roots_BJLL=roots)
    target = posterior(network, coordinates=coordinates, metropolis=True, step=0.5)
    chains = run(target, data, 0)
    shares = []
    for _ in range(20):
        chains.step()
        shares.append(float(chains.jump(modes).double().mean()))
    assert min(shares[5:]) > (0.3 if spoilt else 0.6)
    found = chains.states[1][:, 0]
    error = (expected * (1 - expected) / CHAINS) ** 0.5
    assert abs(float((found > 0).double().mean()) - expected) < 3 * error
    beside = found[found > 0] - 4
    assert abs(float(beside.var()) / 0.25 - 1) < 0.2


@pytest.mark.parametrize("coordinates", ["states", "errors"])
def test_jumps_alone_sample_the_posterior_of_a_linear_network(coordinates: str) -> None:
    network = linear(hidden=8.0)
    data = oracle.data(network, 1).expand(CHAINS, -1)
    modes = modes_of(network, data)
    chains = run(posterior(network, coordinates=coordinates), data, 0)
    shares = [float(chains.jump(modes).double().mean()) for _ in range(25)]
    assert min(shares) > 0.2
    mean = torch.cat(linear_equilibrium(network, data[:1])[1:], 1)[0]
    found = torch.cat(chains.states[1:], 1)
    assert max(worst(found, mean, torch.linalg.inv(linear_hessian(network)))) < 3


def test_the_modes_of_a_row_are_found_once_each_with_their_weights() -> None:
    network = two_causes()
    data = torch.full((CHAINS, 1), 0.2, dtype=torch.float64)
    modes = modes_of(network, data)
    exists = modes.log_weights_BJ[0] > -torch.inf
    assert int(exists.sum()) == 2
    places = modes.centres[-1][0, exists, 0]
    assert float(places.abs().min()) > 3.5
    assert float(places.prod()) < 0


def test_temperature_scales_the_covariance() -> None:
    network = linear()
    data = oracle.data(network, 1).expand(CHAINS, -1)
    found = torch.cat(run(posterior(network, temperature=0.1), data, 60).states[1:], 1)
    mean = torch.cat(linear_equilibrium(network, data[:1])[1:], 1)[0]
    assert max(worst(found, mean, 0.1 * torch.linalg.inv(linear_hessian(network)))) < 3


def free_moments(network: Network) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of all layers, data first, of a linear network left free."""
    zero = torch.zeros(1, network.sizes[-1], dtype=torch.float64)
    states, covariance = [zero], torch.eye(network.sizes[-1]).double()
    covariance = covariance / network.latent_precision()
    blocks = [covariance]
    for i in reversed(range(network.depth)):
        weight = network.layers[i].matrix()
        states.insert(0, network.layers[i].drive(states[0]))
        own = torch.eye(network.sizes[i]).double() / network.log_precisions[i].exp()
        blocks.insert(0, weight @ blocks[0] @ weight.T + own)
    return states[0][0], blocks[0]


@pytest.mark.parametrize("coordinates", ["states", "errors"])
def test_free_chains_and_ancestral_draws_have_the_data_of_the_closed_form(coordinates: str) -> None:
    network = linear()
    mean, covariance = free_moments(network)
    blank = torch.zeros(CHAINS, 4, dtype=torch.float64)
    chains = run(posterior(network, coordinates=coordinates), blank, 60, torch.zeros_like(blank))
    prediction = chains.surface.terms[0].prediction_BD
    noise = SampleNoise(1, "data", range(CHAINS), [blank])
    assert max(worst(draw_data(network, prediction, noise), mean, covariance)) < 3

    def streams(purpose: str, *widths: int) -> SampleNoise:
        like = [torch.zeros(1, width, dtype=torch.float64) for width in widths]
        return SampleNoise(2, purpose, range(CHAINS), like)

    states = draw_states(network, streams("states", 3, 2))
    drawn = draw_data(network, states[0], streams("data", 4))
    assert max(worst(drawn, mean, covariance)) < 3


def test_hidden_data_is_drawn_from_its_conditional_distribution() -> None:
    network = linear()
    mean, covariance = free_moments(network)
    data = oracle.data(network, 1).expand(CHAINS, -1)
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0]).double().expand(CHAINS, -1)
    chains = run(posterior(network), data, 60, mask)
    noise = SampleNoise(3, "data", range(CHAINS), [data])
    found = draw_data(network, chains.surface.terms[0].prediction_BD, noise)[:, 2:]
    seen, cross = covariance[:2, :2], covariance[2:, :2]
    gain = cross @ torch.linalg.inv(seen)
    expected = mean[2:] + gain @ (data[0, :2] - mean[:2])
    assert max(worst(found, expected, covariance[2:, 2:] - gain @ cross.T)) < 3


@pytest.mark.parametrize("build", oracle.BUILDS)
def test_the_roots_of_the_masses_square_to_their_inverses(build: str) -> None:
    network = oracle.network(latent=0.5, hidden=3.0, **oracle.BUILDS[build])
    for mass in (BlockDiagonal(network), ErrorMass(network)):
        eyes = [torch.eye(size, dtype=torch.float64) for size in network.sizes[1:]]
        for root, inverse in zip(mass.root(eyes), mass(eyes), strict=True):
            torch.testing.assert_close(root.T @ root, inverse, rtol=1e-6, atol=1e-9)


def test_the_mass_of_errors_is_their_curvature_where_the_network_is_linear() -> None:
    network = linear(hidden=3.0)
    layers = [layer.matrix() for layer in network.layers]
    jacobian = layers[0] @ layers[1]
    expected = 2.0 * jacobian.T @ jacobian + 0.7 * torch.eye(2).double()
    eye = [torch.eye(3).double(), torch.eye(2).double()]
    hidden, latent = ErrorMass(network)(eye)
    torch.testing.assert_close(torch.linalg.inv(latent), expected, rtol=1e-4, atol=1e-4)
    diagonal = 3.0 + 2.0 * layers[0].square().sum(0)
    # Random signs: right on average, and here for 64 of them.
    torch.testing.assert_close(1 / hidden.diagonal(), diagonal, rtol=0.5, atol=0.5)


def test_the_mass_of_a_mixture_is_the_mean_precision_of_its_causes() -> None:
    network = linear()
    prior = Mixture.standard(2, 2, 0, network.layers[0].weight)
    prior.roots_KLL.copy_(torch.stack([torch.eye(2), 3 * torch.eye(2)]))
    prior.log_weights_YK.copy_(torch.tensor([[0.75, 0.25]]).log())
    network.mixture = prior
    _, latent = ErrorMass(network, hidden_data=True)([torch.eye(3).double(), torch.eye(2).double()])
    torch.testing.assert_close(latent, torch.eye(2).double() / (0.75 + 0.25 * 9))


@pytest.mark.parametrize("coordinates", ["states", "errors"])
def test_a_sample_does_not_depend_on_the_batch_it_is_in(coordinates: str) -> None:
    network = oracle.network(latent=1.0)
    target = posterior(network, coordinates=coordinates, metropolis=True, step=0.8)
    data = oracle.data(network, 12)

    def chains(rows: range) -> Tensor:
        states = network.states_from(data.new_zeros(len(rows), 3), data[rows])
        made = target.begin(states, lambda like: SampleNoise(5, "one", rows, like))
        for _ in range(30):
            made.step()
        return torch.cat(made.states[1:], 1)

    whole = chains(range(12))
    parts = torch.cat([chains(range(5)), chains(range(5, 12))])
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-9)


def test_streams_are_normal_uncorrelated_and_their_own() -> None:
    like = [torch.zeros(1, 30), torch.zeros(1, 20)]
    noise = SampleNoise(0, "a", range(2000), like)
    drawn = [torch.cat([*noise.draw(), noise.uniform_B[:, None]], 1) for _ in range(20)]
    first = drawn[0][:, :50]
    assert first.dtype == torch.float32
    assert abs(float(first.mean())) < 3 / 1e5**0.5
    assert abs(float(first.var()) - 1) < 3 * (2 / 1e5) ** 0.5
    for other in (drawn[1][:, :50], first.roll(1, 0), drawn[17][:, :50]):
        assert abs(float((first * other).mean())) < 3 / 1e5**0.5
    uniform = torch.stack([d[:, -1] for d in drawn])
    assert abs(float(uniform.mean()) - 0.5) < 3 / (12 * 4e4) ** 0.5
    again = SampleNoise(0, "a", [17], like).draw()[0]
    assert torch.equal(again[0], drawn[0][17, :30])
    assert not torch.equal(SampleNoise(0, "b", [17], like).draw()[0], again)


def test_a_step_that_diverges_names_the_largest_stable_one() -> None:
    network = linear()
    data = oracle.data(network, 1).expand(8, -1)
    stiffest = float(torch.linalg.eigvalsh(linear_hessian(network)).max())
    limit = {
        "kinetic": 2 / stiffest**0.5,
        "langevin": 2 / stiffest,
        "momentum": 2 * 1.7 / stiffest,
    }
    for solver, largest in limit.items():
        for share, diverges in ((0.97, False), (1.05, True)):
            target = posterior(
                network, solver, precondition=False, step=share * largest, friction=0.3
            )
            chains = run(target, data, 700)
            assert target.largest_step(chains) == pytest.approx(largest, rel=1e-3)
            if diverges:
                with pytest.raises(DivergenceError, match=f"stable one here is {largest:.3g}"):
                    chains.require_finite()
            else:
                chains.require_finite()


def test_what_cannot_be_sampled_is_said() -> None:
    network = linear()
    data = oracle.data(network, 2)
    with pytest.raises(RecipeError, match="where the preconditioner is off"):
        run(posterior(network, precondition=False), data, 1)
    with pytest.raises(RecipeError, match="momentum has no Metropolis test"):
        run(posterior(network, "momentum", metropolis=True, friction=0.1), data, 1)
    with pytest.raises(RecipeError, match="at most 1"):
        run(posterior(network, "momentum", friction=1.5), data, 1)
    assert posterior(network, "majorise").sampler == "kinetic"
    assert msgspec.to_builtins(SamplingTable())["persistent"] is False


def test_the_recipe_knows_which_solvers_draw() -> None:
    for solver in SOLVERS.names():
        table = InferenceTable(solver=solver)
        assert table.draws == (solver in SAMPLERS)

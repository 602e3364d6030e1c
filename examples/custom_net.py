"""Ask what the initialization of a small image classifier does to its Jacobian.

CustomNet is the network of many first tutorials: one convolution of a 32 by 32 image to
16 channels, a dense layer of 128 units, 10 outputs, relu between them. Its author has
drawn the convolution by Xavier's uniform law, the dense layers by Xavier's normal law
with the gain of relu, and set all biases to zero. Was that a good start, and would
another have been better?

Run: python examples/custom_net.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import isometry
from isometry import initializers, networks

RELU_GAIN = 2**0.5

OTHER_SCHEMES = ("xavier", "kaiming", "orthogonal", "zer_o")


class CustomNet(nn.Module):
    """The network, as its author has written it."""

    @nn.compact
    def __call__(self, images):
        convolution = nn.Conv(16, (3, 3), kernel_init=initializers.xavier_uniform())
        features = nn.relu(convolution(images))
        features = features.reshape(len(images), -1)
        features = nn.relu(self.dense(128)(features))
        return self.dense(10)(features)

    def dense(self, units):
        return nn.Dense(units, kernel_init=initializers.xavier_normal(RELU_GAIN))


def networks_to_compare():
    """Return the network as it was written, and as other schemes draw it."""
    net = networks.flax(CustomNet(), jax.ShapeDtypeStruct((32, 32, 3), jnp.float32))
    return {"as written": net, **net.with_schemes(OTHER_SCHEMES)}


def main():
    """Print the layers, the spectra of all schemes, and where the gradient goes."""
    nets = networks_to_compare()
    keys = jax.random.split(jax.random.key(0), 4)
    xs = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))

    print(nets["as written"].anatomy.table())
    print("\nSingular values of the Jacobian of the 10 outputs, 4 draws, 4 images:")
    print(f"{'':12}  mean square  largest  smallest  condition")
    for name, net in nets.items():
        sp = isometry.ensemble(net, keys, xs)
        s = jnp.sort(sp.values, axis=-1)
        print(
            f"{name:12}  {sp.moment(1).mean():11.3g}  {s[..., -1].mean():7.3g}  "
            f"{s[..., 0].mean():8.3g}  {sp.condition_number().mean():9.3g}"
        )

    print("\nMean square of d output/d point, by point:")
    profile = isometry.profile(nets["as written"], keys, xs)
    print(profile.table())


if __name__ == "__main__":
    main()

"""Ask what the initialization of a small image classifier does to its Jacobian.

CustomNet is the network of many first tutorials: one convolution of a 32 by 32 image to
16 channels, a dense layer of 128 units, 10 outputs, relu between them. Its author has
drawn the convolution by Xavier's uniform law and the dense layers by Xavier's normal
law with the gain of relu, with zero biases. Was that a good start, and would another
have been better?

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
        """Return the 10 outputs of each image."""
        convolution = nn.Conv(16, (3, 3), kernel_init=initializers.xavier_uniform())
        features = nn.relu(convolution(images))
        features = features.reshape(len(images), -1)
        features = nn.relu(dense(128)(features))
        return dense(10)(features)


def dense(units):
    """Return a dense layer with Xavier's normal law; its biases are zero in Flax."""
    return nn.Dense(units, kernel_init=initializers.xavier_normal(RELU_GAIN))


def networks_to_compare():
    """Return the network as it was written, and as other schemes draw it."""
    net = networks.flax(CustomNet(), jax.ShapeDtypeStruct((32, 32, 3), jnp.float32))
    return {"as written": net, **net.with_schemes(OTHER_SCHEMES)}


def spectra_table(nets, keys, xs):
    """Return a table with a row for each network: means over draws and images."""
    lines = [f"{'':12}  mean square  largest  smallest  condition"]
    for name, net in nets.items():
        sp = isometry.ensemble(net, keys, xs)
        s = jnp.sort(sp.values, axis=-1)
        mean_square = float(sp.moment(1).mean())
        largest = float(s[..., -1].mean())
        smallest = float(s[..., 0].mean())
        condition = float(sp.condition_number().mean())
        lines.append(
            f"{name:12}  {mean_square:11.3f}  {largest:7.3f}  {smallest:8.3f}  "
            f"{condition:9.2f}"
        )
    return "\n".join(lines)


def main():
    """Print the layers, the spectra of all schemes, and where the gradient goes."""
    nets = networks_to_compare()
    keys = jax.random.split(jax.random.key(0), 2)
    xs = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    print(nets["as written"].anatomy.table())
    print("\nSingular values of the Jacobian of the 10 outputs:")
    print(spectra_table(nets, keys, xs))
    print("\nThe same from each layer to the outputs, as written:")
    print(isometry.profile(nets["as written"], keys, xs).table())


if __name__ == "__main__":
    main()

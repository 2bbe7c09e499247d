"""The samplers of ``jax.random`` whose parameters are what JAX says they are.

They are declared for readers and type checkers, in the order that all samplers have: what the
distribution is made of, the shape, the key, the dtype. What a sampler takes by name at run time is
what the installed version of JAX says.
"""

from typing import Any, Final, TypedDict, Unpack

import jax
from jax import Array

from ._sampler import DType, Key, Measured, Numbers, Size, mirrors


class BySize(TypedDict, total=False):
    """The other name of ``shape``."""

    size: Size


class Sharded(BySize, total=False):
    """What almost all of JAX's samplers take."""

    out_sharding: Any


class Methods(Sharded, total=False):
    """What those take that newer versions of JAX have several methods for."""

    method: str


class Bounded(Sharded, total=False):
    """What JAX's uniform distribution takes."""

    minval: Numbers
    maxval: Numbers


class Chosen(Sharded, total=False):
    """What choices take."""

    axis: int
    mode: str | None


class Categorical(Sharded, total=False):
    """What choices by their logits take."""

    replace: bool
    mode: str | None


class Orthogonal(Sharded, total=False):
    """What orthogonal matrices take, which needn't be square."""

    m: int | None


class JaxSamplers:
    """The samplers, as methods of a state that has a key."""

    __slots__ = ()

    @mirrors(jax.random.ball)
    def ball(
        self,
        d: int,
        p: Numbers = 2,
        shape: Size = (),
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.beta)
    def beta(
        self,
        a: Numbers,
        b: Numbers,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Methods],
    ) -> Array: ...

    @mirrors(jax.random.bits)
    def bits(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.categorical)
    def categorical(
        self,
        logits: Numbers,
        axis: int = -1,
        shape: Size = None,
        key: Key = None,
        **kw: Unpack[Categorical],
    ) -> Array: ...

    @mirrors(jax.random.cauchy)
    def cauchy(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.choice)
    def choice(
        self,
        a: Measured,
        shape: Size = (),
        replace: bool = True,
        p: Numbers | None = None,
        key: Key = None,
        **kw: Unpack[Chosen],
    ) -> Array: ...

    @mirrors(jax.random.dirichlet)
    def dirichlet(
        self,
        alpha: Numbers,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.double_sided_maxwell)
    def double_sided_maxwell(
        self,
        loc: Measured,
        scale: Measured,
        shape: Size = (),
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[BySize],
    ) -> Array: ...

    @mirrors(jax.random.f)
    def f(
        self,
        dfnum: Numbers,
        dfden: Numbers,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.generalized_normal)
    def generalized_normal(
        self,
        p: Numbers,
        shape: Size = (),
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.loggamma)
    def loggamma(
        self,
        a: Numbers,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Methods],
    ) -> Array: ...

    @mirrors(jax.random.maxwell)
    def maxwell(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.orthogonal)
    def orthogonal(
        self,
        n: int,
        shape: Size = (),
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Orthogonal],
    ) -> Array: ...

    @mirrors(jax.random.permutation)
    def permutation(
        self,
        x: Measured,
        axis: int = 0,
        independent: bool = False,
        key: Key = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.poisson)
    def poisson(
        self,
        lam: Numbers = 1.0,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Methods],
    ) -> Array: ...

    @mirrors(jax.random.rademacher)
    def rademacher(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.rayleigh)
    def rayleigh(
        self,
        scale: Measured = 1.0,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.t)
    def t(
        self,
        df: Numbers,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    # NumPy's names of what JAX has under another one.

    @mirrors(jax.random.uniform)
    def random(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Bounded]
    ) -> Array: ...

    random_sample: Final = random
    ranf: Final = random
    sample: Final = random
    standard_cauchy: Final = cauchy
    standard_t: Final = t

    @mirrors(jax.random.exponential)
    def standard_exponential(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.gamma)
    def standard_gamma(
        self,
        a: Numbers,
        shape: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Methods],
    ) -> Array: ...

    @mirrors(jax.random.normal)
    def standard_normal(
        self, shape: Size = (), key: Key = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

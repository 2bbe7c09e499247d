"""Samplers with the arguments that JAX gives them, and some under NumPy's names too.

They are declared for readers and type checkers. What a sampler takes at run time, the installed
version of JAX says.
"""

from typing import Any, Final, Unpack

import jax
from jax import Array

from ._sampler import DType, Numbers, Options, Size, mirrors


class BySize(Options, total=False):
    """The other name of ``shape``."""

    size: Size


class Sharded(BySize, total=False):
    """What most of them take."""

    out_sharding: Any


class Methods(Sharded, total=False):
    """What those take that draw by one of several methods."""

    method: str


class JaxSamplers:
    """The samplers, as methods of a state that has a key."""

    __slots__ = ()

    @mirrors(jax.random.ball)
    def ball(
        self, d: int, p: Numbers = 2, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.bernoulli)
    def bernoulli(
        self, p: Numbers = 0.5, shape: Size = None, mode: str = "low", **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.beta)
    def beta(
        self, a: Numbers, b: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Methods]
    ) -> Array: ...

    @mirrors(jax.random.binomial)
    def binomial(
        self, n: Numbers, p: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[BySize]
    ) -> Array: ...

    @mirrors(jax.random.bits)
    def bits(self, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]) -> Array: ...

    @mirrors(jax.random.categorical)
    def categorical(
        self,
        logits: Numbers,
        axis: int = -1,
        shape: Size = None,
        replace: bool = True,
        mode: str | None = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.cauchy)
    def cauchy(self, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]) -> Array: ...

    @mirrors(jax.random.chisquare)
    def chisquare(
        self, df: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Methods]
    ) -> Array: ...

    @mirrors(jax.random.choice)
    def choice(
        self,
        a: Numbers,
        shape: Size = (),
        replace: bool = True,
        p: Numbers | None = None,
        axis: int = 0,
        mode: str | None = None,
        **kw: Unpack[BySize],
    ) -> Array: ...

    @mirrors(jax.random.dirichlet)
    def dirichlet(
        self, alpha: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.double_sided_maxwell)
    def double_sided_maxwell(
        self,
        loc: Numbers,
        scale: Numbers,
        shape: Size = (),
        dtype: DType = None,
        **kw: Unpack[BySize],
    ) -> Array: ...

    @mirrors(jax.random.f)
    def f(
        self,
        dfnum: Numbers,
        dfden: Numbers,
        shape: Size = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.generalized_normal)
    def generalized_normal(
        self, p: Numbers, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.geometric)
    def geometric(
        self, p: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.loggamma)
    def loggamma(
        self, a: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Methods]
    ) -> Array: ...

    @mirrors(jax.random.maxwell)
    def maxwell(self, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]) -> Array: ...

    @mirrors(jax.random.multinomial)
    def multinomial(
        self,
        n: Numbers,
        p: Numbers,
        *,
        shape: Size = None,
        dtype: DType = None,
        unroll: int | bool = 1,
        **kw: Unpack[BySize],
    ) -> Array: ...

    @mirrors(jax.random.multivariate_normal)
    def multivariate_normal(
        self,
        mean: Numbers,
        cov: Numbers,
        shape: Size = None,
        dtype: DType = None,
        method: str = "cholesky",
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.orthogonal)
    def orthogonal(
        self,
        n: int,
        shape: Size = (),
        dtype: DType = None,
        m: int | None = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.pareto)
    def pareto(
        self, b: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.permutation)
    def permutation(
        self, x: Numbers, axis: int = 0, independent: bool = False, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.poisson)
    def poisson(
        self, lam: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Methods]
    ) -> Array: ...

    @mirrors(jax.random.rademacher)
    def rademacher(self, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]) -> Array: ...

    @mirrors(jax.random.rayleigh)
    def rayleigh(
        self, scale: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.t)
    def t(
        self, df: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.triangular)
    def triangular(
        self,
        left: Numbers,
        mode: Numbers,
        right: Numbers,
        shape: Size = None,
        dtype: DType = None,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    @mirrors(jax.random.wald)
    def wald(
        self, mean: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.weibull_min)
    def weibull_min(
        self,
        scale: Numbers,
        concentration: Numbers,
        shape: Size = (),
        dtype: DType = None,
        **kw: Unpack[BySize],
    ) -> Array: ...

    # NumPy's names of what JAX has under another one.

    @mirrors(jax.random.uniform)
    def random(
        self,
        shape: Size = (),
        dtype: DType = None,
        minval: Numbers = 0.0,
        maxval: Numbers = 1.0,
        **kw: Unpack[Sharded],
    ) -> Array: ...

    random_sample: Final = random
    ranf: Final = random
    sample: Final = random
    standard_cauchy: Final = cauchy
    standard_t: Final = t

    @mirrors(jax.random.exponential)
    def standard_exponential(
        self, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

    @mirrors(jax.random.gamma)
    def standard_gamma(
        self, a: Numbers, shape: Size = None, dtype: DType = None, **kw: Unpack[Methods]
    ) -> Array: ...

    @mirrors(jax.random.normal)
    def standard_normal(
        self, shape: Size = (), dtype: DType = None, **kw: Unpack[Sharded]
    ) -> Array: ...

"""Spectral relevance analysis: samples are clustered by their explanations; a shortcut shows as a separate cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xaikit.core import Attribution, Categorical, Configured, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Result
from xaikit.shortcuts.maps import distributions, relevance_maps

Array = NDArray[Any]
if TYPE_CHECKING:
    AnyArray: TypeAlias = NDArray[Any]
else:
    AnyArray = np.ndarray  # pydantic checks the class alone

DENSE = 2000  # up to so many samples, the whole matrix of the graph is kept in memory


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clusters(Result):
    """The clusters that `SpRAy` finds, numbered from the largest to the smallest.

    Attributes:
        labels: cluster of each sample, (N,).
        eigenvalues: the smallest ones of the normalised graph Laplacian, ascending. As many as there are clusters lie
            near 0; then comes the eigengap.
        embedding: positions of the samples in the plane, (N, 2); samples with similar explanations are near each other.
        maps: each sample's relevance as it was compared, (N, ...), sum 1.
        seed: of the clustering and the picture.
        names: of the samples, such as their files; empty where none were passed.
    """

    labels: AnyArray
    eigenvalues: AnyArray
    embedding: AnyArray
    maps: Tensor
    seed: int | None = None
    names: tuple[str, ...] = ()

    def to_pandas(self) -> Any:
        """A table with one row for each sample: its cluster, its place in the plane (x, y), its name if it has one.

        Raises:
            MissingDependencyError: without pandas.
        """
        x, y = self.embedding.T
        names = {"name": list(self.names)} if self.names else {}
        return import_pandas().DataFrame({"cluster": self.labels, "x": x, "y": y, **names})

    @property
    def n_clusters(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max()) + 1

    @property
    def eigengaps(self) -> Array:
        """The differences of neighbouring eigenvalues: a large one after the k-th suggests k clusters."""
        return np.diff(self.eigenvalues)

    def samples(self, cluster: int) -> list[int]:
        """Samples of a cluster, the most typical (nearest to the mean map) first.

        Args:
            cluster: its number, from 0 on.

        Returns:
            Indices of the samples.

        Raises:
            InvalidInputError: for a cluster that there is not.
        """
        if (
            isinstance(cluster, bool)
            or not isinstance(cluster, (int, np.integer))
            or not 0 <= cluster < self.n_clusters
        ):
            raise InvalidInputError(f"cluster must be a whole number in 0..{self.n_clusters - 1}, got {cluster!r}")
        rows = np.flatnonzero(self.labels == cluster)
        flat = self.maps.flatten(1)[rows]
        distance = (flat - flat.mean(0)).norm(dim=1)
        return [int(rows[i]) for i in distance.argsort(stable=True)]

    def sample_names(self, cluster: int) -> list[str]:
        """Names of the samples of a cluster, the most typical first; "sample 7" where none were passed.

        Args:
            cluster: its number, from 0 on.

        Raises:
            InvalidInputError: for a cluster that there is not.
        """
        return [self.names[i] if self.names else f"sample {i}" for i in self.samples(cluster)]

    def mean_map(self, cluster: int) -> Tensor:
        """The cluster's mean relevance, of the shape of one map.

        Args:
            cluster: its number, from 0 on.

        Raises:
            InvalidInputError: for a cluster that there is not.
        """
        return self.maps[self.samples(cluster)].mean(0)

    def __repr__(self) -> str:
        sizes = np.bincount(self.labels).tolist()
        return f"Clusters({self.n_clusters} of sizes {sizes}, largest eigengap {self.eigengaps.max():.3g})"


class SpRAy(Configured):
    """Spectral relevance analysis (Lapuschkin et al. 2019, arXiv:1902.10178).

    1. Each sample's relevance: |attribution| added over channels, averaged over blocks until no side is longer than
       `size` (not the columns of a table, which have no neighbours), divided by its sum.
    2. A graph that joins each sample to its `n_neighbors` nearest ones (Euclidean), made symmetric by averaging; its
       Laplacian L = I - D^(-1/2) A D^(-1/2).
    3. Number of clusters: where the step between neighbouring eigenvalues of L is largest, up to `max_clusters`.
    4. Spectral clustering, and a picture of the samples in two dimensions, both from the same graph.

    Run it on the samples of one class, because explanations of different classes differ anyway.

    Maps are compared place by place. So a shortcut that is spread over the samples (stripes, a hue) or that moves from
    one to the other (a line) makes no cluster. `scan` finds these.

    >>> import torch
    >>> honest, cheat = torch.rand(40, 1, 8, 8), torch.rand(20, 1, 8, 8)
    >>> cheat[..., :2, :2] += 20  # these look at a corner
    >>> found = SpRAy()(torch.cat([honest, cheat]))
    >>> found.labels.tolist() == 40 * [0] + 20 * [1]
    True
    """

    n_clusters: Annotated[int | None, Int(ge=1, optional=True), "clusters; None: by the eigengap"] = None
    max_clusters: Annotated[int, Int(ge=2), "most clusters that the eigengap may choose"] = 10
    n_neighbors: Annotated[int, Int(ge=1), "neighbours that a sample is joined to"] = 10
    size: Annotated[int, Int(ge=1), "longest side of the compared maps"] = 32
    sign: Annotated[str, Categorical("absolute", "positive", search=False), "which relevance counts"] = "absolute"
    picture: Annotated[str, Categorical("tsne", "spectral", search=False), "how samples are laid out in the plane"] = (
        "tsne"
    )
    random_state: Annotated[int, Int(ge=0), "seed of the clustering and the picture"] = 0

    def __call__(self, attributions: Any, names: Sequence[Any] = ()) -> Clusters:
        """The clusters of a set of explanations.

        Args:
            attributions: (N, C, ...) or (N, F) of any explainer, or an `Attribution`.
            names: of the samples, such as their files, one for each.

        Raises:
            InvalidInputError: for fewer than three samples, more clusters than samples, no relevance at all, another
                number of names than of samples.
        """
        maps = relevance_maps(attributions, sign=self.sign)
        values = attributions.values if isinstance(attributions, Attribution) else attributions
        # The columns of a table have no neighbours that they could be averaged with.
        maps = distributions(maps) if getattr(values, "ndim", 3) == 2 else self._compared(maps)
        n = len(maps)
        if n < 3 or (self.n_clusters or 1) > n:
            raise InvalidInputError(f"clustering needs at least {max(3, self.n_clusters or 1)} samples, got {n}")
        if len(names) not in (0, n):
            raise InvalidInputError(f"names must hold one for each of {n} samples, got {len(names)}")
        n_eigenvalues = min(n, max(self.max_clusters, self.n_clusters or 1) + 1)
        eigenvalues, vectors = _spectrum(_neighbour_graph(maps, min(self.n_neighbors, n - 1)), n_eigenvalues)
        chosen = self.n_clusters or int(np.diff(eigenvalues[: self.max_clusters + 1]).argmax()) + 1
        labels, picture = self._cluster(vectors[:, :chosen]), self._picture(vectors)
        return Clusters(labels, eigenvalues, picture, maps, self.random_state, tuple(map(str, names)))

    def _compared(self, maps: Tensor) -> Tensor:
        sides = maps.shape[1:]
        if 2 <= maps.ndim <= 4 and max(sides) > self.size:
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(sides) - 1]
            block = -(-max(sides) // self.size)
            maps = pool(maps[:, None], [min(block, s) for s in sides], ceil_mode=True, count_include_pad=False)[:, 0]
        return distributions(maps)

    def _cluster(self, vectors: Array) -> Array:
        """k-means of the rows of the first k eigenvectors, each row of length 1 (Ng, Jordan, Weiss 2001)."""
        from sklearn.cluster import KMeans

        k = vectors.shape[1]
        rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = KMeans(k, n_init=10, random_state=self.random_state).fit_predict(rows)
        largest_first = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
        return np.argsort(largest_first)[labels]

    def _picture(self, vectors: Array) -> Array:
        if self.picture == "spectral":
            return vectors[:, 1:3] if vectors.shape[1] > 2 else np.pad(vectors[:, 1:], ((0, 0), (0, 1)))
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(vectors) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=self.random_state).fit_transform(vectors)


def _neighbour_graph(maps: Tensor, n_neighbors: int) -> Any:
    """The symmetric affinity matrix (N, N), sparse: 1 for mutual neighbours, 1/2 for neighbours in one direction."""
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(maps.flatten(1).numpy(), n_neighbors, include_self=False)
    return (graph + graph.T) / 2


def _spectrum(affinity: Any, count: int) -> tuple[Array, Array]:
    """The smallest eigenvalues of the normalised Laplacian, ascending, and their eigenvectors (N, count)."""
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh

    n = affinity.shape[0]
    matrix = laplacian(affinity, normed=True)
    if n <= DENSE or count >= n:
        values, vectors = eigh(matrix.toarray(), subset_by_index=(0, count - 1))
    else:
        # Lanczos finds the largest ones; those of L lie in [0, 2]. A fixed start makes it repeatable.
        from scipy.sparse import identity

        values, vectors = eigsh(2 * identity(n) - matrix, count, which="LA", v0=np.ones(n))
        values, vectors = 2 - values[::-1], vectors[:, ::-1]
    return values.clip(0), vectors

"""The task point-cloud completion: PoinTr on clouds that are seen from one side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.evaluation import evaluating
from benchmark.interface import Attachment, AttentionFactory, Columns, LossSum, Splits, mean_of
from benchmark.settings import Settings
from tasks.folders import files_in, name_below
from tasks.point_cloud_completion.controls import columns_of, control_columns
from tasks.point_cloud_completion.data import (
    CompletionData,
    DataSettings,
    Example,
    check_partial,
    load_completion_data,
    make_example,
)
from tasks.point_cloud_completion.geometry import farthest_points, gather
from tasks.point_cloud_completion.grouping import Groups, GroupSizes
from tasks.point_cloud_completion.meshes import read_cloud
from tasks.point_cloud_completion.metrics import chamfer_l1_of, nearest_distances
from tasks.point_cloud_completion.packing import DRAWN_STEP, pack
from tasks.point_cloud_completion.pointr import QUERY_NEIGHBOURS, Completion, PoinTr


class ModelSettings(Settings):
    """Sizes of PoinTr."""

    embed_dim: int = Field(default=384, ge=1)
    num_heads: int = Field(default=6, ge=1)
    num_encoder_layers: int = Field(default=6, ge=1)
    num_decoder_layers: int = Field(default=8, ge=1)
    mlp_ratio: float = Field(default=2.0, gt=0)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    num_centres: int = Field(default=512, ge=1, description="centres on the grouper's first level")
    num_proxies: int = Field(default=128, ge=1, description="centres on its second level: the encoder's tokens")
    num_neighbours: int = Field(default=16, ge=1, description="in the grouper's edge convolutions")
    group_dims: tuple[int, ...] = Field(default=(8, 32, 64, 64, 128), min_length=5, max_length=5)
    num_queries: int = Field(default=224, ge=1, description="coarse points: the decoder's tokens")
    fold_size: int = Field(default=8, ge=1, description="each query becomes a patch of fold_size² points")
    global_dim: int = Field(
        default=1024,
        ge=0,
        description="width of the feature of the whole cloud; 0: none, and the queries start from learnt places",
    )
    fold_dim: int = Field(default=256, ge=2, multiple_of=2)
    num_frequencies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="waves of each coordinate in the map of a proxy's place; 0: coordinates alone",
    )
    num_branches: int = Field(default=1, ge=0, description="so many first blocks have a branch of neighbours")

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSettings:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.num_proxies > self.num_centres or self.num_queries > self.num_centres:
            raise ValueError(
                f"num_proxies {self.num_proxies} and num_queries {self.num_queries}: at most num_centres {self.num_centres}"
            )
        if min(self.group_dims) < 1 or any(width % 4 for width in self.group_dims[1:]):
            raise ValueError(
                f"group_dims {list(self.group_dims)}: from the second on multiples of 4, because the norm has 4 groups"
            )
        return self


class EvalSettings(Settings):
    """How clouds are scored, and how many are drawn."""

    threshold: float = Field(default=0.01, gt=0, description="distance of the F-score, in the data's unit")
    num_drawn: int = Field(
        default=3, ge=0, le=8, description="number of test shapes, evenly spaced, that the record keeps"
    )


class CompletionSettings(Settings):
    """All settings of ``pointr``."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    eval: EvalSettings = EvalSettings()

    @model_validator(mode="after")
    def _centres_are_points(self) -> CompletionSettings:
        if self.model.num_centres > self.data.num_input:
            raise ValueError(
                f"model.num_centres {self.model.num_centres}: at most data.num_input {self.data.num_input}, because they are points of the input"
            )
        return self


class CompletionBatch(NamedTuple):
    """A batch of pairs, each in its model's frame."""

    partial: Tensor  # float32 (b, num_input, 3), 0 where padded
    padding: Tensor  # bool (b, num_input), True where padded
    complete: Tensor  # float32 (b, num_target, 3)
    centre: Tensor  # float32 (b, 3)
    scale: Tensor  # float32 (b,)
    groups: Groups | None  # of the partial clouds; None: the model finds them


class PointCloudCompletion:
    """The task; ``load_data`` comes before all other methods."""

    name = "point_cloud_completion"
    version = 2
    backbones = {"pointr": ("noncausal_self", "noncausal_cross")}
    settings_of = {"pointr": CompletionSettings}
    metrics = {
        "chamfer_l1": mean_of(
            "chamfer_l1",
            unit="×10⁻³",
            card="half the sum of the mean distances to the nearest point, both ways, times 1000, mean over clouds",
        ),
        "chamfer_l2": mean_of(
            "chamfer_l2",
            unit="×10⁻³",
            card="sum of the mean squared distances to the nearest point, both ways, times 1000, mean over clouds",
        ),
        "f_score": mean_of(
            "f_score",
            unit="",
            higher_is_better=True,
            card="harmonic mean of the shares of points nearer than eval.threshold (0.01) to the other cloud, mean over "
            "clouds; the partial cloud itself often wins here, since all its points are exact",
        ),
    }
    selection = "chamfer_l1"
    data: CompletionData

    def __init__(self, settings: CompletionSettings, *, backbone: str) -> None:
        if backbone not in self.backbones:
            raise ValueError(f"backbone {backbone!r}: point_cloud_completion has {', '.join(self.backbones)}")
        self.settings = settings

    def sources(self, data_root: Path) -> Collection[str]:  # noqa: ARG002  the interface's signature
        """The folder that these settings name, if it is one of ``sources.yaml``."""
        return {f"pcc/{self.settings.data.folder}"}

    def load_data(self, data_root: Path | None, cache: Path) -> Splits:
        """The pairs of the three parts; real data from ``pcc/`` of the root, or from the folder that the settings name.

        Raises ValueError, in one line, for data that can't be used.
        """
        self.cache = cache
        model = self.settings.model
        sizes = GroupSizes(model.num_centres, model.num_proxies, model.num_neighbours, QUERY_NEIGHBOURS)
        self.data = load_completion_data(self.settings.data, sizes, data_root, cache)
        # Read here, so that a bad file is told before training and not after it.
        self.scans = _read_scans(self.settings, data_root)
        return self.data.splits

    def collate(self, examples: Sequence[Example]) -> CompletionBatch:
        """A batch of these pairs; it has groups if all of them have."""
        partial, padding, complete, centre, scale, groups = zip(*examples, strict=True)
        known = None if None in groups else _wide(Groups(*map(torch.stack, zip(*groups, strict=True))))
        stack = torch.stack
        return CompletionBatch(stack(partial), stack(padding), stack(complete), stack(centre), stack(scale), known)

    def build_model(self, attention_for: AttentionFactory) -> nn.Module:
        """PoinTr in the sizes of the settings."""
        return PoinTr(attention_for=attention_for, **self.settings.model.model_dump())

    def loss(self, model: nn.Module, batch: CompletionBatch) -> LossSum:
        """CD-L1 of the coarse cloud plus CD-L1 of the dense one, summed over the batch, in the model's frame.

        Both clouds include points of the input.
        """
        if model.training and self.settings.data.mirror:
            batch = _mirrored(batch)
        made = complete_batch(model, batch)
        inputs, padding = _input_centres(batch, self.settings.model.num_queries)
        coarse, coarse_padding = _with_input(made.coarse, inputs, padding)
        dense, dense_padding = _with_input(made.dense, batch.partial, batch.padding)
        loss = sum(
            chamfer_l1_of(nearest_distances(cloud, batch.complete, predicted_padding=its)).sum()
            for cloud, its in ((coarse, coarse_padding), (dense, dense_padding))
        )
        assert isinstance(loss, Tensor)
        return LossSum(loss, len(batch.partial))

    def score(self, model: nn.Module, batch: CompletionBatch) -> Mapping[str, Tensor]:
        """The metrics of the dense cloud with the input's points, compared with the complete one.

        Distances are in the data's coordinates.
        """
        predicted, padding = predict(model, batch)
        scale, centre = batch.scale[:, None, None].double(), batch.centre[:, None].double()
        return columns_of(
            predicted.double() * scale + centre,
            batch.complete.double() * scale + centre,
            threshold=self.settings.eval.threshold,
            predicted_padding=padding,
        )

    def controls(self) -> Mapping[str, Columns]:
        """``partial``, ``mean_shape`` and ``nearest_shape`` on the test clouds."""
        return control_columns(self.data, threshold=self.settings.eval.threshold, cache=self.cache)

    def controls_after(self, num_examples: int) -> Mapping[str, Columns]:
        """``controls()`` of rules that have read only the first ``num_examples`` training examples."""
        threshold = self.settings.eval.threshold
        return control_columns(self.data, threshold=threshold, cache=self.cache, num_examples=num_examples)

    def tokens(self, batch: CompletionBatch) -> int:
        """The number of proxies and queries that encoder and decoder read."""
        return len(batch.partial) * (self.settings.model.num_proxies + self.settings.model.num_queries)

    def curves(self, model: nn.Module) -> dict[str, Any]:
        """For the figures: partial cloud, truth and completion of some test shapes.

        Real scans of the data root, if it has any, come without a truth.
        """
        test = self.data.parts[2]
        count = min(self.settings.eval.num_drawn, len(test))
        chosen = sorted(set(np.linspace(0, len(test) - 1, count).round().astype(int).tolist()))
        names = [f"{self.data.categories[test.category_of(i)]} {i}" for i in chosen]
        drawn = self._drawn(model, [test[i] for i in chosen], names, truth=True)
        scans = self.scans
        return {
            "drawn_step": DRAWN_STEP,
            "shapes": drawn,
            "scans": self._drawn(model, [scan for _, scan in scans], [name for name, _ in scans], truth=False),
        }

    def _drawn(
        self, model: nn.Module, examples: Sequence[Example], names: Sequence[str], *, truth: bool
    ) -> list[dict[str, Any]]:
        """The clouds of these examples in the model's frame, packed; attentions share the files of partial clouds and truths."""
        if not examples:
            return []
        batch = self.collate(examples)
        device = next(model.parameters()).device
        there = batch._replace(
            partial=batch.partial.to(device),
            padding=batch.padding.to(device),
            groups=None if batch.groups is None else Groups(*(x.to(device) for x in batch.groups)),
        )
        with evaluating(model):
            predicted, padding = predict(model, there)
        kept = []
        for number, (example, name) in enumerate(zip(examples, names, strict=True)):
            clouds = {"partial": example.partial[~example.padding], "completion": predicted[number].cpu()}
            if padding is not None:
                clouds["completion"] = clouds["completion"][~padding[number].cpu()]
            if truth:
                clouds["truth"] = example.complete
            packed = {key: Attachment(pack(cloud.numpy()), "bin") for key, cloud in clouds.items()}
            kept.append({"name": name, **packed})
        return kept


def _read_scans(settings: CompletionSettings, data_root: Path | None) -> list[tuple[str, Example]]:
    """Names and examples of some real scans in ``pcc/pcn-sample``; a single point stands for their complete cloud.

    Raises ValueError for a scan that can't be read or has too few points.
    """
    if data_root is None:
        return []
    num_input, found = settings.data.num_input, []
    paths = files_in(data_root / "pcc" / "pcn-sample" / "partial", ".pcd")
    for path in paths[: settings.eval.num_drawn]:
        label = name_below(path, data_root)
        cloud = read_cloud(path, label)
        check_partial(cloud, label)
        cloud = cloud[np.random.default_rng(settings.data.seed).permutation(len(cloud))[:num_input]]
        found.append((path.stem, make_example(cloud, cloud[:1], num_input, "partial", None)))
    return found


def complete_batch(model: nn.Module, batch: CompletionBatch) -> Completion:
    """The model's coarse and dense clouds of a batch."""
    return model(batch.partial, batch.padding, batch.groups)


def predict(model: nn.Module, batch: CompletionBatch) -> tuple[Tensor, Tensor | None]:
    """The predicted cloud (b, n, 3), which includes the input's points, and its padding (b, n), None if nothing is padded."""
    return _with_input(complete_batch(model, batch).dense, batch.partial, batch.padding)


def _with_input(made: Tensor, inputs: Tensor, padding: Tensor) -> tuple[Tensor, Tensor | None]:
    """The made points and the input's points as one cloud, and its padding, None if nothing is padded."""
    cloud = torch.cat((made, inputs), dim=1)
    if not bool(padding.any()):
        return cloud, None
    return cloud, torch.cat((padding.new_zeros(made.shape[:2]), padding), dim=1)


def _input_centres(batch: CompletionBatch, num: int) -> tuple[Tensor, Tensor]:
    """The first ``num`` points (b, num, 3) that farthest-point sampling takes of the input, and their padding."""
    if batch.groups is None:
        centres, padding = farthest_points(batch.partial, num, padding=batch.padding)
    else:
        centres, padding = batch.groups.centres[:, :num], batch.groups.centre_padding[:, :num]
    return gather(batch.partial, centres), padding


def _mirrored(batch: CompletionBatch) -> CompletionBatch:
    """Each pair mirrored in x and in z, each with probability 1/2; the groups stay right, since distances don't change."""
    # Drawn on the CPU, so that a seed gives the same signs on every device.
    signs = torch.ones(len(batch.partial), 1, 3)
    signs[..., [0, 2]] = torch.randint(0, 2, (len(signs), 1, 2)).float() * 2 - 1
    signs = signs.to(batch.partial.device)
    return batch._replace(partial=batch.partial * signs, complete=batch.complete * signs)


def _wide(groups: Groups) -> Groups:
    """The groups with indices of 64 bits, which PyTorch needs; they are kept in 16."""
    return Groups(*(tensor if tensor.dtype == torch.bool else tensor.long() for tensor in groups))

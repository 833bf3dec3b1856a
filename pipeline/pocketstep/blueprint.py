"""From a student to its plan: traced, roles given, every signature written down, state as the cloud leaves it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketstep import targets
from pocketstep.compile import projection, training
from pocketstep.compile import signatures as sig
from pocketstep.compile.class_covariances import count_directions, directions_of, turned, with_places
from pocketstep.compile.graph import module_path
from pocketstep.compile.operators import Pair
from pocketstep.compile.quantised import round_prefix
from pocketstep.compile.sharing import compact_convolutions
from pocketstep.compile.signatures import LearningModel, Quantisation, Signature
from pocketstep.compile.trace import trace
from pocketstep.compile.walk import Kernels, Walk, initial_state
from pocketstep.data import Dataset, Images, normalisation
from pocketstep.decouple.surgery import Decoupling, decoupling_of
from pocketstep.plan import Preset, make_plan
from pocketstep.recipe import Recipe
from pocketstep.request import Request
from pocketstep.training import prepare
from pocketstep_device.errors import InputError

GRIDS: tuple[Pair, ...] = ((4, 4), (4, 2), (2, 2), (2, 1))
"""That pool a latent: rows before columns, for pictures differ more from top to bottom than from left to right."""
POOLED = 256


@dataclass(frozen=True)
class Blueprint:
    """What a bundle is made of before its programs are exported."""

    request: Request
    model: LearningModel
    signatures: dict[str, Signature]
    state: dict[str, Tensor]
    decoupling: Decoupling | None = None


def request_of(recipe: Recipe, data: Dataset, decoupling: Decoupling | None = None) -> Request:
    """What a recipe asks for, of a network that knows the classes of ``data``; paths are trained with all their taps.

    Raises:
        InputError: there are not as many spare paths as spare classes.
    """
    if decoupling and (decoupling.rest or decoupling.spare != recipe.plan.spare_classes):
        raise InputError(
            f"the network has {decoupling.spare} spare paths and the recipe's plan {recipe.plan.spare_classes} spare "
            "classes: a new class needs a path, so set decouple.spare_paths = plan.spare_classes"
        )
    mean, std = normalisation(data)
    height, width, channels = data.images.shape[1:]
    return Request(
        recipe.name, data.classes, (height, width, channels), mean, std, cast(Preset, recipe.plan.preset),
        recipe.plan.cut or None, spare_classes=recipe.plan.spare_classes, pooled_cells=recipe.plan.pooled_cells,
        expansion=recipe.plan.expansion, directions=recipe.plan.directions, mirrored=recipe.plan.mirrored,
        roles=[(layer, "full") for layer in decoupling.layers] if decoupling else (),
        batch=recipe.plan.batch, replay_per_class=recipe.replay.per_class, seed=recipe.data.seed,
    )  # fmt: skip


def plan_student(student: nn.Module, request: Request, data: Dataset | None) -> Blueprint:
    """Traces the student, assigns roles, finds the cut, and writes down every signature.

    Without ``data`` the latents' range comes from made-up images, and the closed form begins without statistics.
    """
    model = learning_model(student, request, data.images[:256] if data else made_up_images(request.input_shape))
    trained = initial_state(model.network, model.plan)
    features = None
    if data:
        features = targets.joined_features(model, trained, data.images)
        model = replace(model, origin=features.mean(0))
        features = features - model.origin
        model = replace(model, directions=_directions(request, features, torch.from_numpy(data.labels)))
        if model.directions is not None:
            features = with_places(features, model.directions)
    batch = request.batch
    made = [
        sig.encode(model, batch),
        sig.classify(model, batch),
        training.step(model, batch, request.step),
        training.score(model, batch, request.step),
        sig.statistics(model, batch),
        sig.solve(model),
    ]
    if request.step.projection != "none":
        made.append(projection.project(model, request.step))
    if request.plain:
        made.append(sig.plain(model, batch))
    state = targets.initial_state(model, request, trained, data, features)
    return Blueprint(request, model, {s.name: s for s in made}, state, decoupling_of(student))


def _directions(request: Request, features: Tensor, labels: Tensor) -> Tensor | None:
    if request.expansion:
        return None
    found = directions_of(features, count_directions(request.directions, features.shape[1], request.slots))
    return turned(found, features, labels) if len(found) else None


def learning_model(student: nn.Module, request: Request, images: Images) -> LearningModel:
    """The traced network with its plan; ``images`` give the latents' range.

    Raises:
        InputError: the network cannot be traced or planned as asked, or has not as many outputs as classes.
    """
    height, width, channels = request.input_shape
    network = trace(student, (channels, height, width))
    outputs = int(network.output.meta["val"].shape[1])
    if outputs != len(request.classes):
        raise InputError(
            f"the network gives {outputs} logits, but {len(request.classes)} classes are named; name each output once"
        )
    plan = make_plan(
        network, request.preset, request.slots, request.cut, roles=request.roles,
        input_gradient=request.input_gradient, gradient_filter=request.gradient_filter,
    )  # fmt: skip
    if request.prefix_bits == 8:
        round_prefix(network, plan)
    sample = prepare(images, request.mean, request.std)
    latent = Walk(network, plan, Kernels(), {}).prefix(sample.permute(0, 2, 3, 1)).detach()
    cells = choose_cells(request.pooled_cells, latent.shape[1], latent.shape[2], latent.shape[3], module_path(plan.cut))
    kernels = Kernels(compact=compact_convolutions(network, plan, request.batch, request.allowance))
    model = LearningModel(
        network, plan, Quantisation.of(latent), request.mean, request.std, request.input_shape,
        (latent.shape[1] * (2 if request.mirrored else 1), latent.shape[2], latent.shape[3]), cells, torch.zeros(()),
        kernels=kernels, expansion=request.expansion, mirrored=request.mirrored,
    )  # fmt: skip
    return replace(model, origin=torch.zeros(model.joined_size))


def choose_cells(wanted: int | None, height: int, width: int, channels: int, cut: str) -> Pair:
    """Rows and columns of the grid that pools the latent: as many a side as asked for, or the most of ``GRIDS``
    within ``POOLED`` values.

    None for a latent of one pixel, which is (nearly) the penultimate features.

    Raises:
        InputError: the number asked for does not divide the latent's sides.
    """
    if wanted is None:
        if height * width == 1:
            return 0, 0
        fits = (g for g in GRIDS if height % g[0] == width % g[1] == 0 and g[0] * g[1] * channels <= POOLED)
        return next(fits, (1, 1))
    if height % wanted or width % wanted:
        raise InputError(
            f"{wanted} pooled cells do not divide the latent's {height} x {width} pixels after '{cut}'; "
            "choose a divisor (plan.pooled_cells in a recipe)"
        )
    return wanted, wanted


def made_up_images(shape: tuple[int, int, int], count: int = 64) -> Images:
    """Smooth noise of every contrast, uint8 (count, H, W, C): a stand-in where nobody gave images."""
    generator = torch.Generator().manual_seed(0)
    height, width, channels = shape
    scales = [torch.rand(count, channels, -(-height // s), -(-width // s), generator=generator) for s in (1, 4, 16)]
    grown = [F.interpolate(x, size=(height, width), mode="bilinear") for x in scales]
    contrast = torch.linspace(0.2, 1.0, count).view(-1, 1, 1, 1)
    noise = (sum(grown) / 3 - 0.5) * 2.5 * contrast + 0.5
    images: Images = (noise.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return images

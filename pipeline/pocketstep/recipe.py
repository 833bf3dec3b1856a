"""Recipes: TOML files that say everything a bundle is made from; each table is a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketstep.toml_tables import parse, read


@dataclass(frozen=True)
class DataRecipe:
    """Which images, and how many classes the cloud knows; the rest are for devices.

    ``held_back`` is the share of the cloud's images that no training sees: on the device they judge updates.
    ``folder`` is where the images are (``--data`` goes before it), ``size`` the side that pictures are brought to
    (0: as they are). ``per_image`` normalises each image by its own mean and deviation, which bundles cannot.
    ``cloud_images`` is how many images of each class the cloud has, the others being what devices see (0: all, and
    devices see them too). A recipe with [fleet] or [measures] may leave no class for devices.
    """

    name: str
    cloud_classes: int
    held_back: float
    seed: int
    size: int = 0
    folder: str = ""
    per_image: bool = False
    cloud_images: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How a network is trained; see ``pocketstep.training.fit``."""

    epochs: int
    batch: int
    learning_rate: float
    augment: bool
    seed: int
    shift: int = 1
    mirror: bool = False
    cutout: int = 0
    schedule: str = "cosine"
    small_first: bool = False
    precision: str = "float32"


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe(TrainingRecipe):
    """The teacher: a ``network`` by name, or a residual network of ``widths`` with ``blocks`` a group."""

    network: str = ""
    widths: tuple[int, ...] = ()
    blocks: int = 0


@dataclass(frozen=True)
class CompressRecipe:
    """Shallow and thin (Zhao et al. section 3).

    ``pattern`` names the groups' blocks where they are not found by themselves. ``importance`` other than
    ``activation`` is one of Torch-Pruning's criteria, and ``pruning_ratio`` then the share of channels to remove.
    """

    shallow: bool
    threshold: float
    images_per_class: int
    round_to: int
    min_width: int
    pattern: str = ""
    importance: str = "activation"
    pruning_ratio: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TransferRecipe(TrainingRecipe):
    """Knowledge transfer (Zhao et al. section 4.1) or what it is compared with.

    ``method`` is ``blocks``, ``features`` (see ``FeatureTransfer``), ``hinton``, ``fitnet`` or ``none`` (an independent
    student); ``trainable`` is ``all`` or ``last`` (the last convolution of each group, and the head); ``temperature``
    softens ``hinton`` and ``fitnet``;
    ``mix`` mixes images in pairs, which have no label then: only for ``blocks`` with no weight on labels.
    """

    weights: tuple[float, ...]
    mix: bool = False
    method: str = "blocks"
    trainable: str = "all"
    temperature: float = 4.0


@dataclass(frozen=True, kw_only=True)
class DecoupleRecipe(TrainingRecipe):
    """How a network is split into paths, one a class (TeAM), and how the paths are fine-tuned.

    ``setting`` is TeAM's: ``3_4%`` for the last 3 convolutions and 4 % of their filters a path. ``base`` is ``teacher``
    or ``student``. ``images_per_class`` score the filters; ``spare_paths`` wait for classes that devices find.
    """

    setting: str
    images_per_class: int
    spare_paths: int
    base: str = "teacher"


@dataclass(frozen=True, kw_only=True)
class FleetRecipe:
    """What ``pocketstep fleet`` simulates.

    Attributes:
        clients: devices.
        rounds: of training and averaging.
        share: of the devices, asked in a round.
        method: see ``pocketstep.federate.methods``.
        classes_per_client: classes that a device sees, the cloud's or new ones.
        images_per_client: how many it observes; of each class half as many as of the one before (imbalanced).
        defended: norms are clipped and means trimmed; false: the plain average.
        seed: of who sees what, and of who is asked.
        noise: multiplier of a private average's noise, with ``norm`` as the bound of what a device changes, in place of
            ``defended`` (see ``pocketstep.federate.privacy``); 0 for none.
    """

    clients: int
    rounds: int
    share: float
    method: str
    classes_per_client: int
    images_per_client: int
    defended: bool = True
    seed: int = 0
    noise: float = 0.0
    norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GrowthRecipe:
    """A device that learns one class after the other, on top of a base of other data (TeAM section 3.2).

    Attributes:
        base: name of the base's data set, in the same folder as the recipe's.
        base_classes: how many of its classes a base knows, a base each; each is trained like the recipe's teacher, in
            ``epochs``, and split like it; its paths are fine-tuned in a quarter of them.
        added: how many of the recipe's classes the device learns then, the first ones.
        images: of each, that it sees.
        test_images: of each class, that it is judged with.
        methods: schedules of the bundle.
    """

    base: str
    base_classes: tuple[int, ...]
    epochs: int
    added: int
    images: int
    test_images: int = 100
    methods: tuple[str, ...] = ("auto",)


@dataclass(frozen=True, kw_only=True)
class MeasuresRecipe:
    """What ``pocketstep bench fleet`` measures beside each class's path and the recipe's own fleet.

    Attributes:
        baselines: other methods for the same fleet.
        specialise: classes of a specialised network; none where empty.
        growth: classes that come one by one.
    """

    baselines: tuple[str, ...] = ()
    specialise: tuple[str, ...] = ()
    growth: GrowthRecipe | None = None


@dataclass(frozen=True)
class PlanRecipe:
    """Roles, cut, room for new classes, and the batch that the programs are made for.

    ``expansion`` (random features of the closed form), ``directions`` (of classes' own covariances) and ``mirrored``
    (looks at mirror images, too): see ``Request``.
    """

    preset: str
    cut: str
    spare_classes: int
    pooled_cells: int
    batch: int
    expansion: int = 0
    directions: int | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class ReplayRecipe:
    """How many of the training images of each class go along as latents."""

    per_class: int


@dataclass(frozen=True, kw_only=True)
class IncrementRecipe(TransferRecipe):
    """How a student of the cloud's classes learns the next one from that class's images (Zhao et al. section 5.2.1).

    ``replay`` are numbers of images of each old class that are learnt along, a row of the table each.
    """

    replay: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class UnseenRecipe(TransferRecipe):
    """How a student learns from unlabelled images of ``classes`` to tell the others (Zhao et al. section 5.2.2)."""

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    """What ``pocketstep bench compress`` measures, with a teacher of all classes unless said otherwise.

    Attributes:
        thresholds: P of each student.
        criteria: Torch-Pruning's, to compare with at equal parameters.
        criteria_at: the thresholds whose students' sizes they are given.
        methods: of transfer, to compare with ``blocks``; ``scratch`` is an independent student from random weights.
        methods_at: the threshold of the student that they train.
        short: shares of the images with which ``blocks`` is tried again, in as many epochs, so in fewer steps.
        longer: times as many epochs with which ``scratch`` is tried again: what it takes without a teacher.
        watch_every: steps between two points of a curve.
        published: (threshold, accuracy in percent, millions of parameters) of the paper, to print beside.
        increment: 9+1 classes.
        unseen: classes without labels.
    """

    thresholds: tuple[float, ...]
    criteria: tuple[str, ...] = ()
    criteria_at: tuple[float, ...] = ()
    methods: tuple[str, ...] = ()
    methods_at: float = 0.9
    short: tuple[float, ...] = ()
    longer: tuple[int, ...] = ()
    watch_every: int = 100
    published: tuple[tuple[float, ...], ...] = ()
    increment: IncrementRecipe | None = None
    unseen: UnseenRecipe | None = None


@dataclass(frozen=True)
class Recipe:
    """All of it; ``threads`` is what training uses (0: all cores)."""

    name: str
    threads: int
    data: DataRecipe
    teacher: TeacherRecipe
    compress: CompressRecipe
    transfer: TransferRecipe
    plan: PlanRecipe
    replay: ReplayRecipe
    study: StudyRecipe | None = None
    decouple: DecoupleRecipe | None = None
    fleet: FleetRecipe | None = None
    measures: MeasuresRecipe | None = None


def load_recipe(path: str | Path) -> Recipe:
    """Reads a recipe: a file, or the name of one that comes with pocketstep (``digits``).

    Raises:
        InputError: no such recipe, no TOML, or a missing, unknown or mistyped key.
    """
    from pocketstep.recipe_checks import check_recipe

    file, content = read(path, "digits")
    recipe = parse(Recipe, {"name": file.stem, **content}, "")
    check_recipe(recipe)
    return recipe
